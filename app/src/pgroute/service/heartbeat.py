"""A small routed read every so often."""

from __future__ import annotations

import logging
import threading

import psycopg

from pgroute import PgrouteError, Router

_log = logging.getLogger("pgroute")
_STOP_SECONDS = 10


class Heartbeat:
    """Proves the whole way to a node, and shows in the metrics when nobody else asks."""

    def __init__(self, router: Router, seconds: float) -> None:
        self._router = router
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgroute-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin, unless the interval is 0."""
        if self._seconds > 0:
            self._thread.start()

    def stop(self) -> None:
        """End, after the read that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        trouble = ""
        while not self._stop.wait(self._seconds):
            try:
                with self._router.read(timeout=max(self._seconds, 1.0)) as connection:
                    connection.execute("select 1")
                now = ""
            except (PgrouteError, psycopg.Error) as error:
                now = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if now != trouble:  # said once, not at every beat
                _log.warning("heartbeat: %s", now or "well again")
                trouble = now
