"""hasql 0.10 and the asynchronous router as clients of the chaos workload."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import Any, Self, TypeVar
from uuid import UUID

import psycopg
from hasql.driver.psycopg3 import PoolManager
from hasql.staleness import StalenessPolicy, TimeStalenessChecker
from psycopg import AsyncConnection

from pgroute import AsyncNodeConnection, AsyncRouter, AsyncSession, Settings, Token
from pgroute.chaos.client import INSERT, NEWEST, Seen, Written
from pgroute.chaos.router_client import refusals
from pgroute.chaos.tally import Promise

T = TypeVar("T")
_OPEN_SECONDS = 60.0
_CLOSE_SECONDS = 5.0


def hasql_dsn(settings: Settings, user: str) -> str:
    """One DSN with every server, as hasql wants it."""
    hosts = ",".join(f"{node.host}:{node.port}" for node in settings.members)
    return f"postgresql://{user}@{hosts}/{settings.database_name}"


def connection_options(settings: Settings) -> dict[str, Any]:
    """What every other router's connections are given, too."""
    return {
        "passfile": str(settings.passfile),
        "connect_timeout": settings.connect_timeout_seconds,
        "keepalives_idle": 5,
        "tcp_user_timeout": 10_000,
    }


class OnLoop:
    """An event loop in a thread of its own, for a client whose callers are threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(self.open, _OPEN_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError, psycopg.Error):
            self.wait_for(self.close, _CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    def wait_for(self, action: Callable[[], Awaitable[T]], timeout: float) -> T:
        """What ``action`` returns in the loop; TimeoutError after ``timeout`` seconds."""

        async def limited() -> T:
            async with asyncio.timeout(timeout):
                return await action()

        # A little longer than the loop's own limit, which cancels what it waits for.
        return asyncio.run_coroutine_threadsafe(limited(), self._loop).result(timeout + 30)


class HasqlClient(OnLoop):
    """As :class:`pgroute.chaos.router_client.RouterClient`, with what hasql offers.

    It has neither tokens nor sessions: every read asks for a replica, or the primary when there
    is none. ``max_lag`` is its own staleness check, set to the same limit.
    """

    def __init__(
        self, settings: Settings, run: UUID, *, timeout: float, max_lag: timedelta
    ) -> None:
        super().__init__()
        self._run = run
        self._timeout = timeout
        self._names = {node.port: node.name for node in settings.members}
        self._settings = settings
        self._max_lag = max_lag
        self._pools: PoolManager

    async def open(self) -> None:
        self._pools = PoolManager(  # type: ignore[no-untyped-call]
            hasql_dsn(self._settings, self._settings.writer),
            fallback_master=True,
            staleness=StalenessPolicy(TimeStalenessChecker(self._max_lag)),
            pool_factory_kwargs={
                "min_size": self._settings.pool_min_size,
                "max_size": self._settings.pool_max_size,
                "kwargs": connection_options(self._settings),
            },
        )
        await self._pools.ready(timeout=30)

    async def close(self) -> None:
        await self._pools.close()  # type: ignore[no-untyped-call]

    def write(self, worker: int, sequence: int) -> Written:
        async def insert() -> Written:
            async with self._pools.acquire_master() as connection, connection.transaction():
                cursor = await connection.execute(INSERT, (self._run, worker, sequence))
                (timeline,) = await cursor.fetchone() or (0,)
                node = self._node(connection)
            return Written(node, timeline, object())

        return self.wait_for(insert, self._timeout)

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        async def look() -> Seen:
            async with self._pools.acquire_replica() as connection:
                cursor = await connection.execute(NEWEST, (self._run, worker))
                (newest,) = await cursor.fetchone() or (0,)
                await connection.rollback()
                return Seen(self._node(connection), newest)

        return self.wait_for(look, self._timeout)

    def session(self) -> object:
        return object()

    def _node(self, connection: AsyncConnection[Any]) -> str:
        return self._names[connection.info.port]


class AsyncRouterClient(OnLoop):
    """The asynchronous router, as :class:`pgroute.chaos.router_client.RouterClient`."""

    def __init__(self, settings: Settings, run: UUID, *, timeout: float, max_lag: str) -> None:
        super().__init__()
        self._settings = settings
        self._run = run
        self._timeout = timeout
        self._max_lag = max_lag
        self._router: AsyncRouter

    async def open(self) -> None:
        self._router = AsyncRouter(self._settings)
        await self._router.open()

    async def close(self) -> None:
        await self._router.close()

    def write(self, worker: int, sequence: int) -> Written:
        async def insert() -> Written:
            async with self._router.write(timeout=self._timeout) as connection:
                cursor = await connection.execute(INSERT, (self._run, worker, sequence))
                (timeline,) = await cursor.fetchone() or (0,)
                node = connection.node
            return Written(node, timeline, self._router.token())

        return self.wait_for(insert, _OPEN_SECONDS)

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        async def look() -> Seen:
            async with self._reading(promise, held) as connection:
                cursor = await connection.execute(NEWEST, (self._run, worker))
                (newest,) = await cursor.fetchone() or (0,)
                return Seen(connection.node, newest)

        with refusals(promise):
            return self.wait_for(look, _OPEN_SECONDS)

    def _reading(
        self, promise: Promise, held: object
    ) -> AbstractAsyncContextManager[AsyncNodeConnection]:
        if isinstance(held, AsyncSession):
            return held.read(timeout=self._timeout)
        if isinstance(held, Token):
            return self._router.read(after=held, timeout=self._timeout)
        if promise is Promise.MAX_LAG:
            return self._router.read(max_lag=self._max_lag, timeout=self._timeout)
        return self._router.read(timeout=self._timeout)

    def session(self) -> object:
        return self._router.session()
