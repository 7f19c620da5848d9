"""Partitions on real servers: the computed leaf is the server's, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from pgroute import NotPartitioned, PartitionMismatch, UncomputableKey
from pgroute.partitions import Partitions, load, routing
from pgroute.partitions.check import draw
from pgroute.partitions.report import report, tables
from pgroute.partitions.skew import skew
from tests.servers import Servers, port

Connection = psycopg.Connection[tuple[Any, ...]]

pytestmark = pytest.mark.integration

_HASH = [
    "h1 partition of {} for values with (modulus 2, remainder 1)",
    "h2 partition of {} for values with (modulus 4, remainder 0)",
    "h3 partition of {} for values with (modulus 8, remainder 2)",
    "h4 partition of {} for values with (modulus 8, remainder 6)",
]
_TABLES = {
    "hash_uuid": ("k uuid", "hash (k)", _HASH),
    "hash_int2": ("k int2", "hash (k)", _HASH),
    "hash_int4": ("k int4", "hash (k)", _HASH),
    "hash_int8": ("k int8", "hash (k)", _HASH),
    "hash_text": ("k text", "hash (k)", _HASH),
    "hash_text_icu": ('k text collate "und-x-icu"', "hash (k)", _HASH),
    "hash_varchar": ("k varchar(12)", "hash (k)", _HASH),
    "hash_date": ("k date", "hash (k)", _HASH),
    "hash_timestamp": ("k timestamp", "hash (k)", _HASH),
    "hash_timestamptz": ("k timestamptz", "hash (k)", _HASH),
    "hash_timestamptz_3": ("k timestamptz(3)", "hash (k)", _HASH),
    "hash_timestamp_0": ("k timestamp(0)", "hash (k)", _HASH),
    "hash_bytea": ("k bytea", "hash (k)", _HASH),
    "hash_bool": (
        "k bool",
        "hash (k)",
        [
            "h1 partition of {} for values with (modulus 7, remainder 0)",
            "h2 partition of {} for values with (modulus 7, remainder 4)",
            "h3 partition of {} for values with (modulus 7, remainder 5)",
        ],
    ),
    "hash_four": ('"K 1" uuid, b int4, c text, d timestamptz', 'hash (b, "K 1", d, c)', _HASH),
    "range_date": (
        "k date",
        "range (k)",
        [
            "r1 partition of {} for values from (minvalue) to ('1970-01-01')",
            "r2 partition of {} for values from ('2023-01-01') to ('2024-01-01')",
            "r3 partition of {} for values from ('2024-01-01') to ('infinity')",
            "r4 partition of {} default",
        ],
    ),
    "range_text": (
        'k text collate "C"',
        "range (k)",
        [
            "t1 partition of {} for values from ('A') to ('a''\\')",
            "t2 partition of {} for values from ('a''\\') to ('ß')",
            "t3 partition of {} default",
        ],
    ),
    "range_bytea_int2": (
        "k bytea, n int2",
        "range (n, k)",
        [
            "b1 partition of {} for values from (-7, minvalue) to (5, '\\x00ff')",
            "b2 partition of {} for values from (5, '\\x00ff') to (5, maxvalue)",
            "b3 partition of {} default",
        ],
    ),
    "range_moments": (
        "k timestamptz, u uuid",
        "range (k, u)",
        [
            "m1 partition of {} for values from ('-infinity', minvalue)"
            " to ('2020-02-29 12:00:00.5+3', '80000000-0000-0000-0000-000000000000')",
            "m2 partition of {} for values from ('2020-02-29 12:00:00.5+3',"
            " '80000000-0000-0000-0000-000000000000') to (maxvalue, maxvalue)",
            "m3 partition of {} default",
        ],
    ),
    "list_text": (
        "k text",
        "list (k)",
        [
            "l1 partition of {} for values in ('de', 'it''s', '')",
            "l2 partition of {} for values in ('a, b', null)",
            "l3 partition of {} default",
        ],
    ),
    "list_bool": ("k bool", "list (k)", ["v1 partition of {} for values in (true)",
                                         "v2 partition of {} for values in (false, null)"]),
    "levels": (
        "day date, k uuid, kind int4",
        "range (day)",
        [
            "y1 partition of {} for values from ('2023-01-01') to ('2024-01-01')"
            " partition by hash (k)",
            "y1_a partition of part.levels_y1 for values with (modulus 3, remainder 0)",
            "y1_b partition of part.levels_y1 for values with (modulus 3, remainder 1)",
            "y1_c partition of part.levels_y1 for values with (modulus 3, remainder 2)"
            " partition by list (kind)",
            "y1_c1 partition of part.levels_y1_c for values in (1, -1)",
            "y1_c2 partition of part.levels_y1_c default",
            "y2 partition of {} default",
        ],
    ),
}  # fmt: skip
_KEYS_PER_TABLE = 1200


@pytest.fixture(scope="module")
def schema(servers: Servers) -> Iterator[Servers]:
    """A schema ``part`` with a table of every kind."""
    words = ["set role app_owner", "create schema part", "grant usage on schema part to public"]
    for name, (columns, by, parts) in _TABLES.items():
        words.append(f"create table part.{name} ({columns}) partition by {by}")
        words += [f"create table part.{name}_{part.format(f'part.{name}')}" for part in parts]
    # No test writes to it, so that no autovacuum has a reason to analyse it.
    words.append("create table part.untouched (k uuid) partition by hash (k)")
    words += [f"create table part.untouched_{part.format('part.untouched')}" for part in _HASH]
    words.append("grant select, insert, delete on all tables in schema part to app_rw")
    servers.sql("pg1", ";\n".join(words), database="app")
    yield servers
    servers.sql("pg1", "drop schema part cascade", database="app")


@pytest.fixture
def connection(schema: Servers) -> Iterator[Connection]:
    with psycopg.connect(
        host="127.0.0.1",
        port=port("pg1"),
        user="app_rw",
        dbname="app",
        passfile=str(schema.passfile),
        autocommit=True,
    ) as opened:
        # Bounds must be read alike in a session with other ways to print.
        opened.execute("set datestyle = 'SQL, DMY'; set timezone = 'Asia/Kolkata'")
        opened.execute("set bytea_output = 'escape'")
        yield opened


def keys_of(partitions: Partitions, random: Random) -> list[tuple[Any, ...]]:
    """Random keys, near bounds and anywhere, that some partition takes."""
    drawn = draw(partitions.layout, random, keys_per_leaf=_KEYS_PER_TABLE // 4)
    rows = [tuple(row) for rows in drawn.values() for row in rows]
    while len(rows) < _KEYS_PER_TABLE:
        row = tuple(
            None if random.random() < 0.03 else column.type.sample(random)
            for column in partitions.layout.columns
        )
        if partitions.layout.root.leaf(row) is not None:
            rows.append(row)
    return rows


@pytest.mark.parametrize("name", _TABLES)
def test_the_computed_leaf_is_the_one_the_server_chooses(connection: Connection, name: str) -> None:
    partitions = Partitions.read(connection, f"part.{name}", random=Random(1))
    rows = keys_of(partitions, Random(name))
    names = sql.SQL(", ").join(map(sql.Identifier, partitions.columns))
    computed = [leaf and leaf.label for leaf in partitions.leaves_of(rows)]
    assert computed == [partitions.leaf(row) for row in rows]

    # The rows go through the parent, each in its own place in time, and the server tells where.
    table = sql.SQL(partitions.table)
    values = sql.SQL(", ").join(sql.SQL("%s") for _ in partitions.columns)
    insert = sql.SQL("insert into {} ({}) values ({}) returning tableoid::regclass::text")
    chosen = []
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        cursor.executemany(insert.format(table, names, values), rows, returning=True)
        for _ in rows:
            chosen += [row[0] for row in cursor.fetchall()]
            cursor.nextset()
    assert len(chosen) == len(rows) >= _KEYS_PER_TABLE
    wrong = [pair for pair in zip(rows, computed, chosen, strict=True) if pair[1] != pair[2]]
    assert not wrong
    assert len(set(chosen)) == len(partitions.leaves), "chance has found every leaf"


def test_twenty_thousand_keys_are_compared() -> None:
    assert _KEYS_PER_TABLE * len(_TABLES) >= 20_000


def test_a_server_that_disagrees_ends_all_computing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions = Partitions.read(connection, "tbl_users")
    assert partitions.checked_keys == 8 * len(partitions.leaves)
    monkeypatch.setattr(routing, "combine", lambda row_hash, value_hash: row_hash ^ value_hash)
    with pytest.raises(PartitionMismatch, match="tbl_users: the server does not put"):
        partitions.check(connection)
    monkeypatch.undo()
    with pytest.raises(PartitionMismatch):
        partitions.leaf(UUID(int=0))
    monkeypatch.setattr(routing, "combine", lambda row_hash, value_hash: row_hash ^ value_hash)
    with pytest.raises(PartitionMismatch):
        Partitions.read(connection, "tbl_users")


REFUSED = [
    ("k numeric", "hash (k)", "column k", "numeric", "not computed here"),
    ("k float8", "range (k)", "column k", "double precision", "not computed here"),
    ("k char(5)", "list (k)", "column k", "character(5)", "not computed here"),
    ("k part.mood", "hash (k)", "column k", "part.mood", "not computed here"),
    ("k part.short", "hash (k)", "column k", "part.short", "not computed here"),
    ("k int, l int", "hash (l, (k + 1))", "an expression", "unknown", "only plain columns"),
    ("k int", "hash (k part.own_ops)", "column k", "integer", "operator class own_ops"),
    ("k text", "hash (k text_pattern_ops)", "column k", "text", "operator class text_pattern_ops"),
    ("k text collate part.nodet", "hash (k)", "column k", "text", "not deterministic"),
    ("k text collate part.nodet", "list (k)", "column k", "text", "not deterministic"),
    ('k text collate "und-x-icu"', "range (k)", "column k", "text", "does not sort by bytes"),
    ("k varchar", "range (k)", "column k", "character varying", "does not sort by bytes"),
]


@pytest.fixture(scope="module")
def odd(schema: Servers) -> None:
    words = """
        create type part.mood as enum ('good', 'bad');
        create domain part.short as int check (value < 100);
        create collation part.nodet (provider = icu, locale = 'und', deterministic = false);
        create function part.own_hash(int, int8) returns int8 language sql immutable
            return $1 + $2;
        create operator class part.own_ops for type int using hash as
            operator 1 =, function 2 part.own_hash(int, int8);
        grant all on schema part to app_owner;
    """
    for at, (columns, by, *_) in enumerate(REFUSED):
        words += f"create table part.refused_{at} ({columns}) partition by {by};"
    schema.sql("pg1", words, database="app")


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize("at", range(len(REFUSED)), ids=lambda at: REFUSED[at][4])
def test_a_key_that_cannot_be_computed_is_refused(connection: Connection, at: int) -> None:
    _, _, key, sql_type, reason = REFUSED[at]
    with pytest.raises(UncomputableKey, match=reason) as refusal:
        Partitions.read(connection, f"part.refused_{at}")
    assert (refusal.value.table, refusal.value.key, refusal.value.sql_type) == (
        f"part.refused_{at}",
        key,
        sql_type,
    )


def test_a_table_without_partitions_is_refused(connection: Connection) -> None:
    with pytest.raises(NotPartitioned, match=r"part\.levels_y2 is not a partitioned table"):
        Partitions.read(connection, "part.levels_y2")
    with pytest.raises(psycopg.errors.UndefinedTable):
        Partitions.read(connection, "part.none_such")


def test_leaves_that_no_key_of_python_reaches_are_no_others_way(connection: Connection) -> None:
    bounds = [
        ("0044-03-15 BC", "0001-02-29 BC"),
        ("0001-02-29 BC", "3000-01-01"),
        ("3000-01-01", "10000-01-01"),
        ("10000-01-01", "infinity"),
        ("0401-02-29 BC", "0044-03-15 BC"),
    ]
    with connection.transaction(force_rollback=True):
        connection.execute("create temp table eras (k timestamp) partition by range (k)")
        for at, pair in enumerate(bounds):
            part = "create temp table eras_{} partition of eras for values from ('{}') to ('{}')"
            connection.execute(part.format(at, *pair).encode())
        found = Partitions.read(connection, "eras")
        literals = [literal for pair in bounds for literal in pair if literal != "infinity"]
        server = connection.execute(
            "select (extract(epoch from bound - timestamp '2000-01-01') * 1000000)::int8 "
            "from unnest(%s::timestamp[]) as bound",
            (literals,),
        ).fetchall()
    parse = found.layout.columns[0].type.parse
    assert [parse(literal.replace(" BC", "") + " 00:00:00" + " BC" * ("BC" in literal))
            for literal in literals] == [row[0] for row in server]  # fmt: skip
    assert found.leaf(datetime(2024, 1, 1)) == "eras_1"
    assert found.checked_keys == 2 * 8


def test_a_server_of_version_14_tells_its_layout(connection: Connection) -> None:
    """Its pg_database has no column datlocprovider: every database is libc's there."""
    view = (
        "create or replace temp view pg_database as "
        "select datname, {} as datcollate from pg_catalog.pg_database"
    )
    with connection.transaction(force_rollback=True):
        connection.execute("create temp table plain (k text) partition by range (k)")
        connection.execute(
            "create temp table plain_1 partition of plain for values from (minvalue) to ('b')"
        )
        connection.execute("set local search_path = pg_temp, pg_catalog, public")
        connection.execute(view.format("datcollate").encode())
        with pytest.raises(UncomputableKey, match="does not sort by bytes"):
            Partitions.read(connection, "plain")
        connection.execute(view.format("'C' collate \"C\"").encode())
        assert Partitions.read(connection, "plain").leaf("a") == "plain_1"


@pytest.mark.parametrize("column", ["50 % off", "%s", "%(a)s {0}", '"'])
@pytest.mark.parametrize(
    ("by", "bound"),
    [
        ("list", "in (1)"),
        ("range", "from (1) to (9)"),
        ("hash", "with (modulus 1, remainder 0)"),
    ],
)
def test_a_key_column_may_have_any_name(
    connection: Connection, column: str, by: str, bound: str
) -> None:
    name = '"' + column.replace('"', '""') + '"'
    with connection.transaction(force_rollback=True):
        table = f"create temp table strange ({name} int) partition by {by} ({name})"
        connection.execute(table.encode())
        part = f"create temp table strange_1 partition of strange for values {bound}"
        connection.execute(part.encode())
        found = Partitions.read(connection, "strange")
    assert found.checked_keys == 8
    assert found.leaf({column: 1}) == "strange_1"


def test_reading_a_layout_leaves_no_setting_behind(connection: Connection) -> None:
    with connection.transaction():
        Partitions.read(connection, "part.range_date")
        shown = connection.execute("select '2024-02-01'::date::text, '\\xff'::bytea::text")
        assert shown.fetchone() == ("01/02/2024", "\\377")


def test_a_replica_tells_the_layout_too(schema: Servers, connection: Connection) -> None:
    with psycopg.connect(
        host="127.0.0.1",
        port=port("pg2"),
        user="app_ro",
        dbname="app",
        passfile=str(schema.passfile),
    ) as replica:
        there = Partitions.read(replica, "sales")
    here = Partitions.read(connection, "sales")
    assert [leaf.label for leaf in there.leaves] == [leaf.label for leaf in here.leaves]
    assert there.leaf(date(2024, 5, 5)) == "sales_2024"
    assert Partitions.read(connection, "part.hash_timestamptz").leaf(
        datetime(2024, 1, 1, tzinfo=UTC)
    )


def test_the_report_tells_layout_self_test_and_skew(connection: Connection) -> None:
    random = Random(5)
    rows = [(UUID(int=random.getrandbits(128)),) for _ in range(4_000)]
    with connection.transaction(force_rollback=True):
        done = load(connection, "part.hash_uuid", ("k",), rows, by_leaf=True)
        partitions = Partitions.read(connection, "part.hash_uuid")
        found = skew(connection, partitions, exact=True)
        counted = {at.leaf.label: at.rows for at in found.leaves}
        assert counted == done.parts[0].rows_by_table
        assert [at.expected for at in found.leaves] == [0.5, 0.25, 0.125, 0.125]
        assert all(at.size_bytes > 0 for at in found.leaves)
        assert not found.skewed
        words = report(connection, "part.hash_uuid", exact=True)
        connection.execute("delete from part.hash_uuid_h1")
        assert skew(connection, partitions, exact=True).skewed
    assert "part.hash_uuid, by hash of k uuid" in words
    assert "the server agrees on the leaf of 32 made-up keys" in words
    assert "part.hash_uuid: even" in words


def test_estimates_are_unknown_until_the_table_is_analysed(connection: Connection) -> None:
    found = skew(connection, Partitions.read(connection, "part.untouched"))
    assert {at.rows for at in found.leaves} == {None}
    assert "rows (estimated)" in found.text()


def test_rows_are_counted_by_whoever_may_read_the_table(
    schema: Servers, connection: Connection
) -> None:
    """What is granted on a table is not granted on its partitions, and need not be."""
    schema.sql("pg1", "revoke all on part.untouched_h1 from app_rw", database="app")
    rows = [(UUID(int=number),) for number in range(100)]
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        cursor.executemany("insert into part.untouched values (%s)", rows)
        partitions = Partitions.read(connection, "part.untouched")
        found = skew(connection, partitions, exact=True)
    assert sum(at.rows or 0 for at in found.leaves) == 100
    assert all(at.rows for at in found.leaves)
    none = skew(connection, partitions, exact=True)
    assert {at.rows for at in none.leaves} == {0}


def test_a_table_in_a_schema_that_may_not_be_used_is_not_listed(
    schema: Servers, connection: Connection
) -> None:
    schema.sql(
        "pg1",
        "create schema hidden; create table hidden.t (k int) partition by hash (k); "
        "grant select on hidden.t to app_rw",
        database="app",
    )
    try:
        assert "hidden.t" not in tables(connection)
    finally:
        schema.sql("pg1", "drop schema hidden cascade", database="app")


def test_the_partitioned_tables_are_listed(connection: Connection) -> None:
    assert {"tbl_users", "sales", "part.levels"} <= set(tables(connection))
    assert "part.levels_y1" not in tables(connection)
