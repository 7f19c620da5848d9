"""Explanations of real plans, on a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import psycopg
import pytest

from pgroute import AsyncRouter, Router
from pgroute.errors import NotExplained
from pgroute.explain import Explanation, explain
from pgroute.statements import Route, Statements
from tests.integration.test_commands import pgroute
from tests.servers import Servers, eventually, port

pytestmark = pytest.mark.integration

SCHEMA = """
create table notes (id int primary key, text text) partition by range (id);
create table notes_low partition of notes for values from (0) to (100000);
create table notes_high partition of notes for values from (100000) to (200000) partition by hash (id);
create table notes_high_0 partition of notes_high for values with (modulus 2, remainder 0);
create table notes_high_1 partition of notes_high for values with (modulus 2, remainder 1);
insert into notes select n, repeat('x', 80) from generate_series(0, 109999) n;
create table days (day date, n int) partition by range (day);
create table days_past partition of days for values from ('1900-01-01') to ('2000-01-01');
create table days_now partition of days for values from ('2000-01-01') to ('2900-01-01');
create extension postgres_fdw;
create server elsewhere foreign data wrapper postgres_fdw;
create user mapping for app_ro server elsewhere options (password_required 'false');
create table places (id int) partition by list (id);
create table places_here partition of places for values in (1);
create foreign table places_there partition of places for values in (2) server elsewhere;
create foreign table places_far partition of places for values in (3) server elsewhere;
create function seen() returns int volatile language sql as $$ select pg_advisory_lock(4); select 1 $$;
grant select on all tables in schema public to app_ro;
create schema hidden;
create table spread (id int) partition by list (id);
create table spread_1 partition of spread for values in (1);
create table hidden.spread_2 partition of spread for values in (2);
create view hidden.below as select * from spread;
create view above as select * from hidden.below;
grant select on spread, above to app_ro;
analyze notes;
"""  # noqa: E501

Explain = Callable[..., Explanation]


@pytest.fixture(scope="module")
def connection(servers: Servers) -> Iterator[psycopg.Connection[Any]]:
    servers.sql("pg1", "create database explaining")
    servers.sql("pg1", SCHEMA, database="explaining")
    end = servers.sql("pg1", "select pg_current_wal_insert_lsn()")
    behind = f"select coalesce(pg_last_wal_replay_lsn() < '{end}', true)"
    eventually(lambda: servers.sql("pg2", behind) == "f", what="the schema on the replica")
    with psycopg.connect(
        host="127.0.0.1",
        port=port("pg2"),
        dbname="explaining",
        user="app_ro",
        password="ro-for-tests",  # noqa: S106 - of a server that lives as long as the test
        autocommit=True,
    ) as opened:
        yield opened
    servers.sql("pg1", "drop database explaining with (force)")


@pytest.fixture
def explained(connection: psycopg.Connection[Any]) -> Explain:
    statements = Statements()
    statements.refresh(lambda sql: connection.execute(sql.encode()).fetchall())

    def run(sql: str, params: Any) -> Any:
        return connection.execute(sql.encode(), params).fetchall()

    def ask(sql: str, params: Any = None, **options: Any) -> Explanation:
        return explain(sql, params, run, node="pg2", statements=statements, **options)

    return ask


def test_a_parameter_prunes_leaves_of_every_level(explained: Explain) -> None:
    (table,) = explained("select * from notes where id = %s", [100_007]).tables
    assert table.table == "notes"
    assert len(table.scanned) == 1
    assert set(table.scanned + table.pruned) == {"notes_low", "notes_high_0", "notes_high_1"}


def test_a_big_leaf_read_as_a_whole_is_warned_of(explained: Explain) -> None:
    found = explained("select * from notes where id < 100000 and text = %s", ["y"])
    assert [scan.relation for scan in found.scans] == ["notes_low"]
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("sequential scan of notes_low: 1")
    assert "MiB" in found.warnings[0]


def test_without_the_key_no_leaf_is_pruned(explained: Explain) -> None:
    found = explained("select count(*) from notes where text like 'y%'")
    assert found.tables[0].pruned == ()
    assert found.warnings[-1].startswith("no leaf of notes is pruned, all 3 are read")


def test_subplans_removed_at_the_start_are_counted(explained: Explain) -> None:
    found = explained("select * from days where day >= current_date")
    assert (found.pruned_at_start, found.tables[0].pruned) == (1, ("days_past",))
    assert found.tables[0].scanned == ("days_now",)


def test_all_leaves_may_be_pruned(explained: Explain) -> None:
    found = explained("select * from notes where id > 500000")
    (table,) = found.tables
    assert table.scanned == ()
    assert len(table.pruned) == 3


def test_a_leaf_is_shown_with_its_root(explained: Explain) -> None:
    (table,) = explained("select * from notes_high_0").tables
    assert (table.table, table.scanned) == ("notes", ("notes_high_0",))


@pytest.mark.parametrize("table", ["spread", "above"])
def test_a_leaf_may_lie_in_a_schema_that_the_user_may_not_use(
    explained: Explain, table: str
) -> None:
    (found,) = explained(f"select * from {table} where id = 2").tables
    assert (found.scanned, found.pruned) == (("hidden.spread_2",), ("spread_1",))


@pytest.mark.parametrize(
    ("sql", "scanned"),
    [
        ("select * from places", ("places_far", "places_here", "places_there")),
        ("select * from places where id = 2", ("places_there",)),
        ("select count(*) from places_there", ("places_there",)),  # counted over there
        (
            "select from places_there as a join places_far as b using (id)",
            ("places_far", "places_there"),
        ),
    ],
)
def test_a_foreign_leaf_that_is_read_is_not_pruned(
    explained: Explain, sql: str, scanned: tuple[str, ...]
) -> None:
    (table,) = explained(sql).tables
    assert table.scanned == scanned


def test_a_write_is_explained_and_not_done(
    explained: Explain, connection: psycopg.Connection[Any]
) -> None:
    held = "select count(*) from pg_locks where locktype = 'advisory'"
    assert explained("select seen()").reason == "function seen is volatile"
    with pytest.raises(NotExplained, match="seen"):
        explained("select seen()", analyze=True)
    assert connection.execute(held).fetchone() == (0,)


def test_analyze_tells_how_long_it_took(explained: Explain) -> None:
    found = explained("select count(*) from notes where id < %s", [10], analyze=True)
    assert found.milliseconds is not None
    assert found.scans[0].rows == 10


def test_an_error_of_the_statement_is_passed_on(explained: Explain) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        explained("select * from missing")


# Through the router


def test_a_read_is_planned_where_it_would_go(router: Router) -> None:
    found = router.explain("select * from sales where order_date = %s", [date(2024, 5, 1)])
    assert (found.route, found.node in {"pg2", "pg3"}) == (Route.REPLICA, True)
    assert found.tables[0].scanned == ("sales_2024",)


def test_a_write_is_planned_on_the_primary_and_not_done(router: Router) -> None:
    before = router.execute("select count(*) from sales", contract="strong").scalar()
    found = router.explain("insert into sales values (1, %s, 1)", [date(2024, 5, 1)])
    assert (found.route, found.node) == (Route.PRIMARY, "pg1")
    assert router.execute("select count(*) from sales", contract="strong").scalar() == before


def test_the_async_router_explains_as_well(servers: Servers) -> None:
    async def ask() -> Explanation:
        async with AsyncRouter(servers.settings()) as router:
            return await router.explain("select * from sales where order_date < '2024-01-01'")

    found = asyncio.run(ask())
    assert found.route is Route.REPLICA
    assert found.tables[0].pruned == ("sales_2024", "sales_2025")


def test_the_command_prints_the_plan_in_short(servers: Servers) -> None:
    done = pgroute(servers, "explain", "select * from sales where order_date < '2024-01-01'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Goes to the replica (reads only); planned on pg")
    assert "sales: 1 of 3 leaves read: sales_2023" in done.stdout


def test_the_command_refuses_to_run_a_write(servers: Servers) -> None:
    done = pgroute(servers, "explain", "--analyze", "delete from sales")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pgroute: ANALYZE would run the statement, and: DELETE")
