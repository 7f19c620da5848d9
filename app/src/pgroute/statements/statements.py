"""The router's memory of statements: one dictionary from text to route."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from pgroute.statements import queries
from pgroute.statements.catalog import Catalog
from pgroute.statements.classify import Decision, Route, classify
from pgroute.statements.loading import catalog_from
from pgroute.statements.texts import holds_values, text_of

Run = Callable[[str], Sequence[Sequence[object]]]
"""Runs one SQL text without parameters and gives its rows, a tuple each."""

AsyncRun = Callable[[str], Awaitable[Sequence[Sequence[object]]]]
"""The same, awaited."""

_T = TypeVar("_T")

_LONGEST_KEPT = 32_768  # characters; longer texts are decided anew each time


class _Routes(dict[str, Route]):
    """Text to route; a text that is not there yet is decided by ``decide``."""

    __slots__ = ("decide",)

    decide: Callable[[str], Route]

    def __missing__(self, sql: str) -> Route:
        return self.decide(sql)


class Statements:
    """Says for a statement's text whether a replica may answer it. Thread-safe.

    ``route(sql)`` is one dictionary lookup for a known text. It takes the text exactly as it is
    given to psycopg (``%s`` and ``%(name)s`` parameters, or ``$1``) and never raises for a str.

    It keeps no connection. Until :meth:`refresh` has read the server's catalogue for the first
    time everything goes to the primary. Call ``refresh(run)`` (or ``await refresh_async(run)``)
    in the background whenever :meth:`due` is True; ``run`` asks the primary, or a replica when
    there is no primary, in autocommit. It asks for a fingerprint (one query of about a
    millisecond) and reads the catalogue only when that has changed.

    ``capacity``: most texts kept, the oldest is dropped. ``fresh_for_seconds``: how long an
    answer of the server is taken as current. A text with a name that the catalogue does not know
    goes to the primary and makes :meth:`due` True at once, but not within ``pause_seconds`` of
    the last question.
    """

    route: Callable[[str], Route]

    def __init__(
        self,
        *,
        capacity: int = 4096,
        fresh_for_seconds: float = 30.0,
        pause_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if capacity < 1:
            raise ValueError("a cache of statements keeps at least one")
        self._capacity = capacity
        self._fresh_for = fresh_for_seconds
        self._pause = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._asked_at: float | None = None
        self._unknown_seen = False
        self._writes: dict[str, None] = {}
        self._routes = _Routes()
        self._routes.decide = self._decide_and_keep
        self.route = self._routes.__getitem__

    @property
    def catalog(self) -> Catalog | None:
        """What was read last, None before the first time."""
        return self._catalog

    def route_of(self, query: object) -> Route:
        """As :attr:`route`, for whatever psycopg takes: bytes and ``psycopg.sql``, by their text.

        The primary where no text is certain. A text with values in it is decided each time: it
        would take the place of one that comes again.
        """
        text = text_of(query)
        if text is None:
            return Route.PRIMARY
        return self._decide(text).route if holds_values(query) else self.route(text)

    def decide(self, sql: str) -> Decision:
        """The route and the reason for it. Not cached: for people, logs and tests."""
        if sql in self._writes:
            return Decision(Route.PRIMARY, "a replica has refused it before")
        return classify(sql, self._catalog)

    def remember_write(self, sql: str) -> None:
        """Send this text to the primary from now on: a replica refused it (25006)."""
        with self._lock:
            _keep(self._writes, sql, None, self._capacity)
            self._routes.pop(sql, None)

    def due(self) -> bool:
        """True when :meth:`refresh` should be called: never read, old, or an unknown name seen."""
        if self._asked_at is None:
            return True
        age = self._clock() - self._asked_at
        return age >= (self._pause if self._unknown_seen else self._fresh_for)

    def refresh(self, run: Run) -> bool:
        """Ask whether the catalogue has changed and read it if so; True when it was read.

        Errors of ``run`` are passed on; what was known stays.
        """
        started_at = self._begin()
        changed = self._is_other(run(queries.PROBE))
        if changed:
            self._take(catalog_from(_text(run(queries.LOAD))))
        self._asked_at = started_at
        return changed

    async def refresh_async(self, run: AsyncRun) -> bool:
        """As :meth:`refresh`, for a ``run`` that is awaited."""
        started_at = self._begin()
        changed = self._is_other(await run(queries.PROBE))
        if changed:
            answer = _text(await run(queries.LOAD))
            self._take(await asyncio.to_thread(catalog_from, answer))  # tens of milliseconds
        self._asked_at = started_at
        return changed

    def _begin(self) -> float:
        self._unknown_seen = False
        return self._clock()

    def _is_other(self, rows: Sequence[Sequence[object]]) -> bool:
        return self._catalog is None or self._catalog.version != _text(rows)

    def _take(self, catalog: Catalog) -> None:
        """Use a new catalogue. Texts are decided anew if it says anything else than the old one."""
        with self._lock:
            old, self._catalog = self._catalog, catalog
            if old is None or replace(old, version=catalog.version) != catalog:
                self._routes.clear()

    def _decide(self, sql: str) -> Decision:
        decision = self.decide(sql)
        if decision.unknown:
            self._unknown_seen = True
        return decision

    def _decide_and_keep(self, sql: str) -> Route:
        catalog = self._catalog
        decision = self._decide(sql)
        if catalog is not None and len(sql) <= _LONGEST_KEPT:
            with self._lock:
                if catalog is self._catalog and (
                    decision.route is Route.PRIMARY or sql not in self._writes
                ):
                    _keep(self._routes, sql, decision.route, self._capacity)
        return decision.route


def _keep(table: dict[str, _T], sql: str, value: _T, capacity: int) -> None:
    while len(table) >= capacity and sql not in table:
        del table[next(iter(table))]
    table[sql] = value


def _text(rows: Sequence[Sequence[object]]) -> str:
    """The only value."""
    return str(rows[0][0])
