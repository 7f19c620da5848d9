"""The threads that write and read, and check what they read."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Callable

from pgroute.chaos.client import Client, Refused
from pgroute.chaos.tally import Outcome, Promise, Read, Tally, Write
from pgroute.routing.probe import one_line

_BEATS = 2_000  # remembered: more than are made within any accepted lag
_HEART = 0  # the worker whose rows the readers look at


class Workload:
    """Writes and reads until stopped.

    ``workers`` threads write and read back, one writes a heartbeat, ``readers`` threads each read
    it in a monotonic session and without a promise, one within ``max_lag_seconds``.
    ``pause_seconds`` lies between two attempts of a thread.
    """

    def __init__(
        self,
        client: Client,
        tally: Tally,
        *,
        workers: int = 4,
        readers: int = 2,
        reads_per_write: int = 4,
        pause_seconds: float = 0.005,
        max_lag_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._tally = tally
        self._reads_per_write = reads_per_write
        self._pause = pause_seconds
        self._max_lag = max_lag_seconds
        self._clock = clock
        self._stop = threading.Event()
        # When the heartbeat's last writes were acknowledged.
        self._beats: deque[tuple[float, int]] = deque(maxlen=_BEATS)
        jobs: list[tuple[Callable[..., None], tuple[int, ...]]] = [
            (self._beat, ()),
            (self._read_within_lag, ()),
            *((self._write_then_read, (worker,)) for worker in range(1, workers + 1)),
            *((self._read_in_session, ()) for _ in range(readers)),
            *((self._read_anything, ()) for _ in range(readers)),
        ]
        self._threads = [
            threading.Thread(target=job, args=arguments, name="pgroute-chaos", daemon=True)
            for job, arguments in jobs
        ]

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop all threads; False when one still hangs after ``timeout`` seconds."""
        self._stop.set()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The threads

    def _write_then_read(self, worker: int) -> None:
        sequence = acknowledged = 0
        token: object = None
        while not self._stop.is_set():
            sequence += 1
            written = self._write(worker, sequence)
            if written is not None:
                acknowledged, token = sequence, written
            for _ in range(self._reads_per_write if token is not None else 0):
                if self._check(Promise.AFTER, worker, token, at_least=acknowledged) is None:
                    acknowledged, token = 0, None  # lost in a failover, and said so: begin anew
                    break
            self._stop.wait(self._pause)

    def _beat(self) -> None:
        sequence = 0
        while not self._stop.is_set():
            sequence += 1
            if self._write(_HEART, sequence) is not None:
                self._beats.append((self._clock(), sequence))
            self._stop.wait(self._pause)

    def _read_in_session(self) -> None:
        session, seen = self._client.session(), 0
        while not self._stop.is_set():
            newest = self._check(Promise.MONOTONIC, _HEART, session, at_least=seen)
            if newest is None:
                session, seen = self._client.session(), 0
            else:
                seen = newest

    def _read_anything(self) -> None:
        while not self._stop.is_set():
            self._check(Promise.EVENTUAL, _HEART, None, at_least=0)

    def _read_within_lag(self) -> None:
        while not self._stop.is_set():
            due = self._acknowledged_before(self._clock() - self._max_lag)
            self._check(Promise.MAX_LAG, _HEART, None, at_least=due)

    def _acknowledged_before(self, moment: float) -> int:
        beats = self._beats.copy()
        index = bisect.bisect_right(beats, (moment, 0))
        return beats[index - 1][1] if index else 0

    # One attempt

    def _write(self, worker: int, sequence: int) -> object:
        """The token of an acknowledged write, else None."""
        began = self._clock()
        try:
            written = self._client.write(worker, sequence)
        except Exception as error:  # noqa: BLE001 - any error is a failed write, and counted
            self._tally.wrote(
                Write(worker, sequence, began, self._clock(), None, None, describe(error))
            )
            return None
        self._tally.wrote(
            Write(worker, sequence, began, self._clock(), written.node, written.timeline, None)
        )
        return written.token

    def _check(self, promise: Promise, worker: int, held: object, *, at_least: int) -> int | None:
        """The newest sequence known now; None when the client refused for good."""
        began = self._clock()
        newest: int | None = at_least
        node = None
        missing = 0
        try:
            found = self._client.newest(worker, promise, held)
        except Refused as error:
            outcome, what = Outcome.REFUSED, describe(error)
            newest = None if error.for_good else at_least
        except Exception as error:  # noqa: BLE001 - any error is a failed read, and counted
            outcome, what = Outcome.FAILED, describe(error)
        else:
            node, newest = found.node, max(found.sequence, at_least)
            outcome = Outcome.KEPT if found.sequence >= at_least else Outcome.STALE
            missing = at_least if outcome is Outcome.STALE else 0
            what = f"{found.sequence} instead of {at_least}" if missing else ""
        self._tally.read(Read(promise, outcome, began, self._clock(), node, what, worker, missing))
        self._stop.wait(self._pause)
        return newest


def describe(error: Exception) -> str:
    """The kind of an error and its first line."""
    return f"{type(error).__name__}: {one_line(error)}"
