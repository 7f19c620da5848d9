"""The router's memory of statements: one dictionary from text to route."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from pgroute.statements.catalog import Catalog
from pgroute.statements.classify import Decision, Route, classify

Run = Callable[[str], Sequence[Sequence[object]]]
"""Runs one SQL text without parameters and gives its rows, a tuple each."""

AsyncRun = Callable[[str], Awaitable[Sequence[Sequence[object]]]]
"""The same, awaited."""


class _Routes(dict[str, Route]):
    """Text to route; a text that is not there yet is decided by ``decide`` and kept."""

    __slots__ = ("decide",)

    decide: Callable[[str], Route]

    def __missing__(self, sql: str) -> Route:
        return self.decide(sql)


class Statements:
    """Says for a statement's text whether a replica may answer it. Thread-safe.

    ``route(sql)`` is one dictionary lookup for a known text. It takes the text exactly as it is
    given to psycopg (``%s`` and ``%(name)s`` parameters, or ``$1``) and never raises.

    It keeps no connection. Until :meth:`refresh` has read the server's catalogue for the first
    time everything goes to the primary. Call ``refresh(run)`` (or ``await refresh_async(run)``)
    in the background whenever :meth:`due` is True; ``run`` asks the primary, or a replica when
    there is no primary. It asks for a fingerprint (one cheap query) and reads the
    catalogue only when that has changed.

    ``capacity``: most texts kept. ``fresh_for_seconds``: how long an answer of the server is
    taken as current. A text with a name that the catalogue does not know goes to the primary
    and makes :meth:`due` True at once (at most every ``pause_seconds``).
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
        self._capacity = capacity
        self._fresh_for = fresh_for_seconds
        self._pause = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._routes = _Routes()
        self._routes.decide = self._decide
        self.route = self._routes.__getitem__

    @property
    def catalog(self) -> Catalog | None:
        """What was read last, None before the first time."""
        return self._catalog

    def decide(self, sql: str) -> Decision:
        """The route and the reason for it. Not cached: for people, logs and tests."""
        return classify(sql, self._catalog)

    def remember_write(self, sql: str) -> None:
        """Send this text to the primary from now on: a replica refused it (25006)."""
        self._routes[sql] = Route.PRIMARY

    def due(self) -> bool:
        """True when :meth:`refresh` should be called: never read, old, or an unknown name seen."""
        return True

    def refresh(self, run: Run) -> bool:
        """Ask whether the catalogue has changed and read it if so; True when it was read.

        Errors of ``run`` are passed on; what was known stays.
        """
        return False

    async def refresh_async(self, run: AsyncRun) -> bool:
        """As :meth:`refresh`, for a ``run`` that is awaited."""
        return False

    def _decide(self, sql: str) -> Route:
        return Route.PRIMARY
