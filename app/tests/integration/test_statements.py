"""Every statement of the corpus on a real primary and a real replica: what it does decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import psycopg
import pytest

from pgroute.statements import Route, Statements
from tests.servers import Servers, eventually, port
from tests.statements.corpus import CAUTIOUS, EFFECTS, ERRORS, PARAMETERS, READS, SCHEMA

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("database")]

DATABASE = "statements"
OWNER_PASSWORD = token_hex(8)

# What the sessions of an application keep on the primary, and no replica knows of.
KEPT_ON_THE_PRIMARY = [
    "select nextval('numbers')",
    "prepare p as select 1",
    "begin; declare c cursor with hold for select 1; commit",
]

# What a statement may leave behind in its session.
TRACES = """
select (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
    (select count(*) from pg_prepared_statements), (select count(*) from pg_cursors),
    (select array_agg(c) from pg_listening_channels() c), current_user,
    (select array_agg(name || setting order by name) from pg_settings where source = 'session'),
    current_setting('my.setting', true)
"""


@dataclass
class Outcome:
    """What became of a statement: its rows, or the class and text of the error."""

    rows: list[Any] = field(default_factory=list)
    error: str = ""
    message: str = ""
    trace: object = None


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[Servers]:
    servers.sql("pg1", f"create role owner superuser login password '{OWNER_PASSWORD}'")
    servers.sql("pg1", f"create database {DATABASE}")
    servers.sql("pg1", SCHEMA.read_text(), database=DATABASE)
    end = servers.sql("pg1", "select pg_current_wal_insert_lsn()")
    behind = f"select coalesce(pg_last_wal_replay_lsn() < '{end}', true)"
    eventually(lambda: servers.sql("pg2", behind) == "f", what="the schema on the replica")
    yield servers
    servers.sql("pg1", f"drop database {DATABASE} with (force)")
    servers.sql("pg1", "drop role owner")


def connect(node: str, *, owner: bool = False) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1",
        port=port(node),
        dbname=DATABASE,
        user="owner" if owner else "app_ro",
        password=OWNER_PASSWORD if owner else "ro-for-tests",
        autocommit=True,
        prepare_threshold=None,
        options="-c statement_timeout=10s",
    )


@pytest.fixture(scope="module")
def statements() -> Statements:
    found = Statements()
    with connect("pg1") as connection:
        assert found.refresh(lambda sql: connection.execute(sql).fetchall())
    return found


def outcome(connection: psycopg.Connection[Any], sql: str) -> Outcome:
    found = Outcome()
    try:
        cursor = connection.execute(sql.encode(), PARAMETERS.get(sql))
        found.rows = cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        found.error, found.message = error.sqlstate or type(error).__name__, str(error)
    return found


def on_replica(sql: str, *, owner: bool) -> Outcome:
    """Run a statement on a replica in a session of its own, and look what it leaves there."""
    connection = connect("pg2", owner=owner)
    try:
        before = connection.execute(TRACES).fetchone()
        found = outcome(connection, sql)
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            found.trace = "an open transaction"
        elif not connection.closed:
            after = connection.execute(TRACES).fetchone()
            found.trace = (before, after) if before != after else None
        return found
    finally:
        connection.close()


def on_primary(sql: str) -> Outcome:
    """Run a statement on the primary, in a session with a past, and undo it."""
    with connect("pg1", owner=True) as connection:
        for kept in KEPT_ON_THE_PRIMARY:
            connection.execute(kept.encode())
        connection.execute("begin; savepoint s")
        return outcome(connection, sql)


def answer(node: str, sql: str) -> Outcome:
    with connect(node) as connection:
        return outcome(connection, sql)


@pytest.mark.parametrize("sql", READS)
def test_what_goes_to_a_replica_gives_the_primarys_answer_there(
    statements: Statements, sql: str
) -> None:
    decision = statements.decide(sql)
    assert decision.route is Route.REPLICA, decision.reason
    replica = on_replica(sql, owner=False)
    assert (replica.error, replica.trace) == ("", None), replica.message
    if not sql.startswith("explain analyze"):  # shows how long it took
        assert replica.rows == answer("pg1", sql).rows


@pytest.mark.parametrize("sql", EFFECTS)
def test_what_a_replica_cannot_do_goes_to_the_primary(statements: Statements, sql: str) -> None:
    assert statements.decide(sql).route is Route.PRIMARY
    assert _differs(sql), "a replica does as well: the statement belongs to the cautious ones"


def _differs(sql: str) -> bool:
    replica = on_replica(sql, owner=True)
    if replica.error == "25006" or replica.trace is not None:
        return True
    if on_replica(sql, owner=False).trace is not None:  # row security is not for superusers
        return True
    primary = on_primary(sql)
    return (replica.error, replica.rows) != (primary.error, primary.rows)


@pytest.mark.parametrize("sql", CAUTIOUS)
def test_what_goes_to_the_primary_needlessly_is_known(statements: Statements, sql: str) -> None:
    assert statements.decide(sql).route is Route.PRIMARY
    assert on_replica(sql, owner=True).error != "25006"


@pytest.mark.parametrize("sql", ERRORS)
def test_a_wrong_statement_fails_alike_everywhere(statements: Statements, sql: str) -> None:
    replica, primary = on_replica(sql, owner=True), on_primary(sql)
    assert replica.error != ""
    assert (replica.error, replica.trace) == (primary.error, None)
    assert isinstance(statements.route(sql), Route)


def test_few_reads_go_to_the_primary_needlessly(statements: Statements) -> None:
    """Of the queries that a replica could answer; the corpus seeks out those that it may not."""
    reads = [sql for sql in READS + CAUTIOUS if _starts_as_query(sql)]
    needless = [sql for sql in reads if statements.route(sql) is Route.PRIMARY]
    assert len(needless) / len(reads) < 0.15


def _starts_as_query(sql: str) -> bool:
    return sql.lstrip("( ").lower().startswith(("select", "with", "values", "table", "explain"))


def test_a_read_only_role_may_read_the_catalogue_on_a_replica() -> None:
    on_replica = Statements()
    with connect("pg3") as connection:
        assert on_replica.refresh(lambda sql: connection.execute(sql).fetchall())
        assert not on_replica.refresh(lambda sql: connection.execute(sql).fetchall())
    assert on_replica.route("select * from adults") is Route.REPLICA


@pytest.mark.parametrize(
    ("change", "undo", "sql"),
    [
        (
            "create function late() returns int immutable language sql return 1",
            "drop function late()",
            "select late()",
        ),
        ("create view late as select 1 as n", "drop view late", "select n from late"),
        ("create type late as enum ('x')", "drop type late", "select 'x'::late"),
        ("create type late as (a int)", "drop type late", "select null::late"),
        (
            "alter type with_locked alter attribute a type int",
            "alter type with_locked alter attribute a type locked_int",
            "select null::with_locked",
        ),
        ("alter type with_locked drop attribute a",
         "alter type with_locked add attribute a locked_int", "select null::with_locked"),
        ("drop statistics counts",
         "create statistics counts on (locked_number(5)) from counted", "select * from counted"),
        ("drop index indexed_id_idx", "create index on indexed (id) where lying_lock(3)",
         "select * from indexed"),
        ("alter table checked_child drop constraint checked_child_check",
         "alter table checked_child add check (lying_lock(4))",
         "select * from checked_parent where id = 1"),
        ("alter table with_odd alter column value type int",
         "alter table with_odd alter column value type odd", "select * from with_odd"),
        ("alter function unlabelled stable", "alter function unlabelled volatile",
         "select unlabelled(1)"),
        (
            "create or replace view who_asks as select 'me'::name as who",
            "create or replace view who_asks as select current_user as who",
            "select * from who_asks",
        ),
        ("alter table watched disable row level security",
         "alter table watched enable row level security", "select * from watched"),
        ("alter table scratch set logged", "alter table scratch set unlogged",
         "select * from scratch"),
        (
            "alter domain locked_int drop constraint locked_int_check",
            "alter domain locked_int add constraint locked_int_check check (checked(value))"
            " not valid",
            "select 6::locked_int",
        ),
    ],
)  # fmt: skip
def test_a_change_of_the_catalogue_is_noticed_both_ways(change: str, undo: str, sql: str) -> None:
    found = Statements()
    with connect("pg1", owner=True) as connection:

        def refresh() -> bool:
            return found.refresh(lambda text: connection.execute(text.encode()).fetchall())

        refresh()
        assert found.route(sql) is Route.PRIMARY
        connection.execute(change.encode())
        try:
            assert refresh()
            assert found.route(sql) is Route.REPLICA
            assert not refresh()
        finally:
            connection.execute(undo.encode())
        assert refresh()
        assert found.route(sql) is Route.PRIMARY


def test_temporary_tables_change_nothing() -> None:
    found = Statements()
    with connect("pg1", owner=True) as connection:

        def refresh() -> bool:
            return found.refresh(lambda text: connection.execute(text.encode()).fetchall())

        refresh()
        connection.execute("create temp table passing (id int)")
        assert not refresh()
        assert found.route("select * from passing") is Route.PRIMARY
