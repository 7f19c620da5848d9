"""Tasks that are cancelled leave nothing behind: no connection, no open transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random
from time import monotonic
from typing import Any

import pytest

from pgroute import AsyncRouter, PgrouteError, new_key
from tests.servers import Servers, eventually

pytestmark = pytest.mark.integration

SIZE = 3
INSERT = "insert into tbl_users values (%s, 'cancelled')"


@asynccontextmanager
async def router_of(servers: Servers, **options: Any) -> AsyncIterator[AsyncRouter]:
    settings = servers.settings(pool_max_size=SIZE, **options)
    async with AsyncRouter(settings) as router:
        while len(router.topology.replicas) < 2:
            await asyncio.sleep(0.02)
        yield router


async def all_there(router: AsyncRouter) -> None:
    """Every connection that a pool may have can be had, all at the same time."""
    async with asyncio.timeout(60):  # the router itself may be reading the catalogue
        while router.busy():
            await asyncio.sleep(0.01)
    async with AsyncExitStack() as stack:
        for node in ("pg2", "pg3"):
            for _ in range(SIZE):
                connection = await stack.enter_async_context(router.read(node=node))
                assert (await (await connection.execute("select 1")).fetchone()) == (1,)
        for _ in range(SIZE):
            connection = await stack.enter_async_context(router.write())
            await connection.execute("select 1")


async def cancelled_at_random(
    work: Callable[[], Awaitable[object]], *, tasks: int = 150, longest: float = 0.03
) -> int:
    """Run ``work`` in many tasks and cancel each some time later; how many were cut short."""
    random = Random(7)

    async def one(delay: float) -> bool:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(delay)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True
        except PgrouteError:
            return False
        return False

    done = await asyncio.gather(*(one(random.random() * longest) for _ in range(tasks)))
    return sum(done)


def test_cancelled_reads_give_their_connections_back(servers: Servers) -> None:
    async def main() -> None:
        async with router_of(servers) as router:

            async def read() -> None:
                async with router.read() as connection:
                    await connection.execute("select pg_sleep(0.005)")

            assert await cancelled_at_random(read) > 20
            await all_there(router)

    asyncio.run(main())


def test_cancelled_statements_give_their_connections_back(servers: Servers) -> None:
    async def main() -> None:
        async with router_of(servers, hedge_share=0.05) as router:
            while router.statements.catalog is None:
                await asyncio.sleep(0.02)
            work = lambda: router.execute("select count(*) from tbl_users")  # noqa: E731
            assert await cancelled_at_random(work) > 20
            await all_there(router)

    asyncio.run(main())


def test_cancelled_writes_leave_no_transaction_open(servers: Servers) -> None:
    async def main() -> None:
        async with router_of(servers) as router:

            async def write() -> None:
                async with router.write() as connection:
                    await connection.execute(INSERT, (new_key(),))
                    await connection.execute("select pg_sleep(0.003)")

            assert await cancelled_at_random(write) > 20
            await all_there(router)
            open_ones = "select count(*) from pg_stat_activity where state ~ 'in transaction'"
            eventually(lambda: servers.sql("pg1", open_ones) == "0", what="no open transaction")

    asyncio.run(main())


def test_a_block_that_was_left_has_committed_though_it_was_cancelled_then(
    servers: Servers,
) -> None:
    async def main() -> None:
        async with router_of(servers) as router:
            key, leaving = new_key(), asyncio.Event()

            async def write() -> None:
                async with router.write() as connection:
                    await connection.execute(INSERT, (key,))
                    leaving.set()

            task = asyncio.ensure_future(write())
            await leaving.wait()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            async with router.read("strong") as connection:
                cursor = await connection.execute(
                    "select count(*) from tbl_users where id = %s", (key,)
                )
                assert await cursor.fetchone() == (1,)
            await all_there(router)

    asyncio.run(main())


@pytest.fixture
def slow_commit(servers: Servers) -> Iterator[str]:
    """A table, a row of which makes its COMMIT take as many seconds as it says."""
    servers.sql(
        "pg1",
        "create table slowly (seconds float); grant all on slowly to app_rw, app_ro;"
        "create function wait() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(new.seconds); return null; end $$;"
        "create constraint trigger late after insert on slowly initially deferred "
        "for each row execute function wait()",
        database="app",
    )
    yield "slowly"
    asleep = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    servers.sql("pg1", asleep)
    servers.sql("pg1", "drop table slowly; drop function wait", database="app")


def test_a_commit_under_way_ends_before_its_task_is_cancelled(
    servers: Servers, slow_commit: str
) -> None:
    """However often; what follows reads it by its token, and the same connection serves on."""

    async def main() -> None:
        async with router_of(servers) as router:

            async def write() -> None:
                async with router.write() as connection:
                    await connection.execute(f"insert into {slow_commit} values (0.5)")

            task = asyncio.ensure_future(cancelled(write(), router))
            await asyncio.sleep(0.1)
            for _ in range(5):
                task.cancel()
                await asyncio.sleep(0.05)
            assert not task.done()
            token, mark = await task
            assert mark is not None
            assert mark.node == "pg1"
            async with router.read(after=token) as connection:
                cursor = await connection.execute(f"select count(*) from {slow_commit}")
                assert await cursor.fetchone() == (1,)
            await all_there(router)

    asyncio.run(main())


async def cancelled(work: Coroutine[Any, Any, None], router: AsyncRouter) -> tuple[Any, Any]:
    """The token of work that must be cancelled, and what its task knows of it."""
    with pytest.raises(asyncio.CancelledError):
        await work
    return router.token(), router._last_write.get()


def test_a_commit_that_is_never_answered_holds_a_cancelled_task_for_seconds_only(
    servers: Servers, slow_commit: str
) -> None:
    async def main() -> None:
        async with router_of(servers) as router:

            async def write() -> None:
                async with router.write(timeout=60) as connection:
                    await connection.execute(f"insert into {slow_commit} values (40)")

            task = asyncio.ensure_future(write())
            await asyncio.sleep(0.3)
            task.cancel()
            began = monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 4 < monotonic() - began < 20
            await all_there(router)

    asyncio.run(main())


def test_a_pool_whose_renewal_is_cancelled_is_closed(servers: Servers) -> None:
    """Its workers and connections would stay for ever."""

    def at_work() -> int:
        return sum(task.get_name().startswith("pg2-read-") for task in asyncio.all_tasks())

    async def main() -> None:
        async with router_of(servers) as router:
            async with router.read(node="pg2") as connection:
                await connection.execute("select 1")
            pool = router.pools_by_key["pg2", True]
            old = pool._pool
            assert old is not None
            assert at_work() > 0
            async with old._lock:  # it is busy
                task = asyncio.ensure_future(pool.renew())
                while pool._pool is old:
                    await asyncio.sleep(0)
                await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.sleep(0.01)
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(10):
                while at_work() > 0:
                    await asyncio.sleep(0.01)
            await all_there(router)

    asyncio.run(main())


def test_those_who_wait_for_a_token_can_be_cancelled(servers: Servers) -> None:
    async def main() -> None:
        async with router_of(servers) as router:

            async def read() -> None:
                async with router.write() as connection:
                    await connection.execute(INSERT, (new_key(),))
                async with router.read(after=router.token(), wait=True) as connection:
                    await connection.execute("select 1")

            assert await cancelled_at_random(read) > 20
            await all_there(router)

    asyncio.run(main())
