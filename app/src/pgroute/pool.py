"""The connections to one server for one purpose."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from pgroute.probe import one_line


class NodeConnection(psycopg.Connection[Any]):
    """A psycopg connection that knows which server it leads to."""

    node: str = ""

    @classmethod
    def connect(cls, conninfo: str = "", **parameters: Any) -> Self:
        """As psycopg's; ``node`` names the server, ``on_result`` hears the error or None."""
        node = parameters.pop("node", "")
        on_result: Callable[[str | None], None] | None = parameters.pop("on_result", None)
        try:
            connection = super().connect(conninfo, **parameters)
        except psycopg.Error as error:
            if on_result is not None:
                on_result(one_line(error))
            raise
        connection.node = node
        if on_result is not None:
            on_result(None)
        return connection

    @property
    def is_standby(self) -> bool:
        """What the server reported last about itself on this connection. No round trip."""
        return self.pgconn.parameter_status(b"in_hot_standby") == b"on"

    def is_alive(self) -> bool:
        """False when the server has spoken on this idle connection. No round trip.

        That is its goodbye, or its end of the socket closing. It may also be a reloaded setting:
        then a good connection is replaced, which costs little.
        """
        if self.closed:
            return False
        incoming = select.poll()
        incoming.register(self.pgconn.socket, select.POLLIN)
        return not incoming.poll(0)

    def cut(self) -> None:
        """Shut the socket down, from any thread: whoever waits on it gets an error at once."""
        with suppress(psycopg.Error, OSError):
            duplicate = socket.socket(fileno=os.dup(self.pgconn.socket))
            with duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


class NodePool:
    """A psycopg_pool to one server. Closed by the router that made it."""

    def __init__(
        self,
        node: str,
        parameters: dict[str, Any],
        *,
        read_only: bool,
        min_size: int,
        max_size: int,
    ) -> None:
        self.node = node
        self.read_only = read_only
        self.last_error: str | None = None
        self._pool: ConnectionPool[NodeConnection] = ConnectionPool(
            kwargs={
                **parameters,
                # A read is one statement: without a transaction round it, it saves a round trip.
                "autocommit": read_only,
                "node": node,
                "on_result": self._note,
            },
            connection_class=NodeConnection,
            min_size=min_size,
            max_size=max_size,
            name=f"{node}-{'read' if read_only else 'write'}",
            num_workers=1,
            reconnect_timeout=5,
            open=False,
        )

    def _note(self, error: str | None) -> None:
        self.last_error = error

    def open(self) -> None:
        """Start connecting, in the background."""
        self._pool.open(wait=False)

    def take(self, timeout: float) -> NodeConnection:
        """A live connection within ``timeout`` seconds, else psycopg_pool.PoolTimeout."""
        for _ in range(self._pool.max_size + 1):
            connection = self._pool.getconn(timeout=max(timeout, 0.001))
            if connection.is_alive():
                return connection
            self.discard(connection)
        raise PoolTimeout(f"every connection to {self.node} was dead")

    def give_back(self, connection: NodeConnection) -> None:
        """Return a connection; one that is unusable is replaced."""
        self._pool.putconn(connection)

    def discard(self, connection: NodeConnection) -> None:
        """Return a connection that must not be used again."""
        connection.close()
        self._pool.putconn(connection)

    def statistics(self) -> dict[str, int]:
        """psycopg_pool's counters."""
        return self._pool.get_stats()

    def why_no_connection(self, timeout: float) -> str:
        """One line on why take() gave nothing."""
        if self.last_error is not None:
            return self.last_error
        return (
            f"no free connection within {timeout:g} s ({self._pool.max_size} at most, all in use)"
        )

    def close(self, timeout: float) -> None:
        """Close all connections; those handed out are closed when they come back."""
        self._pool.close(timeout=timeout)
