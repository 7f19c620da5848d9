"""SQLAlchemy's asynchronous engines and sessions over the router, on real servers."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import String, event, select, text
from sqlalchemy.exc import ProgrammingError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgroute import AsyncRouter, DeadlineExceeded
from pgroute.integrations.sqlalchemy import AsyncEngines
from tests.servers import Servers

pytestmark = pytest.mark.integration

PAIRS = 1000
Use = Callable[[AsyncEngines, list[str]], Awaitable[None]]


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "tbl_users"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    first_name: Mapped[str] = mapped_column(String(255))


NAMES = select(User.first_name)


def ages_are_known(router: AsyncRouter) -> bool:
    return None not in [router.fleet.ledger.staleness(n, router.clock()) for n in ("pg2", "pg3")]


def over(servers: Servers, use: Use, **settings: Any) -> None:
    """Run ``use(engines, nodes)``; ``nodes`` are those that statements ran on, in order."""

    async def main() -> None:
        async with AsyncRouter(servers.settings(**settings)) as router:
            async with asyncio.timeout(60):
                while router.statements.due() or len(router.topology.replicas) < 2:
                    await asyncio.sleep(0.02)
                while not ages_are_known(router):
                    await asyncio.sleep(0.02)
            engines = AsyncEngines(router)
            nodes: list[str] = []

            def note(connection: Any, *_: object) -> None:
                nodes.append(connection.connection.driver_connection.node)

            event.listen(engines._base, "after_cursor_execute", note)
            await use(engines, nodes)
            async with asyncio.timeout(60):
                while any(pool.in_flight for pool in router.pools_by_key.values()):
                    await asyncio.sleep(0.02)

    asyncio.run(main())


def test_engines_lead_to_the_primary_and_to_replicas(servers: Servers) -> None:
    async def use(engines: AsyncEngines, _: list[str]) -> None:
        recovering = text("select pg_is_in_recovery()")
        async with engines.write.begin() as connection:
            assert await connection.scalar(recovering) is False
        for engine in (engines.read, engines.reading(max_lag="10s")):
            async with engine.connect() as connection:
                assert await connection.scalar(recovering) is True

    over(servers, use)


def test_sessions_read_on_replicas_and_write_on_the_primary(servers: Servers) -> None:
    async def use(engines: AsyncEngines, nodes: list[str]) -> None:
        sessions = engines.sessionmaker()
        for _ in range(5):
            async with sessions() as session:
                await session.execute(NAMES.limit(1))
                async with session.begin_nested():
                    await session.execute(text("select 1"))
                async for _row in await session.stream(NAMES.limit(3)):
                    pass
        assert set(nodes) == {"pg2", "pg3"}
        nodes.clear()
        async with sessions.begin() as session:
            session.add(User(first_name="Async"))
            assert (await session.scalars(NAMES.where(User.first_name == "Async"))).first()
        assert set(nodes) == {"pg1"}

    over(servers, use)


def test_reads_stay_on_a_server_until_one_asks_for_another(servers: Servers) -> None:
    async def use(engines: AsyncEngines, nodes: list[str]) -> None:
        named: list[dict[str, Any]] = [{"node": "pg2"}, {"node": "pg3"}]
        turn: list[dict[str, Any]] = [*named, {"pgroute_contract": "strong"}, {}]
        held: set[object] = set()
        async with engines.sessionmaker()() as session:
            event.listen(session.sync_session, "after_begin", lambda *all_of: held.add(all_of[2]))
            for options in turn * 3:
                await session.execute(NAMES.limit(1), execution_options=options)
            async for _row in await session.stream(NAMES.limit(3)):
                pass
        assert nodes == ["pg2", "pg3", "pg1", "pg1"] * 3 + ["pg1"]
        assert len(held) == 4

    over(servers, use)


def test_a_session_never_reads_its_own_writes_stale(servers: Servers) -> None:
    async def use(engines: AsyncEngines, nodes: list[str]) -> None:
        sessions = engines.sessionmaker()

        async def pairs(share: int) -> int:
            stale = 0
            for number in range(share):
                key = uuid.uuid4()
                async with sessions() as session:
                    session.add(User(id=key, first_name=f"Pair {number}"))
                    await session.commit()
                    stale += await session.scalar(NAMES.where(User.id == key)) is None
                    token = await session.token()
                async with sessions(after=token, contract={"otherwise": "wait"}) as later:
                    stale += await later.scalar(NAMES.where(User.id == key)) is None
            return stale

        assert sum(await asyncio.gather(*[pairs(PAIRS // 4) for _ in range(4)])) == 0
        assert sum(node != "pg1" for node in nodes) > PAIRS // 10

    over(servers, use)


def test_a_unit_of_work_is_tried_again_as_a_whole(servers: Servers) -> None:
    async def use(engines: AsyncEngines, _: list[str]) -> None:
        tries: list[AsyncSession] = []
        key = uuid.uuid4()

        async def work(session: AsyncSession) -> str:
            tries.append(session)
            session.add(User(id=key, first_name="Unit"))
            await session.flush()
            if len(tries) < 3:
                await session.execute(text("do $$ begin raise sqlstate '40001'; end $$"))
            return "done"

        assert await engines.transaction(work) == "done"
        assert len(tries) == 3

        async def undo(session: AsyncSession) -> str:
            session.add(User(id=uuid.uuid4(), first_name="Undone"))
            await session.flush()
            await session.rollback()
            return "refused"

        assert await engines.transaction(undo) == "refused"
        async with engines.reading("strong").connect() as connection:
            ask = text("select count(*) from tbl_users where id = :key")
            assert await connection.scalar(ask, {"key": key}) == 1
            ask = text("select count(*) from tbl_users where first_name = 'Undone'")
            assert await connection.scalar(ask) == 0

    over(servers, use)


def test_errors_and_deadlines_leave_nothing_behind(servers: Servers) -> None:
    async def use(engines: AsyncEngines, _: list[str]) -> None:
        sessions = engines.sessionmaker()
        async with sessions() as session:
            with pytest.raises(ProgrammingError):
                await session.execute(text("select * from tbl_missing"))
        async with sessions() as session:
            await session.execute(text("set local statement_timeout = 0"))
            with pytest.raises(DeadlineExceeded, match="pg1"):
                await session.execute(text("select pg_sleep(30)"))

    over(servers, use, operation_timeout_seconds=3)


def test_sessions_go_on_past_the_deadline_of_a_statement(servers: Servers) -> None:
    sleep = text("select pg_sleep(0.5)")

    async def use(engines: AsyncEngines, nodes: list[str]) -> None:
        async with engines.sessionmaker()() as session:
            for _ in range(5):
                await session.execute(sleep)
            await session.commit()
        assert len(nodes) == 5

    over(servers, use, operation_timeout_seconds=1.5)


def test_a_task_that_is_cancelled_gives_its_connection_back(servers: Servers) -> None:
    async def use(engines: AsyncEngines, _: list[str]) -> None:
        sessions = engines.sessionmaker()

        async def sleep() -> None:
            async with sessions() as session:
                await session.execute(text("select pg_sleep(30)"))

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sleep()
        async with sessions.begin() as session:
            session.add(User(first_name="Afterwards"))

    over(servers, use)


@pytest.mark.parametrize("in_greenlet", [False, True])
@pytest.mark.parametrize("ask", ["select 1", "select set_config('application_name', 'x', true)"])
def test_sessions_that_nobody_closes_leave_their_place_to_others(
    servers: Servers, ask: str, in_greenlet: bool
) -> None:
    size, statement = 2, text(ask)

    async def use(engines: AsyncEngines, nodes: list[str]) -> None:
        sessions = engines.sessionmaker(contract={"node": "pg2"})

        async def forget() -> None:
            for _ in range(size):
                await sessions().execute(statement)
            if in_greenlet:
                await sessions().run_sync(lambda _: gc.collect())
            else:
                gc.collect()

        with pytest.warns(SAWarning, match="non-checked-in"):
            await forget()
        async with AsyncExitStack() as stack:
            for _ in range(size):
                session = await stack.enter_async_context(sessions())
                await session.execute(statement)
        assert len(set(nodes)) == 1

    over(servers, use, pool_max_size=size, checkout_timeout_seconds=5)
