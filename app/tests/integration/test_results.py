"""What ``router.execute`` gives back, from both routers: results must not know of each other,
though statements share a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import rows, sql

from pgroute import AsyncRouter, NoSuchRow, new_key
from tests.servers import Servers, eventually, whole

from .fronts import FRONTS, hook, opened

pytestmark = pytest.mark.integration

ON_THE_PRIMARY = "select * from generate_series(1, %s) where pg_current_xact_id() is not null"


@pytest.fixture(params=FRONTS)
def router(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Any]:
    with opened(request.param, servers.settings(pool_max_size=1)) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


def test_a_result_stays_what_it_was_when_the_next_statement_has_run(router: Any) -> None:
    node = router.execute("select 1").node
    asked = [
        router.execute(f"select {n} as a{n}, 'é' as \"é{n}\" from generate_series(1, {n})")
        for n in range(1, 15)
    ]
    assert node in {result.node for result in asked}
    for n, result in enumerate(asked, 1):
        assert result.rows == [(n, "é")] * n == list(result)
        assert result.columns == (f"a{n}", f"é{n}")
        assert result.rowcount == len(result) == n


def test_a_write_tells_how_many_rows_and_no_columns(router: Any) -> None:
    keys = [new_key() for _ in range(20)]
    insert = "insert into tbl_users select unnest(%s::uuid[]), 'first'"
    result = router.execute(insert, (keys,))
    assert (result.rows, result.columns, result.rowcount, result.node) == ([], (), 20, "pg1")
    update = "update tbl_users set first_name = 'now' where id = any(%s) returning first_name as x"
    returned = router.execute(update, (keys[:2],))
    assert (returned.rows, returned.columns) == ([("now",), ("now",)], ("x",))
    assert router.execute("delete from tbl_users where id = any(%s)", (keys,)).rowcount == 20
    assert (result.rowcount, returned.rowcount) == (20, 2)
    with pytest.raises(NoSuchRow):
        result.one()
    with pytest.raises(NoSuchRow):
        result.text()


def test_a_result_without_columns_has_rows(router: Any) -> None:
    result = router.execute("select from generate_series(1, 3)")
    assert (result.rows, result.columns, result.rowcount) == ([(), (), ()], (), 3)


def test_the_next_statement_runs_after_one_that_failed(router: Any) -> None:
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            router.execute("select 1 / %s", (0,))
        assert router.execute("select 1 / %s", (1,)).scalar() == 1


def test_a_text_means_the_same_with_other_types(router: Any) -> None:
    for value in (1, "a", None, 2.5, True, "b", 70_000, 2**40, None, 1):
        result = router.execute("select to_jsonb(%s::text), %s as it", (value, value))
        assert result.one()[1] == value


def test_a_cursor_is_used_again_unless_it_holds_a_large_answer(router: Any) -> None:
    def ask(n: int) -> Any:
        router.execute(ON_THE_PRIMARY, (n,))
        (connection,) = router.pools_by_key["pg1", False].idle
        return connection.spare

    router.fleet._swept_at = float("inf")  # which would free it
    ask(1)  # makes the connection
    once = ask(1)
    assert once is not None
    assert ask(10) is once
    assert ask(11) is None
    assert ask(1) not in (None, once)


def test_a_cursor_holds_what_it_has_for_seconds_only(router: Any) -> None:
    for _ in range(2):
        router.execute(ON_THE_PRIMARY.replace("%s", "length(%s)"), ("x" * 2000,))
    (connection,) = router.pools_by_key["pg1", False].idle
    eventually(lambda: connection.spare is None, what="the cursor is gone")


def test_what_a_block_changes_on_its_connection_holds_for_the_next_statement(router: Any) -> None:
    sql = "select date '2026-03-04' where pg_current_xact_id() is not null"
    for style in ("SQL, DMY", "SQL, MDY", "German", "ISO"):
        for _ in range(2):  # the second has the connection at once, and keeps its cursor
            assert str(router.execute(sql).scalar()) == "2026-03-04"
        with router.write() as connection:
            connection.execute(f"set datestyle to {style}")
    assert str(router.execute(sql).scalar()) == "2026-03-04"


def test_a_task_remembers_that_it_wrote(servers: Servers) -> None:
    """Only then a token can tell that a failover may have lost the write."""

    async def write() -> list[Any]:
        marks: list[Any] = []
        async with AsyncRouter(servers.settings()) as router:
            async with router.write() as connection:
                await connection.execute("insert into tbl_users values (%s, 'x')", (new_key(),))
            marks.append(router._last_write.get())
            await router.transaction(lambda one: one.execute("select pg_current_xact_id()"))
            marks.append(router._last_write.get())
        return marks

    first, second = asyncio.run(write())
    assert first.node == second.node == "pg1"
    assert first.ended_at < second.ended_at


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("made", "expected"), [(rows.dict_row, [{"x": "y"}]), (rows.scalar_row, ["y"])]
)
def test_rows_are_made_as_the_hook_says_and_the_router_reads_its_own(
    servers: Servers, front: str, made: Any, expected: list[Any]
) -> None:
    def connected(connection: Any) -> None:
        connection.row_factory = made

    with opened(front, servers.settings(), after_connect=hook(front, connected)) as router:
        eventually(lambda: router.statements.catalog is not None, what="the catalogue")
        result = router.execute("select 'y' as x")
        assert (result.rows, result.columns, result.text()) == (expected, ("x",), "y")
        assert result.node != "pg1"


QUERY = "select %s::int as n"


@pytest.mark.parametrize("query", [QUERY, QUERY.encode(), sql.SQL(QUERY)])
@pytest.mark.parametrize("prepare", [True, False])
def test_a_connection_executes_whatever_psycopg_does(router: Any, query: Any, prepare: Any) -> None:
    with router.read() as connection:
        first = connection.execute(query, (1,), prepare=prepare)
        prepared = connection.execute("select statement from pg_prepared_statements").fetchall()
        assert ("select $1::int as n" in [text for (text,) in prepared]) is prepare
        binary = connection.execute(query, (2,), binary=True)
        assert (first.format, binary.format, binary.pgresult.fformat(0)) == (0, 1, 1)
        assert (first.fetchall(), binary.fetchall()) == ([(1,)], [(2,)])
        with pytest.raises(psycopg.ProgrammingError, match="the query has 1 placeholder"):
            connection.execute(query, ())


@pytest.mark.parametrize("front", FRONTS)
def test_a_connection_makes_the_cursors_that_it_is_told_to(servers: Servers, front: str) -> None:
    def connected(connection: Any) -> None:
        connection.row_factory = rows.dict_row
        kinds = {"threads": psycopg.ClientCursor, "asyncio": psycopg.AsyncClientCursor}
        connection.cursor_factory = kinds[front]

    with opened(front, servers.settings(), after_connect=hook(front, connected)) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        with router.read() as connection:
            cursor = connection.execute("select %s as n", (1,))
            assert (cursor.fetchall(), cursor.mogrify("%s", ("é",))) == ([{"n": 1}], "'é'")


@pytest.mark.parametrize("in_session", [False, True])
def test_a_closed_connection_says_so(router: Any, in_session: bool) -> None:
    why = "the connection is closed"
    reading = router.session().read() if in_session else router.read()
    connection = reading.__enter__()
    connection.close()
    with pytest.raises(psycopg.OperationalError, match=why):
        connection.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match=why):
        reading.__exit__(None, None, None)
    eventually(lambda: not router.busy(), seconds=10, what="it is given back")
