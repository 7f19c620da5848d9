"""Bulk load on real servers: every row once and in its leaf, or not at all and said so."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgroute import Router
from pgroute.errors import LoadFailed
from pgroute.partitions import Outcome, Partitions
from pgroute.partitions import load as load_on_one
from tests.servers import Servers, port

Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[Any, ...]

pytestmark = pytest.mark.integration

COLUMNS = ("id", "name", "n")
load = partial(load_on_one, connections=4)
_SCHEMA = """
set role app_owner;
create schema bulk;
grant usage on schema bulk to public;
create table bulk.people (
    id uuid primary key, name varchar(20) not null check (name <> 'bad'), n int4,
    unique (id, n) deferrable initially deferred
) partition by hash (id);
create table bulk.p0 partition of bulk.people for values with (modulus 4, remainder 0);
create table bulk.p1 partition of bulk.people for values with (modulus 4, remainder 1);
create table bulk.p2 partition of bulk.people for values with (modulus 4, remainder 2);
create table bulk.p3 partition of bulk.people for values with (modulus 4, remainder 3);
create table bulk.later (id uuid, n int4, unique (id, n) deferrable initially deferred)
    partition by hash (id);
create table bulk.l0 partition of bulk.later for values with (modulus 2, remainder 0);
create table bulk.l1 partition of bulk.later for values with (modulus 2, remainder 1);
create table bulk.plain (id uuid, name text, n int4);
create table bulk.numbers (id uuid, name text, n numeric) partition by hash (n);
create table bulk.n0 partition of bulk.numbers for values with (modulus 1, remainder 0);
create table bulk.watched (id uuid, name text, n int4) partition by hash (id);
create table bulk.w0 partition of bulk.watched for values with (modulus 1, remainder 0);
create function bulk.nothing() returns trigger language plpgsql as 'begin return null; end';
create trigger told after insert on bulk.watched for each statement execute function bulk.nothing();
create table bulk.guarded (id uuid, name text, n int4) partition by hash (id);
create table bulk.g0 partition of bulk.guarded for values with (modulus 1, remainder 0);
alter table bulk.guarded enable row level security;
create policy everyone on bulk.guarded using (true);
create table bulk.closed (id uuid, name text, n int4) partition by hash (id);
create table bulk.c0 partition of bulk.closed for values with (modulus 1, remainder 0);
create table bulk.sifted (id uuid, name text, n int) partition by hash (id);
create table bulk.s0 partition of bulk.sifted for values with (modulus 2, remainder 0);
create table bulk.s1 partition of bulk.sifted for values with (modulus 2, remainder 1);
create function bulk.sift() returns trigger language plpgsql as
    $$ begin if new.n % 3 = 0 then return null; end if; return new; end $$;
create trigger sift before insert on bulk.sifted for each row execute function bulk.sift();
create table bulk.kept (id uuid default gen_random_uuid(), n int4) partition by hash (id);
create table bulk.k0 partition of bulk.kept for values with (modulus 1, remainder 0);
create schema hidden;
create table bulk.apart (id uuid, name text, n int4) partition by hash (id);
create table hidden.a0 partition of bulk.apart for values with (modulus 1, remainder 0);
create table bulk.fenced (id uuid, name text, n int4) partition by hash (id);
create table bulk.f0 partition of bulk.fenced for values with (modulus 1, remainder 0);
alter table bulk.f0 enable row level security;
create table bulk.seen (id uuid, name text, n int4) partition by hash (id);
create table bulk.e0 partition of bulk.seen for values with (modulus 1, remainder 0);
create trigger told after insert on bulk.e0 for each statement execute function bulk.nothing();
create table bulk.limits (
    id uuid, n int4, statement text default current_setting('statement_timeout'),
    idle text default current_setting('idle_in_transaction_session_timeout')
) partition by hash (id);
create table bulk.m0 partition of bulk.limits for values with (modulus 2, remainder 0);
create table bulk.m1 partition of bulk.limits for values with (modulus 2, remainder 1);
create table bulk.indexed (id uuid, name text, n int4) partition by hash (id);
create table bulk.i0 partition of bulk.indexed for values with (modulus 1, remainder 0);
create index on bulk.indexed (name);
create table bulk.tree (id uuid primary key, name text, n int4, above uuid references bulk.tree)
    partition by hash (id);
create table bulk.t0 partition of bulk.tree for values with (modulus 2, remainder 0);
create table bulk.t1 partition of bulk.tree for values with (modulus 2, remainder 1);
create table bulk.told (id uuid, name text, n int4, number int8 generated always as identity)
    partition by hash (id);
create table bulk.o0 partition of bulk.told for values with (modulus 2, remainder 0);
create table bulk.o1 partition of bulk.told for values with (modulus 2, remainder 1);
grant select, insert, delete on all tables in schema bulk, hidden to app_rw;
revoke insert on bulk.c0 from app_rw;
reset role;
-- As before PostgreSQL 17, whose partitions inherit it.
update pg_attribute set attidentity = ''
where attrelid in ('bulk.o0'::regclass, 'bulk.o1'::regclass) and attname = 'number';
"""


@pytest.fixture(scope="module")
def schema(servers: Servers) -> Iterator[Servers]:
    servers.sql("pg1", _SCHEMA, database="app")
    yield servers
    servers.sql("pg1", "drop schema bulk, hidden cascade", database="app")


@pytest.fixture
def connect(schema: Servers) -> Callable[[], Connection]:
    """Connections as application code opens them, whose block commits."""

    def opened() -> Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=port("pg1"),
            user="app_rw",
            dbname="app",
            passfile=str(schema.passfile),
        )

    return opened


@pytest.fixture
def connection(connect: Callable[[], Connection]) -> Iterator[Connection]:
    with connect() as opened:
        opened.autocommit = True
        for table in (
            "people",
            "later",
            "plain",
            "numbers",
            "watched",
            "guarded",
            "closed",
            "sifted",
        ):
            opened.execute(f"delete from bulk.{table}")
        yield opened


def people(count: int, seed: int = 1) -> list[Row]:
    random = Random(seed)
    return [(UUID(int=random.getrandbits(128)), f"name {n}", n) for n in range(count)]


def stored(connection: Connection, table: str = "bulk.people") -> list[Row]:
    return connection.execute(f"select id, name, n from {table} order by n").fetchall()


def in_leaf(connection: Connection, leaf: str) -> int:
    row = connection.execute(f"select count(*) from {leaf}").fetchone()
    assert row is not None
    return int(row[0])


def test_every_row_is_written_once_each_leaf_in_its_own_transaction(
    router: Router, connection: Connection
) -> None:
    rows = people(20_123)
    heard: list[int] = []
    done = load(router, "bulk.people", COLUMNS, iter(rows), block_rows=500, progress=heard.append)
    assert stored(connection) == rows
    assert (done.rows, done.rows_read, done.rejects) == (20_123, 20_123, ())
    assert done.why_not_by_leaf is None
    assert [part.outcome for part in done.parts] == [Outcome.COMMITTED] * 4
    for part in done.parts:
        ((leaf, count),) = part.rows_by_table.items()
        assert part.node == "pg1"
        assert in_leaf(connection, leaf) == count > 0
    assert heard == sorted(heard)
    assert heard[-1] == 20_123


@pytest.mark.parametrize("connections", [1, 3])
def test_fewer_connections_hold_several_leaves_each(
    connect: Callable[[], Connection], connection: Connection, connections: int
) -> None:
    rows = people(3_000)
    done = load(
        connect, "bulk.people", COLUMNS, rows, connections=connections, by_leaf=True, block_rows=99
    )
    assert stored(connection) == rows
    assert len(done.parts) == connections
    leaves = [leaf for part in done.parts for leaf in part.rows_by_table]
    assert sorted(leaves) == ["bulk.p0", "bulk.p1", "bulk.p2", "bulk.p3"]


def test_one_connection_goes_through_the_table(router: Router, connection: Connection) -> None:
    rows = people(700)
    done = load_on_one(router, "bulk.people", COLUMNS, rows, block_rows=100)
    assert done.why_not_by_leaf == "one connection gains nothing by it"
    assert [dict(part.rows_by_table) for part in done.parts] == [{"bulk.people": 700}]
    assert stored(connection) == rows


def test_one_transaction_on_request(router: Router, connection: Connection) -> None:
    done = load(router, "bulk.people", COLUMNS, people(500), single_transaction=True)
    assert [part.rows for part in done.parts] == [500]
    assert len(stored(connection)) == 500


def test_a_connection_given_keeps_its_transaction(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        done = load(connection, "bulk.people", COLUMNS, people(100))
        assert [part.outcome for part in done.parts] == [Outcome.CALLERS]
        assert len(stored(connection)) == 100
    assert stored(connection) == []
    done = load(connection, "bulk.people", COLUMNS, people(100))
    assert [part.outcome for part in done.parts] == [Outcome.COMMITTED]
    assert len(stored(connection)) == 100


def test_a_load_is_rolled_back_with_the_block_that_it_is_part_of(
    router: Router, connect: Callable[[], Connection], connection: Connection
) -> None:
    for block in (router.write, connect):
        with pytest.raises(ZeroDivisionError), block() as given:  # noqa: PT012 - how it ends
            done = load(given, "bulk.people", COLUMNS, people(100))
            assert [part.outcome for part in done.parts] == [Outcome.CALLERS]
            raise ZeroDivisionError
        assert stored(connection) == []
    with router.write() as given:
        load(given, "bulk.people", COLUMNS, people(100))
    assert len(stored(connection)) == 100


@pytest.mark.parametrize("by_leaf", [True, False])
@pytest.mark.parametrize("max_rejects", [0, 5])
def test_rows_that_a_trigger_drops_are_not_told_as_written(
    router: Router, connection: Connection, by_leaf: bool, max_rejects: int
) -> None:
    done = load(
        router, "bulk.sifted", COLUMNS, people(900), by_leaf=by_leaf, max_rejects=max_rejects
    )
    assert (done.rows_read, done.rows, done.passed_over) == (900, 600, 300)
    assert len(stored(connection, "bulk.sifted")) == 600


@pytest.mark.parametrize("by_leaf", [True, False])
@pytest.mark.parametrize("at", [0, 7_776, 59_999])
def test_a_failing_row_is_named_and_nothing_is_written(
    router: Router, connection: Connection, at: int, by_leaf: bool
) -> None:
    rows = people(60_000)
    rows[at] = (rows[at][0], "bad", 1)
    with pytest.raises(
        LoadFailed, match=rf"row {at + 1}, for bulk\.p.*; nothing was written"
    ) as it:
        load(router, "bulk.people", COLUMNS, rows, by_leaf=by_leaf, block_rows=1_000)
    (reject,) = it.value.report.rejects
    assert (reject.row, reject.sqlstate) == (at + 1, "23514")
    assert it.value.report.rows == 0
    assert stored(connection) == []


@pytest.mark.parametrize("by_leaf", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_rows_that_cannot_be_written_are_left_out_and_named(
    router: Router, connection: Connection, by_leaf: bool, together: bool
) -> None:
    rows: list[Any] = people(6_000)
    places = range(2_000, 2_010) if together else range(3, 6_000, 600)
    wrong: dict[str, Callable[[Row], Row]] = {
        "23502": lambda row: (row[0], None, row[2]),
        "22001": lambda row: (row[0], "x" * 21, row[2]),
        "23514": lambda row: (row[0], "bad", row[2]),
        "23505": lambda row: (rows[0][0], "twice", row[2]),
        "a number in text": lambda row: (row[0], 7, row[2]),
        "a word in int4": lambda row: (row[0], "x", "seven"),
        "a day in int4": lambda row: (row[0], "x", date(2024, 1, 1)),
        "too large": lambda row: (row[0], "x", 2**40),
        "a zero byte": lambda row: (row[0], "x\0y", row[2]),
        "two values": lambda row: row[:2],
    }
    expected = {}
    for place, (kind, spoil) in zip(places, wrong.items(), strict=True):
        rows[place] = spoil(rows[place])
        expected[place + 1] = kind if kind[:2] in ("22", "23") else None
    done = load(
        router, "bulk.people", COLUMNS, rows, max_rejects=10, by_leaf=by_leaf, block_rows=700
    )
    found = {reject.row: reject.sqlstate for reject in done.rejects}
    # The server, too, may be the one to refuse what has no binary form here.
    assert {row: state for row, state in found.items() if expected.get(row)} == {
        row: state for row, state in expected.items() if state
    }
    assert set(found) == set(expected)
    assert done.rows == 6_000 - 10
    assert stored(connection) == [row for at, row in enumerate(rows) if at + 1 not in expected]


def test_one_reject_too_many_stops_the_load(router: Router, connection: Connection) -> None:
    rows = people(4_000)
    for at in (10, 2_000, 3_990):
        rows[at] = (rows[at][0], "bad", at)
    with pytest.raises(LoadFailed, match="nothing was written") as failure:
        load(router, "bulk.people", COLUMNS, rows, max_rejects=2, block_rows=100)
    assert len(failure.value.report.rejects) == 3
    assert stored(connection) == []


def test_a_key_of_the_wrong_type_stops_the_load(router: Router, connection: Connection) -> None:
    rows: list[Row] = people(50)
    rows[30] = (str(rows[30][0]), "text for a uuid", 1)
    with pytest.raises(LoadFailed, match=r"row 31, .* wants a UUID; nothing was written"):
        load(router, "bulk.people", COLUMNS, rows)
    assert stored(connection) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [("x", "seven"), ("x", 2**40), (object(), 1), ("half of a pair: \ud800", 1)],
    ids=["a word for a number", "too large", "an object", "half of a pair"],
)
def test_a_value_that_is_refused_before_it_is_sent_is_named_in_any_block(
    router: Router, connection: Connection, name: object, number: object
) -> None:
    rows: list[Any] = people(3_000)
    rows[2_030] = (rows[2_030][0], name, number)
    with pytest.raises(LoadFailed, match=r"row 2031, for bulk\.people.*; nothing was written"):
        load(router, "bulk.people", COLUMNS, rows, by_leaf=False, block_rows=1_000)
    assert stored(connection) == []


def test_rows_that_raise_leave_nothing_behind(router: Router, connection: Connection) -> None:
    def broken() -> Iterator[Row]:
        yield from people(8_000)
        raise RuntimeError("the file ended early")

    with pytest.raises(RuntimeError, match="ended early"):
        load(router, "bulk.people", COLUMNS, broken(), block_rows=100)
    assert stored(connection) == []


def test_a_connection_killed_in_the_middle_leaves_nothing_and_says_so(
    schema: Servers, router: Router, connection: Connection
) -> None:
    rows = people(30_000)
    killed = False

    def kill(taken: int) -> None:
        nonlocal killed
        if taken > 5_000 and not killed:
            ended = schema.sql(
                "pg1",
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where usename = 'app_rw' and query ilike 'copy%p2%'",
            )
            killed = ended == "1"

    with pytest.raises(LoadFailed, match="nothing was written") as failure:
        load(router, "bulk.people", COLUMNS, rows, block_rows=200, progress=kill)
    assert killed
    assert {part.outcome for part in failure.value.report.parts} == {Outcome.ROLLED_BACK}
    assert stored(connection) == []
    # And again: the load as a whole can be repeated.
    assert load(router, "bulk.people", COLUMNS, rows).rows == 30_000
    assert stored(connection) == rows


def test_a_connection_lost_at_commit_is_reported_as_unknown(
    connect: Callable[[], Connection], connection: Connection
) -> None:
    rows = people(2_000)
    opened = 0

    @contextmanager
    def losing() -> Iterator[Connection]:
        nonlocal opened
        opened += 1
        lose = opened == 3  # the first one reads the layout
        with connect() as given:
            yield given
            if lose:
                with socket.socket(fileno=os.dup(given.fileno())) as duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)

    with pytest.raises(LoadFailed, match="no answer came to the COMMIT") as failure:
        load(losing, "bulk.people", COLUMNS, rows, connections=4)
    parts = failure.value.report.parts
    outcomes = [part.outcome for part in parts]
    assert outcomes.count(Outcome.UNKNOWN) == 1
    lost = outcomes.index(Outcome.UNKNOWN)
    # Transactions commit one after the other: all before it, none after it.
    assert outcomes[:lost] == [Outcome.COMMITTED] * lost
    assert set(outcomes[lost + 1 :]) <= {Outcome.ROLLED_BACK}
    for part in parts:
        ((leaf, count),) = part.rows_by_table.items()
        possible = {
            Outcome.COMMITTED: {count},
            Outcome.ROLLED_BACK: {0},
            Outcome.UNKNOWN: {0, count},
        }
        assert in_leaf(connection, leaf) in possible[part.outcome]


def test_an_error_at_commit_tells_which_leaves_are_written(
    router: Router, connection: Connection
) -> None:
    partitions = Partitions.read(connection, "bulk.later")
    rows = [(row[0], row[2]) for row in people(400)]
    second = next(row for row in rows if partitions.leaf(row[0]) != partitions.leaf(rows[0][0]))
    with pytest.raises(LoadFailed, match="duplicate key") as failure:
        load(router, "bulk.later", ("id", "n"), [*rows, second], connections=2)
    first, last = failure.value.report.parts
    assert (first.outcome, last.outcome) == (Outcome.COMMITTED, Outcome.ROLLED_BACK)
    for part, kept in ((first, first.rows), (last, 0)):
        (leaf,) = part.rows_by_table
        assert in_leaf(connection, leaf) == kept


WHY_NOT = [
    ("bulk.plain", "is not a partitioned table"),
    ("bulk.numbers", "column n of type numeric"),
    ("bulk.watched", "a statement trigger fires on bulk.watched"),
    ("bulk.guarded", "row security is active on bulk.guarded"),
    ("bulk.closed", "no privilege to insert into bulk.c0"),
    ("bulk.apart", "no privilege on the schema of hidden.a0"),
    ("bulk.fenced", "row security is active on bulk.f0"),
    ("bulk.seen", "a statement trigger fires on bulk.e0"),
    ("bulk.tree", "a row may refer to one of another leaf in bulk.tree"),
    ("bulk.told", "an identity column makes no numbers in bulk.o"),
]


@pytest.mark.parametrize(("table", "why"), WHY_NOT)
def test_what_the_leaves_cannot_take_goes_through_the_table(
    router: Router, connection: Connection, table: str, why: str
) -> None:
    rows = people(100)
    if table == "bulk.guarded":
        with pytest.raises(LoadFailed, match="COPY FROM not supported with row-level security"):
            load(router, table, COLUMNS, rows)
        return
    done = load(router, table, COLUMNS, rows)
    assert why in (done.why_not_by_leaf or "")
    assert [dict(part.rows_by_table) for part in done.parts] == [{table: 100}]
    assert stored(connection, table) == rows


def test_rows_that_refer_to_rows_of_other_leaves_are_written(
    router: Router, connection: Connection
) -> None:
    connection.execute("delete from bulk.tree")
    keys = [key for key, *_ in people(200)]
    load(router, "bulk.tree", ("id", "above"), list(zip(keys, [None, *keys], strict=False)))
    assert len(stored(connection, "bulk.tree")) == 200


def test_an_identity_that_is_given_is_no_obstacle(router: Router, connection: Connection) -> None:
    connection.execute("delete from bulk.told")
    rows = [(key, number) for number, (key, *_) in enumerate(people(50))]
    assert load(router, "bulk.told", ("id", "number"), rows).why_not_by_leaf is None


@pytest.mark.parametrize("connections", [1, 2])
def test_a_load_may_take_longer_than_the_application_s_statements(
    router: Router, connection: Connection, connections: int
) -> None:
    rows = [(key, n) for key, _, n in people(100)]
    load(router, "bulk.limits", ("id", "n"), rows, connections=connections, timeout=4000)
    found = connection.execute(
        "with gone as (delete from bulk.limits returning *) "
        "select distinct statement, idle from gone"
    )
    assert found.fetchall() == [("4000001ms", "4000001ms")]
    with router.write() as writing:
        assert writing.execute("show statement_timeout").fetchone() != ("4000001ms",)


def test_a_load_may_take_for_ever(router: Router, connection: Connection) -> None:
    rows = people(10)
    load(router, "bulk.people", COLUMNS, rows, timeout=float("inf"))
    assert stored(connection) == rows


def test_rows_are_left_out_where_psycopg_has_prepared_statements(
    router: Router, connection: Connection
) -> None:
    for _ in range(10):
        with router.write() as writing:
            writing.execute("select %s::int", (1,))
    rows = people(10)
    rows[3] = (rows[3][0], "bad", 3)
    done = load(router, "bulk.people", COLUMNS, rows, connections=1, max_rejects=None)
    assert [reject.row for reject in done.rejects] == [4]
    assert len(stored(connection)) == 9


@pytest.mark.parametrize("by_leaf", [True, False])
def test_a_value_that_an_index_has_no_room_for_is_the_row_s_fault(
    router: Router, connection: Connection, by_leaf: bool
) -> None:
    rows = people(9)
    random = Random(1)
    rows[4] = (rows[4][0], random.randbytes(5000).hex(), 4)  # does not compress
    done = load(router, "bulk.indexed", COLUMNS, rows, by_leaf=by_leaf, max_rejects=1)
    assert [(reject.row, reject.sqlstate) for reject in done.rejects] == [(5, "54000")]
    assert stored(connection, "bulk.indexed") == rows[:4] + rows[5:]
    connection.execute("delete from bulk.indexed")


def test_a_key_made_by_the_server_goes_through_the_table(router: Router) -> None:
    done = load(router, "bulk.kept", ("n",), [(1,), (2,)])
    assert done.why_not_by_leaf == "key column id is not among the columns loaded"
    assert done.rows == 2


def test_an_unknown_column_is_refused_by_the_server(router: Router) -> None:
    with pytest.raises(LoadFailed, match=r'column "nobody" of relation .* does not exist'):
        load(router, "bulk.people", ("id", "nobody"), [(UUID(int=1), 1)])


def test_a_load_of_nothing_is_nothing(router: Router, connection: Connection) -> None:
    assert load(router, "bulk.people", COLUMNS, []).rows == 0
    assert stored(connection) == []


@pytest.mark.usefixtures("connection")
def test_memory_is_bounded(router: Router) -> None:
    given = 0
    most = 0

    def counted() -> Iterator[Row]:
        nonlocal given
        for row in people(30_000):
            given += 1
            yield row

    def compare(taken: int) -> None:
        nonlocal most
        most = max(most, given - taken)

    load(router, "bulk.people", COLUMNS, counted(), block_rows=100, progress=compare)
    assert 0 < most <= 8 * 100 + 4 * 3 * 200 + 100
