"""The connections to one server for one purpose, for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from pgroute.config import Settings
from pgroute.routing.connections import NodeConnection
from pgroute.routing.lease import Front

Hook = Callable[[NodeConnection], None]


class NodePool(Front[NodeConnection]):
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
            "connection_class": NodeConnection,
            "configure": after_connect,
            "num_workers": 2,
        }
        self._changing = threading.Lock()
        self._pool: ConnectionPool[NodeConnection] | None = None

    def open(self) -> ConnectionPool[NodeConnection]:
        """Start connecting in the background, if that has not begun. PoolClosed after close()."""
        pool = self._pool
        if pool is not None:
            return pool
        with self._changing:
            if self.closed:
                raise PoolClosed(f"the pool of {self.node} is closed")
            if self._pool is None:
                pool = ConnectionPool(**self._arguments)
                pool.open(wait=False)
                self._pool = pool
            return self._pool

    def take(self, limit: float) -> NodeConnection:
        """A live connection within ``limit`` seconds, else psycopg_pool.PoolTimeout.

        TooManyRequests when too many wait already, PoolClosed when the pool is closed.
        """
        until = self._clock() + limit
        if self.password_changed():
            self.renew()
        while True:
            connection = self.idle_one() or self._queue(until - self._clock())
            try:
                if self.fit(connection, self._clock()):
                    connection.commit_each(self.read_only)
                    return connection
            except BaseException:  # an interrupt: nobody else knows of it
                self.discard(connection)
                raise
            self.discard(connection)
            if self._clock() >= until:
                raise PoolTimeout(f"every connection to {self.node} was dead")

    def _queue(self, limit: float) -> NodeConnection:
        pool = self.open()
        self.waiting.append(None)
        try:
            # What came back before we were seen to wait is in the deque, not in the pool.
            connection = self.idle_one()
            if connection is None:
                connection = pool.getconn(timeout=max(limit, 0.001))
                connection.home = pool
            return connection
        except PoolClosed:
            if self.closed:
                raise
            raise PoolTimeout("all connections are being made anew") from None
        finally:
            self.waiting.pop()

    def give_back(self, connection: NodeConnection) -> None:
        """Return a connection that is in no transaction; one that is unusable is replaced."""
        connection.forget_answer()
        now = connection.used_at = self._clock()
        if self.is_past_use(connection, now):
            self.discard(connection)
            return
        try:
            if connection.untidy or (self.read_only and not connection.autocommit):
                connection.tidy(self.read_only)
            if self.on_return is not None:
                connection.commit_each(True)  # what it runs is not to wait for a COMMIT
                self.on_return(connection)
                if connection.in_transaction:
                    raise psycopg.ProgrammingError("on_return has left a transaction open")
                connection.commit_each(self.read_only)
        except BaseException as error:
            self.discard(connection)
            if not isinstance(error, psycopg.Error):
                raise
            return
        self.put_back(connection)

    def hand_over(self) -> None:
        """Give one idle connection to whoever waits in psycopg_pool."""
        connection = self.idle_one()
        if connection is not None:
            connection.forget_answer()
            connection.home.putconn(connection)

    def discard(self, connection: NodeConnection) -> None:
        """Return a connection that must not be used again."""
        connection.forget_answer()
        with suppress(psycopg.Error):
            connection.close()
        with suppress(ValueError, PoolClosed):
            connection.home.putconn(connection)

    # For the sampler's helpers: these may wait

    def sweep(self, now: float) -> None:
        """Hand what has been idle for long back to psycopg_pool; see to a new password."""
        if self.password_changed():
            self.renew()
        self.retire(now)
        for connection in self.long_idle(now):
            connection.home.putconn(connection)

    def renew(self) -> None:
        """Use no connection again that was made until now; new ones are made when wanted."""
        with self._changing:
            self.outdate()
            pool, self._pool = self._pool, None
            self.password_refused = False
            self.begin_anew()
        for connection in self.all_idle():
            self.discard(connection)
        if pool is not None:
            pool.close(timeout=0)

    def warm_up(self, limit: float) -> None:
        """Have ``min_size`` connections within ``limit`` seconds, else PoolTimeout."""
        until = self._clock() + limit
        with ExitStack() as taken:  # each comes back, whatever becomes of another
            for _ in range(self.min_size):
                connection = self.take(max(until - self._clock(), 0.0))
                taken.callback(self.give_back, connection)

    def statistics(self) -> dict[str, int]:
        """psycopg_pool's counters, idle leases counted as available."""
        pool = self._pool
        if pool is None:
            return {}
        found = pool.get_stats()
        found["pool_available"] = found.get("pool_available", 0) + len(self.idle)
        found["requests_waiting"] = max(found.get("requests_waiting", 0), len(self.waiting))
        return found

    def close(self, limit: float) -> None:
        """Close all connections; those handed out are closed when they come back."""
        with self._changing:
            self.shut()
            pool, self._pool = self._pool, None
        if pool is not None:
            for connection in self.all_idle():
                self.discard(connection)
            pool.close(timeout=limit)
