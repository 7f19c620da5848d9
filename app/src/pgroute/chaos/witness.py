"""Watches the servers from outside the router: who accepts writes, and since when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg

from pgroute.chaos.report import Promotion
from pgroute.config import Settings

_WRITABLE_ON = (
    "select case when pg_is_in_recovery() then null else "
    "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end"
)
_RETRY_SECONDS = 0.02


class Witness:
    """Asks every server each ``interval`` seconds, one thread and one connection a server.

    A server that hangs delays only its own thread, which ends with the process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        interval: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
        on_promotion: Callable[[Promotion], None] | None = None,
    ) -> None:
        self._settings = settings
        self._interval = interval
        self._clock = clock
        self._on_promotion = on_promotion
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int], Promotion] = {}
        self._threads = [
            threading.Thread(target=self._watch, args=(node.name,), daemon=True)
            for node in settings.members
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()

    @property
    def promotions(self) -> list[Promotion]:
        """Every (server, timeline) seen writable, in the order of time."""
        with self._lock:
            return sorted(self._seen.values(), key=lambda promotion: promotion.at)

    def _watch(self, node: str) -> None:
        member = next(each for each in self._settings.members if each.name == node)
        parameters: dict[str, Any] = self._settings.connection(
            member, user=self._settings.reader, read_only=True
        )
        parameters |= {"connect_timeout": 2, "tcp_user_timeout": 2000, "keepalives_idle": 1}
        while not self._stop.is_set():
            try:
                with closing(psycopg.connect(**parameters, autocommit=True)) as connection:
                    while not self._stop.wait(self._interval):
                        self._note(node, connection)
            except psycopg.Error:
                self._stop.wait(_RETRY_SECONDS)

    def _note(self, node: str, connection: psycopg.Connection[Any]) -> None:
        row = connection.execute(_WRITABLE_ON).fetchone()
        if row is None or row[0] is None or (node, row[0]) in self._seen:
            return
        promotion = Promotion(node, row[0], self._clock())
        with self._lock:
            self._seen[node, row[0]] = promotion
        if self._on_promotion is not None:
            self._on_promotion(promotion)
