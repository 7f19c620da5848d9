"""What a caller leaves behind on a connection is no other caller's trouble."""
# ruff: noqa: PT012 - what happens within a block, and how it ends, is tested

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus

from pgroute import AsyncRouter, Router, RouterClosed, new_key
from tests.servers import Servers, eventually, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration

INSERT = "insert into tbl_users values (%s, %s)"
IDLE = TransactionStatus.IDLE


def count(servers: Servers, key: Any) -> str:
    return servers.sql("pg1", f"select count(*) from tbl_users where id = '{key}'", database="app")


def in_transaction(connection: Any, key: Any) -> Iterator[None]:
    with connection.transaction():
        connection.execute(INSERT, (key, "left open"))
        yield


def in_pipeline(connection: Any, key: Any) -> Iterator[None]:
    with connection.pipeline():
        connection.execute(INSERT, (key, "left open"))
        yield


def in_two_phases(connection: Any, key: Any) -> Iterator[None]:
    connection.tpc_begin(connection.xid(1, str(key), "left open"))
    connection.execute(INSERT, (key, "left open"))
    yield


def streaming(connection: Any, key: Any) -> Iterator[None]:
    connection.execute(INSERT, (key, "left open"))
    for _ in connection.cursor().stream("select generate_series(1, 3)"):
        yield


@pytest.mark.parametrize(
    ("leave", "what"),
    [
        (in_transaction, r"a transaction\(\) block"),
        (in_pipeline, r"a pipeline\(\) block"),
        (in_two_phases, "a two-phase transaction"),
        (streaming, "a statement"),
    ],
)
@pytest.mark.parametrize("how", ["block", "function"])
def test_nothing_is_committed_that_goes_on(
    servers: Servers, router: Router, leave: Callable[..., Any], what: str, how: str
) -> None:
    lost, kept, left = new_key(), new_key(), []

    def work(connection: Any) -> None:
        left.append(leave(connection, lost))
        next(left[-1])

    with pytest.raises(psycopg.ProgrammingError, match=f"^{what} is still open: nothing was"):
        if how == "function":
            router.transaction(work)
        else:
            with router.write() as connection:
                work(connection)
    assert len(left) == 1  # it is not run again
    with router.write() as connection:
        connection.execute(INSERT, (kept, "kept"))
        with suppress(psycopg.Error):
            left[0].close()
    assert (count(servers, lost), count(servers, kept)) == ("0", "1")


@pytest.mark.parametrize("leave", [in_transaction, in_pipeline, streaming])
def test_nothing_is_committed_that_goes_on_with_asyncio(servers: Servers, leave: Any) -> None:
    async def left_open(connection: Any, key: Any) -> AsyncIterator[None]:
        if leave is in_transaction:
            async with connection.transaction():
                await connection.execute(INSERT, (key, "left open"))
                yield
        elif leave is in_pipeline:
            async with connection.pipeline():
                await connection.execute(INSERT, (key, "left open"))
                yield
        else:
            await connection.execute(INSERT, (key, "left open"))
            async for _ in connection.cursor().stream("select generate_series(1, 3)"):
                yield

    lost, kept = new_key(), new_key()

    async def run() -> None:
        async with AsyncRouter(servers.settings()) as router:
            with pytest.raises(psycopg.ProgrammingError, match="is still open: nothing was"):
                async with router.write() as connection:
                    left: Any = left_open(connection, lost)
                    await anext(left)
            async with router.write() as connection:
                await connection.execute(INSERT, (kept, "kept"))
                with suppress(psycopg.Error):
                    await left.aclose()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert (count(servers, lost), count(servers, kept)) == ("0", "1")


@pytest.mark.parametrize("read", [True, False])
def test_a_stream_that_nobody_ends_keeps_no_error_back(router: Router, read: bool) -> None:
    raised: list[BaseException] = []
    left: list[Any] = []

    def work() -> None:
        try:
            with router.read() if read else router.write() as connection:
                left.append(connection.cursor().stream("select generate_series(1, 3)"))
                next(left[0])
                raise ZeroDivisionError
        except Exception as error:  # noqa: BLE001 - looked at below
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert [type(error) for error in raised] == [ZeroDivisionError]


def test_no_reader_meets_the_mode_that_another_has_set(router: Router) -> None:
    for _ in range(6):  # the fast path: either replica's turn comes
        with router.read() as connection:
            assert connection.autocommit
            assert connection.info.transaction_status == IDLE
            connection.autocommit = False


@pytest.mark.parametrize("hook", ["reset all", "discard all"])
def test_a_hook_that_asks_the_server_leaves_no_transaction(servers: Servers, hook: str) -> None:
    def tidy(connection: Any) -> None:
        connection.execute(hook)

    with Router(servers.settings(), on_return=tidy) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        for _ in range(3):
            with router.write() as connection:
                assert connection.info.transaction_status == IDLE
                connection.execute(INSERT, (new_key(), "written"))
            router.execute(INSERT, (new_key(), "written"))


def test_a_hook_that_leaves_a_transaction_open_loses_its_connection(servers: Servers) -> None:
    with Router(servers.settings(), on_return=lambda c: c.execute("begin")) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        for _ in range(2):
            with router.write() as connection:
                assert connection.info.transaction_status == IDLE


def test_the_isolation_that_a_hook_has_set_is_kept(servers: Servers) -> None:
    def prepare(connection: Any) -> None:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ

    def isolation(connection: Any) -> str:
        return str(connection.execute("show transaction_isolation").fetchone()[0])

    settings = servers.settings(pool_max_size=1)
    with Router(settings, after_connect=prepare) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        assert (
            router.transaction(isolation, isolation=IsolationLevel.SERIALIZABLE) == "serializable"
        )
        assert router.transaction(isolation) == "repeatable read"
        for _ in range(4):
            assert router.transaction(isolation, read_only=True) == "repeatable read"
        with router.write() as connection:
            assert isolation(connection) == "repeatable read"


@pytest.mark.parametrize("front", FRONTS)
def test_how_a_caller_lets_transactions_begin_is_no_other_s(servers: Servers, front: str) -> None:
    ask = "select " + ", ".join(
        f"current_setting('transaction_{what}')" for what in ("isolation", "read_only")
    )
    with opened(front, servers.settings(pool_max_size=1)) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        for _ in range(2):
            with router.write() as connection:
                assert connection.execute(ask).fetchone() == ("read committed", "off")
                connection.rollback()  # nothing may be open where this is set
                connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
                connection.set_read_only(True)
                assert connection.execute(ask).fetchone() == ("repeatable read", "on")


@pytest.mark.parametrize("front", FRONTS)
def test_what_is_set_in_a_session_is_dropped_by_the_hook_of_the_readme(
    servers: Servers, front: str
) -> None:
    settings = servers.settings(pool_max_size=1)
    with opened(front, settings, on_return=lambda c: c.execute("discard all")) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        with router.write() as connection:
            before = connection.execute("show search_path").fetchone()
        for _ in range(7):  # more often than psycopg waits before it prepares a statement
            with router.write() as connection:
                assert connection.execute("show search_path").fetchone() == before
                assert connection.execute("select pg_listening_channels()").fetchall() == []
                connection.execute("set search_path to pg_catalog")
                connection.execute("listen to_me")
            assert router.execute(INSERT, (new_key(), "written")).rowcount == 1


def test_a_connection_that_refuses_writes_is_not_handed_out_again(router: Router) -> None:
    with router.write() as connection:
        connection.execute("set session characteristics as transaction read only")
    runs: list[Any] = []

    def work(connection: Any) -> None:
        runs.append(connection)
        connection.execute(INSERT, (new_key(), "written"))

    router.transaction(work)
    assert len(runs) == 2


def test_a_stale_plan_is_met_once(servers: Servers, router: Router) -> None:
    servers.sql(
        "pg1", "create table planned (a int); grant all on planned to public", database="app"
    )
    try:
        token = router.token()
        failures = 0
        for kind in ("bigint", "text"):
            for _ in range(10):  # by the sixth time psycopg has prepared it
                with router.read(node="pg2", after=token, token_timeout=60) as connection:
                    connection.execute("select * from planned")
            servers.sql("pg1", f"alter table planned alter a type {kind}", database="app")
            token = router.token()
            for _ in range(3):
                try:
                    with router.read(node="pg2", after=token, token_timeout=60) as connection:
                        connection.execute("select * from planned")
                except psycopg.errors.FeatureNotSupported:
                    failures += 1
        assert failures == 2
    finally:
        servers.sql("pg1", "drop table planned", database="app")


def test_a_commit_stands_after_what_a_pipeline_has_not_dropped(servers: Servers) -> None:
    def write() -> None:
        key = new_key()
        with router.write() as connection:
            connection.execute(INSERT, (key, "written"))
        assert count(servers, key) == "1"

    def fail_in_pipeline() -> None:
        with router.write() as connection:
            with suppress(psycopg.Error):
                connection.execute("select 1 / 0")
            with connection.pipeline(), suppress(psycopg.Error), connection.transaction():
                connection.execute("select 1 / 0")

    with Router(servers.settings(pool_max_size=1)) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        for _ in range(2):
            for _ in range(10):
                write()
            with suppress(psycopg.Error):
                fail_in_pipeline()


def test_a_closed_router_that_hedges_says_so(servers: Servers) -> None:
    with Router(servers.settings(hedge_share=0.05)) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        eventually(lambda: router.execute("select 1").node != "pg1", what="a read on a replica")
    with pytest.raises(RouterClosed):
        router.execute("select 1")
