"""The background thread: asks every server again and again, and waits for none of them.

One thread, one connection per server, one poll. It also cuts connections whose holders are past
their deadline, since whoever waits on a frozen server cannot do that.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import psycopg

from pgroute.config import Node, Settings
from pgroute.core.topology import Answer, Silence
from pgroute.routing.probe import Lost, Probe, one_line

_log = logging.getLogger("pgroute")

_WANTED_SECONDS = 1.0  # so long after a contract was used, samples come quickly
_RECONNECT_SECONDS = (0.02, 0.5)  # first and longest pause between two attempts
_TICK_SECONDS = 0.05  # longest time between two looks at deadlines


class Listener(Protocol):
    """Who hears what the servers say. Called from the sampler's thread: must not wait."""

    def answered(self, answer: Answer, *, started_at: float) -> None:
        """A server answered a question that was sent at ``started_at``."""

    def fell_silent(self, silence: Silence, *, lost: bool) -> None:
        """A server did not answer for too long, or its connection was ``lost``."""

    def tick(self, now: float) -> None:
        """A moment has passed: look at deadlines."""


class Sampler:
    """Owns the thread and the connections. ``start()``, then ``stop()``."""

    def __init__(
        self,
        settings: Settings,
        listener: Listener,
        executor: ThreadPoolExecutor,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._executor = executor
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._nodes = [_Watched(node) for node in settings.members]
        self._poll = select.poll()
        self._bell_lock = threading.RLock()  # a signal may come while it rings
        self._bell_out, self._bell_in = os.pipe()
        os.set_blocking(self._bell_out, False)
        os.set_blocking(self._bell_in, False)
        self._poll.register(self._bell_out, select.POLLIN)
        self._wanted_until = 0.0
        self._quick = False
        self._ask_now = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="pgroute-sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, limit: float) -> None:
        """End within ``limit`` seconds and close the connections."""
        self._stopping = True
        if self._thread.ident is None:  # it was never started
            self._close_bell()
            return
        self._ring()
        self._thread.join(limit)

    def want(self) -> None:
        """Samples are in use: let them come quickly for a second. From any thread, cheap."""
        self._wanted_until = self._clock() + _WANTED_SECONDS
        if not self._quick:
            self._ring()

    def wake(self) -> None:
        """Something is wrong, or somebody waits: ask everybody at once. From any thread."""
        self._ask_now = True
        self._ring()

    def _ring(self) -> None:
        with self._bell_lock:
            if self._bell_in < 0:
                return  # all is over, and the number may be another file's by now
            with suppress(BlockingIOError):  # it rings already
                os.write(self._bell_in, b"!")

    def _close_bell(self) -> None:
        with self._bell_lock:
            if self._bell_in >= 0:
                os.close(self._bell_in)
                os.close(self._bell_out)
                self._bell_in = self._bell_out = -1

    # The thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception:  # noqa: BLE001 - without this thread nothing is safe
                    _log.exception("the sampler stumbled and goes on")
                    time.sleep(_TICK_SECONDS)
        finally:
            for node in self._nodes:
                node.let_go(self._poll)
                if node.connecting is not None:
                    node.connecting.add_done_callback(_close)
            self._close_bell()

    def _turn(self) -> None:
        now = self._clock()
        self._quick = now < self._wanted_until
        asked_now, self._ask_now = self._ask_now, False
        for node in self._nodes:
            if node.probe is None:
                self._connect(node, now, at_once=asked_now)
            elif node.probe.asked_at is None and (asked_now or now >= self._due(node)):
                self._guarded(node, self._ask, now)
        ready = self._poll.poll(self._patience() * 1000)
        files = {file for file, _ in ready}
        if self._bell_out in files:
            os.read(self._bell_out, 4096)
        for node in self._nodes:
            if node.file in files:
                self._guarded(node, self._receive, now)
        # Only now, with everything read that had come: we may have been the slow one.
        now = self._clock()
        for node in self._nodes:
            self._judge(node, now)
        self._listener.tick(now)

    def _due(self, node: _Watched) -> float:
        settings = self._settings
        pause = (
            settings.sample_interval_seconds if self._quick else settings.refresh_interval_seconds
        )
        return node.asked_at + pause

    def _patience(self) -> float:
        """Seconds until something is due."""
        if self._ask_now or self._stopping:
            return 0.0
        now = self._clock()
        due = [
            self._due(node)
            if node.probe is not None and node.probe.asked_at is None
            else (node.connect_at if node.probe is None and node.connecting is None else now + 1)
            for node in self._nodes
        ]
        return min(max(min(due) - now, 0.0), _TICK_SECONDS)

    def _guarded(self, node: _Watched, act: Callable[[_Watched, float], None], now: float) -> None:
        try:
            act(node, now)
        except Lost as error:
            node.let_go(self._poll)
            node.failures = 0
            node.connect_at = now
            self._say_silent(node, str(error), lost=True)

    def _ask(self, node: _Watched, now: float) -> None:
        assert node.probe is not None  # noqa: S101 - for the type checker
        node.asked_at = now
        node.probe.ask(now)

    def _receive(self, node: _Watched, _: float) -> None:
        assert node.probe is not None  # noqa: S101 - for the type checker
        started_at = node.probe.asked_at
        seen = node.probe.receive()
        if seen is None or started_at is None:
            return
        if isinstance(seen, Silence):
            self._say_silent(node, seen.why, lost=False)
        else:
            node.silent = False
            self._listener.answered(seen, started_at=started_at)

    def _judge(self, node: _Watched, now: float) -> None:
        probe = node.probe
        if probe is None or probe.asked_at is None:
            return
        silence, settings = now - probe.asked_at, self._settings
        if silence < min(settings.eject_after_seconds, settings.probe_timeout_seconds):
            return
        if self._has_come(node):
            return
        if silence >= settings.probe_timeout_seconds:
            node.let_go(self._poll)
            node.connect_at = now
            self._say_silent(node, f"no answer within {silence:.2g} s", lost=True)
        elif not node.silent:
            limit = settings.eject_after_seconds
            self._say_silent(node, f"no answer within {limit:g} s", lost=False)

    def _has_come(self, node: _Watched) -> bool:
        """Whether an answer came while this thread was held up, after it had looked."""
        return node.file in {file for file, _ in self._poll.poll(0)}

    def _say_silent(self, node: _Watched, why: str, *, lost: bool) -> None:
        node.silent = True
        self._listener.fell_silent(Silence(node.name, why), lost=lost)

    # Connecting, which may wait, happens elsewhere

    def _connect(self, node: _Watched, now: float, *, at_once: bool) -> None:
        if node.connecting is None:
            if now >= node.connect_at or at_once:
                node.connecting = self._executor.submit(self._connected, node.node)
                node.connecting.add_done_callback(lambda _: self._ring())
            return
        if not node.connecting.done():
            return
        attempt, node.connecting = node.connecting, None
        try:
            probe = Probe(node.name, attempt.result())
        except (psycopg.Error, OSError) as error:
            low, high = _RECONNECT_SECONDS
            ceiling = min(low * 2**node.failures, high)
            node.failures = min(node.failures + 1, 10)
            node.connect_at = now + ceiling * (0.5 + self._random.random() / 2)
            self._say_silent(node, one_line(error), lost=True)
            return
        node.failures = 0
        node.take(probe, self._poll)
        self._guarded(node, self._ask, now)

    def _connected(self, node: Node) -> psycopg.Connection[Any]:
        parameters = self._settings.connection(node, user=self._settings.reader, read_only=True)
        return psycopg.connect(autocommit=True, **parameters)


def _close(attempt: Future[psycopg.Connection[Any]]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


class _Watched:
    """One server, as the thread keeps it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.name
        self.probe: Probe | None = None
        self.file = -1
        self.connecting: Future[psycopg.Connection[Any]] | None = None
        self.connect_at = 0.0
        self.asked_at = 0.0
        self.failures = 0
        self.silent = False

    def take(self, probe: Probe, poll: select.poll) -> None:
        self.probe, self.file = probe, probe.fileno()
        poll.register(self.file, select.POLLIN)

    def let_go(self, poll: select.poll) -> None:
        if self.probe is not None:
            poll.unregister(self.file)
            self.probe.close()
            self.probe, self.file = None, -1
