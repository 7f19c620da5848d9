"""hasql 0.10 as a client of the chaos workload: its async pools, driven from the same threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self
from uuid import UUID

import psycopg
from hasql.driver.psycopg3 import PoolManager
from hasql.staleness import StalenessPolicy, TimeStalenessChecker
from psycopg import AsyncConnection

from pgroute import Settings
from pgroute.chaos.client import INSERT, NEWEST, Seen, Written
from pgroute.chaos.tally import Promise


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


class HasqlClient:
    """As :class:`pgroute.chaos.router_client.RouterClient`, with what hasql offers.

    It has neither tokens nor sessions: every read asks for a replica, or the primary when there
    is none. ``max_lag`` is its own staleness check, set to the same limit.
    """

    def __init__(
        self, settings: Settings, run: UUID, *, timeout: float, max_lag: timedelta
    ) -> None:
        self._run = run
        self._timeout = timeout
        self._names = {node.port: node.name for node in settings.members}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._settings = settings
        self._max_lag = max_lag
        self._pools: PoolManager

    def __enter__(self) -> Self:
        self._thread.start()
        self._await(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError, psycopg.Error):
            self._await(self._pools.close, 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _open(self) -> None:
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

    def _await(self, action: Callable[[], Awaitable[Any]], timeout: float = 60) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(timeout):
                return await action()

        return asyncio.run_coroutine_threadsafe(limited(), self._loop).result(timeout + 30)

    def write(self, worker: int, sequence: int) -> Written:
        async def insert() -> Written:
            async with self._pools.acquire_master() as connection, connection.transaction():
                cursor = await connection.execute(INSERT, (self._run, worker, sequence))
                (timeline,) = await cursor.fetchone() or (0,)
                node = self._node(connection)
            return Written(node, timeline, object())

        written: Written = self._await(insert, self._timeout)
        return written

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        async def look() -> Seen:
            async with self._pools.acquire_replica() as connection:
                cursor = await connection.execute(NEWEST, (self._run, worker))
                (newest,) = await cursor.fetchone() or (0,)
                await connection.rollback()
                return Seen(self._node(connection), newest)

        seen: Seen = self._await(look, self._timeout)
        return seen

    def session(self) -> object:
        return object()

    def _node(self, connection: AsyncConnection[Any]) -> str:
        return self._names[connection.info.port]
