"""The connections to one server for one purpose, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from pgroute.config import Settings
from pgroute.routing.connections import AsyncNodeConnection
from pgroute.routing.lease import Front
from pgroute.routing.shelter import sheltered

Hook = Callable[[AsyncNodeConnection], Awaitable[None]]


class AsyncNodePool(Front[AsyncNodeConnection]):
    """Leases in front of a psycopg_pool to one server. Closed by the router that made it."""

    def __init__(
        self,
        node: str,
        settings: Settings,
        *,
        read_only: bool,
        after_connect: Hook | None = None,
        cursors: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(node, settings, read_only=read_only, **options)
        self._arguments = {
            **self.pool_arguments(settings, cursors),
            "connection_class": AsyncNodeConnection,
            "configure": after_connect,
            "num_workers": 2,
        }
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._pool: AsyncConnectionPool[AsyncNodeConnection] | None = None

    async def open(self) -> AsyncConnectionPool[AsyncNodeConnection]:
        """Start connecting in the background, if that has not begun. PoolClosed after close()."""
        pool = self._pool
        if pool is not None:
            return pool
        async with self._changing:
            if self.closed:
                raise PoolClosed(f"the pool of {self.node} is closed")
            if self._pool is None:
                pool = AsyncConnectionPool(**self._arguments)
                await pool.open(wait=False)
                self._pool = pool
            return self._pool

    async def take(self, limit: float) -> AsyncNodeConnection:
        """A live connection within ``limit`` seconds, else psycopg_pool.PoolTimeout.

        TooManyRequests when too many wait already, PoolClosed when the pool is closed.
        """
        until = self._clock() + limit
        if self.password_changed():
            self.outdate()
            await self.renew()
        while True:
            connection = self.idle_one() or await self._queue(until - self._clock())
            try:
                if self.fit(connection, self._clock()):
                    await connection.commit_each(self.read_only)
                    return connection
            except BaseException:  # cancelled: nobody else knows of it
                await self.discard(connection)
                raise
            await self.discard(connection)
            if self._clock() >= until:
                raise PoolTimeout(f"every connection to {self.node} was dead")

    async def _queue(self, limit: float) -> AsyncNodeConnection:
        pool = await self.open()
        self.waiting.append(None)
        try:
            # What came back before we were seen to wait is in the deque, not in the pool.
            connection = self.idle_one()
            if connection is None:
                connection = await pool.getconn(timeout=max(limit, 0.001))
                connection.home = pool
            return connection
        except PoolClosed:
            if self.closed:
                raise
            raise PoolTimeout("all connections are being made anew") from None
        finally:
            self.waiting.pop()

    async def give_back(self, connection: AsyncNodeConnection) -> None:
        """Return a connection that is in no transaction; one that is unusable is replaced."""
        connection.forget_answer()
        now = connection.used_at = self._clock()
        if self.is_past_use(connection, now):
            await self.discard(connection)
            return
        try:
            if connection.untidy or (self.read_only and not connection.autocommit):
                await connection.tidy(self.read_only)
            if self.on_return is not None:
                await connection.commit_each(True)  # what it runs is not to wait for a COMMIT
                await self.on_return(connection)
                if connection.in_transaction:
                    raise psycopg.ProgrammingError("on_return has left a transaction open")
                await connection.commit_each(self.read_only)
        except BaseException as error:
            await self.discard(connection)
            if not isinstance(error, psycopg.Error):
                raise
            return
        self.put_back(connection)

    def hand_over(self) -> None:
        """Give one idle connection to whoever waits in psycopg_pool."""
        connection = self.idle_one()
        if connection is not None:
            connection.forget_answer()
            self._later(connection.home.putconn(connection))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def discard(self, connection: AsyncNodeConnection) -> None:
        """Return a connection that must not be used again."""
        connection.forget_answer()
        with suppress(psycopg.Error):
            await connection.close()
        with suppress(ValueError, PoolClosed):
            await connection.home.putconn(connection)

    # For the sampler's helpers

    async def sweep(self, now: float) -> None:
        """Hand what has been idle for long back to psycopg_pool; see to a new password."""
        if self.password_changed():
            self.outdate()
            await self.renew()
        self.retire(now)
        for connection in self.long_idle(now):
            await connection.home.putconn(connection)

    async def renew(self) -> None:
        """Close what :meth:`outdate` left behind, even if cancelled; new ones come when wanted."""
        await sheltered(self._renew())

    async def _renew(self) -> None:
        async with self._changing:
            pool, self._pool = self._pool, None
            self.password_refused = False
            self.begin_anew()
        for connection in self.all_idle():
            await self.discard(connection)
        if pool is not None:
            await pool.close(timeout=0)

    async def warm_up(self, limit: float) -> None:
        """Have ``min_size`` connections within ``limit`` seconds, else PoolTimeout."""
        until = self._clock() + limit
        async with AsyncExitStack() as taken:  # each comes back, whatever becomes of another
            for _ in range(self.min_size):
                connection = await self.take(max(until - self._clock(), 0.0))
                taken.push_async_callback(self.give_back, connection)

    def statistics(self) -> dict[str, int]:
        """psycopg_pool's counters, idle leases counted as available."""
        pool = self._pool
        if pool is None:
            return {}
        found = pool.get_stats()
        found["pool_available"] = found.get("pool_available", 0) + len(self.idle)
        found["requests_waiting"] = max(found.get("requests_waiting", 0), len(self.waiting))
        return found

    async def close(self, limit: float) -> None:
        """Close all connections; those handed out are closed when they come back."""
        async with self._changing:
            self.shut()
            pool, self._pool = self._pool, None
        if pool is not None:
            for connection in self.all_idle():
                await self.discard(connection)
            await pool.close(timeout=limit)
