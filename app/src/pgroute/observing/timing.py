"""Cursors that tell an observer of every statement they ran.

Used only when the observer wants queries: otherwise connections keep psycopg's own cursors and a
statement costs nothing more. The router opens such connections with
``cursor_factory=timed.cursor, server_cursor_factory=timed.server_cursor`` and notes on each lease
why the connection was chosen: ``connection.route = (role, reason)``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import psycopg

from pgroute.observing.observer import Observer, Query
from pgroute.observing.redaction import shown
from pgroute.routing.cursors import AsyncNodeCursor, NodeCursor


class Stopwatch:
    """Times statements and tells ``observer`` of them."""

    def __init__(
        self,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.observer = observer
        self.least = observer.queries_from
        self.clock = clock
        self.wall = wall

    def timing(self, cursor: Any, query: object, parameters: object) -> _Timing:
        """A context manager round one statement of ``cursor``."""
        return _Timing(self, cursor, query, parameters)


class _Timing:
    __slots__ = ("_cursor", "_parameters", "_query", "_started_at", "_started_on", "_watch")

    def __init__(self, watch: Stopwatch, cursor: Any, query: object, parameters: object) -> None:
        self._watch = watch
        self._cursor = cursor
        self._query = query
        self._parameters = parameters

    def __enter__(self) -> None:
        self._started_at = self._watch.wall()
        self._started_on = self._watch.clock()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        seconds = self._watch.clock() - self._started_on
        if seconds < self._watch.least:
            return
        connection = self._cursor.connection
        parameterised = bool(self._parameters)  # some libraries pass empty ones
        role, reason = getattr(connection, "route", None) or (None, None)
        self._watch.observer.queried(
            Query(
                node=getattr(connection, "node", ""),
                role=role,
                reason=reason,
                statement=shown(self._query, parameterised=parameterised, connection=connection),
                started_at=self._started_at,
                seconds=seconds,
                # A caller who has read enough of a stream is no error.
                error=None if isinstance(error, GeneratorExit) else error,
            )
        )


class TimedCursors(NamedTuple):
    """What a connection takes as ``cursor_factory`` and ``server_cursor_factory``."""

    cursor: type[Any]
    server_cursor: type[Any]


def timed_cursors(watch: Stopwatch) -> TimedCursors:
    """Cursors for :class:`pgroute.NodeConnection`."""
    return TimedCursors(timed(NodeCursor, watch), timed(psycopg.ServerCursor, watch))


def timed_async_cursors(watch: Stopwatch) -> TimedCursors:
    """Cursors for :class:`pgroute.AsyncNodeConnection`."""
    return TimedCursors(
        timed_async(AsyncNodeCursor, watch), timed_async(psycopg.AsyncServerCursor, watch)
    )


def timed(base: type[Any], watch: Stopwatch) -> type[Any]:
    class TimedCursor(base):  # type: ignore[misc]
        """psycopg's cursor, timed."""

        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            with watch.timing(self, query, params):
                return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            with watch.timing(self, query, params_seq):
                super().executemany(query, params_seq, **options)

        def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
            with watch.timing(self, query, params):
                yield from super().stream(query, params, **options)

        @contextmanager
        def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[Any]:
            with (
                watch.timing(self, statement, params),
                super().copy(statement, params, **options) as copy,
            ):
                yield copy

    return TimedCursor


def timed_async(base: type[Any], watch: Stopwatch) -> type[Any]:
    class TimedAsyncCursor(base):  # type: ignore[misc]
        """psycopg's asynchronous cursor, timed."""

        async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            with watch.timing(self, query, params):
                return await super().execute(query, params, **options)

        async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            with watch.timing(self, query, params_seq):
                await super().executemany(query, params_seq, **options)

        async def stream(
            self, query: Any, params: Any = None, **options: Any
        ) -> AsyncIterator[Any]:
            with watch.timing(self, query, params):
                async for row in super().stream(query, params, **options):
                    yield row

        @asynccontextmanager
        async def copy(
            self, statement: Any, params: Any = None, **options: Any
        ) -> AsyncIterator[Any]:
            with watch.timing(self, statement, params):
                async with super().copy(statement, params, **options) as copy:
                    yield copy

    return TimedAsyncCursor
