"""Timed cursors, over a cursor that talks to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgroute.core.topology import Role
from pgroute.observing.observer import Query, Reason, Silent
from pgroute.observing.timing import (
    Stopwatch,
    timed,
    timed_async,
    timed_async_cursors,
    timed_cursors,
)


class Told(Silent):
    """Keeps the statements it is told of."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.least = 0.0

    @property
    def queries_from(self) -> float:
        return self.least

    def queried(self, query: Query) -> None:
        self.queries.append(query)


class Sync:
    """A cursor whose statements take half a second of a clock, and fail when they say so."""

    def __init__(self, clock: Clock, route: object = (Role.REPLICA, Reason.READ)) -> None:
        self.clock = clock
        self.connection = SimpleNamespace(node="pg2", route=route)

    def work(self, query: object) -> None:
        self.clock.now += 0.5
        if query == "fail":
            raise RuntimeError("as told")

    def execute(self, query: object, params: object, **options: object) -> tuple[object, ...]:
        self.work(query)
        return query, params, options

    def executemany(self, query: object, params_seq: object, **_: object) -> None:
        self.work(query)

    def stream(self, query: object, params: object, **_: object) -> Iterator[int]:
        self.work(query)
        yield from (1, 2)

    @contextmanager
    def copy(self, query: object, params: object, **_: object) -> Iterator[str]:
        self.work(query)
        yield "copying"


class Async(Sync):
    """The same, asynchronous."""

    async def execute(self, query: object, params: object, **options: object) -> Any:  # type: ignore[override]
        return super().execute(query, params, **options)

    async def executemany(self, query: object, params_seq: object, **_: object) -> None:  # type: ignore[override]
        super().executemany(query, params_seq)

    async def stream(self, query: object, params: object, **_: object) -> AsyncIterator[int]:  # type: ignore[override]
        for row in super().stream(query, params):
            yield row

    @asynccontextmanager
    async def copy(self, query: object, params: object, **_: object) -> AsyncIterator[str]:  # type: ignore[override]
        with super().copy(query, params) as copy:
            yield copy


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(told: Told, clock: Clock) -> Stopwatch:
    return Stopwatch(told, clock=clock, wall=lambda: 17)


def expected(statement: str, error: BaseException | None = None) -> Query:
    return Query("pg2", Role.REPLICA, Reason.READ, statement, 17, 0.5, error)


def test_every_way_to_run_a_statement_is_told_once(
    watch: Stopwatch, told: Told, clock: Clock
) -> None:
    cursor = timed(Sync, watch)(clock)
    assert cursor.execute("select 'a'", prepare=True) == ("select 'a'", None, {"prepare": True})
    cursor.execute("select %s limit 5", ("a",))
    cursor.executemany("insert %s, 7", [("a",)])
    assert list(cursor.stream("select 2")) == [1, 2]
    with cursor.copy("copy t from stdin") as copy:
        assert copy == "copying"
    texts = ["select ?", "select %s limit 5", "insert %s, 7", "select ?", "copy t from stdin"]
    assert told.queries == [expected(text) for text in texts]


def test_empty_parameters_are_none(watch: Stopwatch, told: Told, clock: Clock) -> None:
    cursor = timed(Sync, watch)(clock)
    cursor.execute("select 'a'", ())
    cursor.execute("select 'a'", {})
    assert told.queries == [expected("select ?")] * 2


def test_every_asynchronous_way_is_told_once(watch: Stopwatch, told: Told, clock: Clock) -> None:
    async def use() -> None:
        cursor = timed_async(Async, watch)(clock)
        assert (await cursor.execute("select 1"))[0] == "select 1"
        await cursor.executemany("insert %s", [("a",)])
        assert [row async for row in cursor.stream("select 2")] == [1, 2]
        async with cursor.copy("copy t from stdin") as copy:
            assert copy == "copying"

    asyncio.run(use())
    texts = ["select ?", "insert %s", "select ?", "copy t from stdin"]
    assert told.queries == [expected(text) for text in texts]


def test_a_statement_that_was_too_quick_is_not_told(told: Told, clock: Clock) -> None:
    told.least = 0.6
    watch = Stopwatch(told, clock=clock, wall=lambda: 17)
    timed(Sync, watch)(clock).execute("select 1")
    assert told.queries == []
    told.least = 0.5
    watch = Stopwatch(told, clock=clock, wall=lambda: 17)
    timed(Sync, watch)(clock).execute("select 1")
    assert told.queries == [expected("select ?")]


def test_an_error_is_told_and_goes_on(watch: Stopwatch, told: Told, clock: Clock) -> None:
    cursor = timed(Sync, watch)(clock)
    with pytest.raises(RuntimeError, match="as told") as raised:
        cursor.execute("fail")
    assert told.queries == [expected("fail", raised.value)]


def test_an_error_in_the_caller_s_copy_block_is_the_copy_s(
    watch: Stopwatch, told: Told, clock: Clock
) -> None:
    cursor = timed(Sync, watch)(clock)
    with pytest.raises(KeyError), cursor.copy("copy t from stdin"):
        raise KeyError
    assert isinstance(told.queries[0].error, KeyError)


def test_leaving_a_stream_early_is_no_error(watch: Stopwatch, told: Told, clock: Clock) -> None:
    rows = timed(Sync, watch)(clock).stream("select 2")
    assert next(rows) == 1
    rows.close()
    assert told.queries == [expected("select ?")]


def test_a_connection_without_a_route_is_told_without(
    watch: Stopwatch, told: Told, clock: Clock
) -> None:
    timed(Sync, watch)(clock, route=None).execute("select 1")
    assert (told.queries[0].role, told.queries[0].reason) == (None, None)


def test_the_cursors_are_psycopg_s_own(watch: Stopwatch) -> None:
    cursors, later = timed_cursors(watch), timed_async_cursors(watch)
    assert issubclass(cursors.cursor, psycopg.Cursor)
    assert issubclass(cursors.server_cursor, psycopg.ServerCursor)
    assert issubclass(later.cursor, psycopg.AsyncCursor)
    assert issubclass(later.server_cursor, psycopg.AsyncServerCursor)
