"""Reads that are asked twice when the first answer is late (opt-in: ``hedge_share``).

The second attempt goes to another replica once the first has taken longer than most reads do. The
budget caps how many; the loser is cancelled. Only for statements that are known to change nothing.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from pgroute.core.contracts import EVENTUAL, Otherwise
from pgroute.core.latency import HedgeDelay
from pgroute.observing.observer import Hedge, Reason
from pgroute.results import Result
from pgroute.routing.base import Base, Steps
from pgroute.routing.holder import Holder, Plan
from pgroute.routing.running import Statement, attempt

if TYPE_CHECKING:
    from pgroute.async_router import AsyncRouter
    from pgroute.router import Router

# Only another replica's answer is worth having twice.
_ELSEWHERE = Plan(replace(EVENTUAL, otherwise=Otherwise.RAISE), reason=Reason.HEDGE)
_CANCEL_SECONDS = 1.0
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


class _GivenUp(Exception):
    """The other attempt has won before this one had a connection."""


class _Attempt:
    """One of the two: its connection is not given back while somebody cancels on it."""

    def __init__(
        self, router: Base, statement: Statement, avoid: frozenset[str] = frozenset()
    ) -> None:
        left = max(statement.until - router.clock(), 0.001)
        self.holder = Holder(router, left, statement.plan)
        self.node = ""  # while it has no connection
        self._router = router
        self._statement = statement
        self._avoid = avoid
        self._lock = threading.Lock()
        self._given_up = False
        self._over = False

    def steps(self) -> Steps[Result]:
        """Run it."""
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
    if not first.node or len(router.fleet.replicas) < 2:
        return None
    if not router.hedge_budget.try_take(pace.reads):
        router.observer.hedged(first.node, Hedge.CAPPED)
        return None
    again = replace(statement, plan=_ELSEWHERE)
    return _Attempt(router, again, frozenset({first.node}))


def hedged(router: Router, executor: Executor, pace: Pace, statement: Statement) -> Result:
    """The answer that comes first. Raises Failure, or what leasing raises, when none does."""
    router.require_open()
    started = router.clock()

    def begin(one: _Attempt) -> Future[Result]:
        return executor.submit(lambda: router.drive(one.steps()))

    first = _Attempt(router, statement)
    running = {begin(first): first}
    late = pace.delay.seconds
    if late is not None and not wait(running, timeout=late).done:
        second = _second(router, pace, statement, first)
        if second is not None:
            running[begin(second)] = second
    both = len(running) == 2
    while True:
        future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
        one = running.pop(future)
        if future.exception() is None:
            break
        if not running:
            if both:
                router.observer.hedged(first.node, Hedge.NEITHER)
            return future.result()  # raises
    pace.took(router.clock() - started)
    for loser in running.values():
        with suppress(RuntimeError):  # the router is being closed, and its connections with it
            executor.submit(loser.cancel)
    if both:
        _tell(router, first, one)
    return future.result()


async def hedged_async(router: AsyncRouter, pace: Pace, statement: Statement) -> Result:
    """As :func:`hedged`."""
    started = router.clock()

    def begin(one: _Attempt) -> asyncio.Task[Result]:
        return asyncio.create_task(router.drive(one.steps()))

    first = _Attempt(router, statement)
    running = {begin(first): first}
    try:
        late = pace.delay.seconds
        if late is not None and not (await asyncio.wait(running, timeout=late))[0]:
            second = _second(router, pace, statement, first)
            if second is not None:
                running[begin(second)] = second
        both = len(running) == 2
        while True:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
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


def _tell(router: Base, first: _Attempt, winner: _Attempt) -> None:
    outcome = Hedge.FIRST_WON if winner is first else Hedge.SECOND_WON
    router.observer.hedged(first.node, outcome)
