"""Reads that are asked twice when the first answer is late (opt-in: ``hedge_share``).

The second attempt goes to another replica once the first has taken longer than most reads do. The
budget caps how many; the loser is cancelled. Only for statements that are known to change nothing,
in a plain ``execute()``: no block, token, lag limit or session.

An attempt runs in its caller's context, as a copy, so that spans and events find their parent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import psycopg

from pgroute.core.contracts import EVENTUAL, Otherwise
from pgroute.core.latency import HedgeDelay
from pgroute.errors import DeadlineExceeded, RouterClosed
from pgroute.observing.observer import Hedge, Reason
from pgroute.results import Result
from pgroute.routing.base import Base, Steps
from pgroute.routing.holder import Holder, Plan
from pgroute.routing.running import Statement, attempt

if TYPE_CHECKING:
    from pgroute.async_router import AsyncRouter
    from pgroute.router import Router

T = TypeVar("T")

# Only another replica's answer is worth having twice.
_ELSEWHERE = Plan(replace(EVENTUAL, otherwise=Otherwise.RAISE), reason=Reason.HEDGE)
_CANCEL_SECONDS = 1.0
_GRACE_SECONDS = 0.5  # for the attempt that is cut at the deadline to tell more of it
_UPDATE_EVERY = 64  # reads


class Pace:
    """How long reads take lately, and from when on one is late."""

    def __init__(self, delay: HedgeDelay) -> None:
        self.delay = delay
        self.reads = 0  # that have been answered

    def took(self, seconds: float) -> None:
        """Count one read."""
        self.delay.latencies.record(seconds)
        self.reads += 1
        if self.reads % _UPDATE_EVERY == 0:
            self.delay.update()


class Threads:
    """Threads for attempts: one begins at once or not at all, as its deadline does not wait."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)
        # Twice as many: each attempt may have somebody who cancels it.
        self._executor = ThreadPoolExecutor(2 * most, thread_name_prefix="pgroute-hedge")

    def begin(self, work: Callable[[], Result]) -> Future[Result] | None:
        """``work()`` in the caller's context; None when too much is under way.

        Raises RouterClosed.
        """
        if not self._free.acquire(blocking=False):
            return None
        try:
            future = self._executor.submit(copy_context().run, work)
        except RuntimeError:
            self._free.release()
            raise RouterClosed("the router is closed") from None
        future.add_done_callback(lambda _: self._free.release())
        return future

    def cancel(self, one: _Attempt) -> None:
        """Let an attempt be cancelled by somebody who may wait for it."""
        with suppress(RuntimeError):  # the router is being closed, and its connections with it
            self._executor.submit(one.cancel)

    def stop(self) -> None:
        """Begin nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _GivenUp(Exception):
    """The other attempt has won before this one had a connection."""


class _Attempt:
    """One of the two: its connection is not given back while somebody cancels on it."""

    def __init__(
        self, router: Base, statement: Statement, avoid: frozenset[str] = frozenset()
    ) -> None:
        self.holder = Holder(router, statement.until - router.clock(), statement.plan)
        self.node = ""  # while it has no connection
        self._router = router
        self._statement = statement
        self._avoid = avoid
        self._lock = threading.Lock()
        self._given_up = False
        self._over = False

    def steps(self) -> Steps[Result]:
        """Run it, within what is left by now."""
        self.holder.limit = max(self._statement.until - self._router.clock(), 0.001)
        return attempt(
            self._router, self._statement, self.holder, self._avoid, None, self._leased, self._end
        )

    def cancel(self) -> None:
        """Let the server stop. Waits for the server to have heard it."""
        with self._lock:
            self._given_up = True
            if self.node and not self._over:
                with suppress(psycopg.Error):  # its connection is not used again then
                    self.holder.connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def _leased(self) -> None:
        with self._lock:
            if self._given_up:
                raise _GivenUp
            self.node = self.holder.route.node

    def _end(self) -> None:
        with self._lock:
            self._over = True


def _second(router: Base, pace: Pace, statement: Statement, first: _Attempt) -> _Attempt | None:
    """The second attempt, None when there may be none."""
    if not first.node or len(router.fleet.replicas) < 2 or router.clock() >= statement.until:
        return None
    if not router.hedge_budget.try_take(pace.reads):
        router.observer.hedged(first.node, Hedge.CAPPED)
        return None
    again = replace(statement, plan=_ELSEWHERE)
    return _Attempt(router, again, frozenset({first.node}))


def hedged(router: Router, threads: Threads, pace: Pace, statement: Statement) -> Result:
    """The answer that comes first. Raises Failure, or what leasing raises, when none does, and
    DeadlineExceeded. Without a free thread the statement is run as if nobody hedged."""
    router.require_open()
    started = router.clock()

    def begin(one: _Attempt) -> Future[Result] | None:
        return threads.begin(lambda: router.drive(one.steps()))

    first = _Attempt(router, statement)
    begun = begin(first)
    if begun is None:
        return router.run(statement)
    next(router.calls)
    running = {begun: first}
    try:
        late = pace.delay.seconds
        if late is not None and not wait(running, min(late, _left(router, statement))).done:
            second = _second(router, pace, statement, first)
            begun = None if second is None else begin(second)
            if second is not None and begun is not None:
                running[begun] = second
        both = len(running) == 2
        while True:
            done = wait(running, _left(router, statement), FIRST_COMPLETED).done
            future = _first_of(done, first)
            one = running.pop(future)
            if future.exception() is None:
                break
            if not running:
                if both:
                    router.observer.hedged(first.node, Hedge.NEITHER)
                return future.result()  # raises
        pace.took(router.clock() - started)
        if both:
            _tell(router, first, one)
        return future.result()
    finally:
        for loser in running.values():
            threads.cancel(loser)


async def hedged_async(router: AsyncRouter, pace: Pace, statement: Statement) -> Result:
    """As :func:`hedged`."""
    next(router.calls)
    started = router.clock()

    def begin(one: _Attempt) -> asyncio.Task[Result]:
        return asyncio.create_task(router.drive(one.steps()))

    first = _Attempt(router, statement)
    running = {begin(first): first}
    try:
        late = pace.delay.seconds
        at_most = _left(router, statement)
        if late is not None and not (await asyncio.wait(running, timeout=min(late, at_most)))[0]:
            second = _second(router, pace, statement, first)
            if second is not None:
                running[begin(second)] = second
        both = len(running) == 2
        while True:
            left = _left(router, statement)
            done, _ = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            task = _first_of(done, first)
            one = running.pop(task)
            if task.exception() is None:
                break
            if not running:
                if both:
                    router.observer.hedged(first.node, Hedge.NEITHER)
                return task.result()  # raises
        pace.took(router.clock() - started)
        if both:
            _tell(router, first, one)
        return task.result()
    finally:
        for task in running:  # psycopg cancels what the server does for it, and waits for that
            task.cancel()
            router.look_after(task)


def _left(router: Base, statement: Statement) -> float:
    """How many seconds a caller waits for its attempts, which end at the deadline by themselves."""
    return max(statement.until - router.clock(), 0.0) + _GRACE_SECONDS


def _first_of(done: set[T], first: _Attempt) -> T:
    """One of those that have ended. DeadlineExceeded when none has."""
    if not done:
        raise DeadlineExceeded(first.node or "a replica", first.holder.limit)
    return next(iter(done))


def _tell(router: Base, first: _Attempt, winner: _Attempt) -> None:
    outcome = Hedge.FIRST_WON if winner is first else Hedge.SECOND_WON
    router.observer.hedged(first.node, outcome)
