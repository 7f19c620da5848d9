"""What a router knows of its servers, and who may be asked now: shared by both fronts.

The sampler's thread brings the answers in; every other thread only reads. Whoever has to wait for
news asks for a future with :meth:`Fleet.when`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from random import Random
from typing import Protocol

import psycopg

from pgroute.config import Settings
from pgroute.core.breaker import Breaker, BreakerState
from pgroute.core.candidates import select
from pgroute.core.contracts import EVENTUAL
from pgroute.core.ledger import Ledger
from pgroute.core.lsn import Mark
from pgroute.core.topology import Answer, Fence, Observation, Role, Silence, Topology, decide
from pgroute.errors import PgrouteError, RouterClosed
from pgroute.observing.observer import Fault, Observer
from pgroute.routing.probe import one_line
from pgroute.routing.sampler import Sampler

_log = logging.getLogger("pgroute")

_SWEEP_SECONDS = 1.0
_RIVAL_SECONDS = 30.0  # so long a silent server of a split is taken for as writable as it was
_DECIDE_SECONDS = 0.05  # how old a lag may be before the topology is made anew for it alone


class Crew(Protocol):
    """The front's pools. What is not called from the sampler's thread may wait."""

    def routes_changed(self) -> None:
        """Other servers may be used than before. Called from the sampler's thread."""

    def answered_in(self, node: str, seconds: float) -> None:
        """A server answered the sampler. Called from the sampler's thread."""

    def watch(self, now: float) -> None:
        """Cut what is overdue. Called from the sampler's thread, every few milliseconds."""

    def worked_since(self, node: str, moment: float) -> bool:
        """Whether a connection was handed out after ``moment`` and came back well. As ``watch``."""

    def cut_reads(self, node: str) -> None:
        """Cut whoever waits for a read on a server that is silent. Called as ``watch``."""

    def abandon(self, node: str) -> None:
        """Let nobody wait for a connection to a silent server."""

    def cut_writes(self, node: str) -> None:
        """Cut whoever writes on a server that is the primary no more. Called as ``watch``."""

    def renew(self, node: str, *, writes_only: bool = False) -> None:
        """Use no connection to ``node`` again that was made until now."""

    def warm(self, node: str, limit: float) -> None:
        """Have connections to ``node`` ready."""

    def sweep(self, now: float) -> None:
        """Put idle connections away."""


class Fleet:
    """Topology, ledger and breakers of one router, and the thread that feeds them."""

    def __init__(
        self,
        settings: Settings,
        crew: Crew,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.observer = observer
        self.names = tuple(node.name for node in settings.members)
        self.ledger = Ledger()
        self.breakers = {
            name: Breaker(trial=settings.connect_timeout_seconds + 1.0) for name in self.names
        }
        self.topology = Topology(
            nodes=(), primary=None, replicas=(), fence=Fence(), problem="nothing was asked yet"
        )
        self.primary: str | None = None  # that may be used now
        self.replicas: tuple[str, ...] = ()  # that may be used now
        self.heard_at: float | None = None  # when the newest answer of any server was asked for
        self._crew = crew
        self._seen: dict[str, Observation] = {
            name: Silence(name, "not asked yet") for name in self.names
        }
        self._told_at = dict.fromkeys(self.names, 0.0)
        self._silent_since: dict[str, float] = {}
        self.losses = dict.fromkeys(self.names, 0)  # of the probe's connections: maybe crashes
        self._lost: set[str] = set()
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._states = dict.fromkeys(self.names, BreakerState.CLOSED)
        self._rivals: dict[str, Answer] = {}  # of the last split
        self._pinned = False  # whether what the fence says was decided with all servers known
        self._wrote_to: str | None = None  # the newest primary
        self._decided_at = 0.0
        self._swept_at = 0.0
        self._waiters: list[tuple[Callable[[], bool], Future[None]]] = []
        self._waiters_lock = threading.Lock()
        self._executor = ThreadPoolExecutor(
            2 * len(self.names) + 1, thread_name_prefix="pgroute-help"
        )
        self._sampler = Sampler(settings, self, self._executor, clock=clock, random=random)
        # Contracts are in use: samples shall come quickly.
        self.want: Callable[[], None] = self._sampler.want
        self._closed = False

    # Life

    def start(self) -> None:
        """Begin to ask."""
        self._sampler.start()

    def stop(self, limit: float) -> None:
        """End within about ``limit`` seconds."""
        self._closed = True
        self._sampler.stop(limit)
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._waiters_lock:
            waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            with suppress(InvalidStateError):
                future.set_exception(RouterClosed("the router is closed"))

    # For whoever routes

    def wake(self) -> None:
        """Ask everybody at once."""
        self._sampler.wake()

    def suspect(self, node: str, fault: Fault, why: str) -> None:
        """Something went wrong on ``node``: count it, and ask at once.

        Slowness counts only while another replica can serve: it never sends all to the primary.
        """
        self.observer.failed(node, fault)
        slow = fault is Fault.OVERDUE and self.has_another(node)
        if slow or fault in (Fault.CONNECTION_LOST, Fault.NO_CONNECTION):
            self.breakers[node].failed(self.clock(), why)
        self.wake()

    def has_another(self, node: str) -> bool:
        """Whether ``node`` is one of several replicas that may be used."""
        replicas = self.replicas
        return node in replicas and len(replicas) > 1

    def mark(
        self,
        node: str,
        ended_at: float,
        timeline: int | None = None,
        epoch: int | None = None,
    ) -> Mark:
        """The mark of what ended on ``node``; timeline and epoch as of now unless given."""
        ledger, topology = self.ledger, self.topology
        newest = topology.fence.timeline if node == topology.primary else ledger.timeline
        return Mark(
            node,
            ended_at,
            newest if timeline is None else timeline,
            ledger.epoch(node) if epoch is None else epoch,
        )

    def when(self, condition: Callable[[], bool]) -> Future[None]:
        """A future that is done once ``condition()`` holds; it is asked after every answer.

        An error that it raises becomes the future's. Cancel the future to stop waiting.
        """
        future: Future[None] = Future()
        with self._waiters_lock:
            self._waiters.append((condition, future))
        self._look(condition, future)
        return future

    def asked_since(self, moment: float) -> Callable[[], bool]:
        """A condition: each server has answered, or is known to be silent, since ``moment``."""

        def told() -> bool:
            return all(self._told_at[name] >= moment for name in self.names)

        return told

    def in_background(self, act: Callable[[], object]) -> None:
        """Run ``act`` in a helper thread; its errors are logged, none is expected."""

        def guarded() -> None:
            try:
                act()
            except (psycopg.Error, OSError, PgrouteError) as error:
                _log.info("in the background: %s", one_line(error))

        with suppress(RuntimeError):  # closing
            self._executor.submit(guarded)

    # For the sampler, from its thread

    def answered(self, answer: Answer, *, started_at: float) -> None:
        """A server told what it is."""
        now, name = self.clock(), answer.node
        before = self._seen[name]
        self._seen[name] = answer
        self._told_at[name] = self.heard_at = started_at
        self._silent_since.pop(name, None)
        self.breakers[name].answered(now)
        self._crew.answered_in(name, now - started_at)
        if now - self._decided_at >= _DECIDE_SECONDS or _differs(before, answer):
            self._decide(now)
        self._note(answer, started_at)
        self._news()

    def fell_silent(self, silence: Silence, *, lost: bool) -> None:
        """A server did not answer, or its connection is gone."""
        now, name = self.clock(), silence.node
        was = self._seen[name]
        self._seen[name] = silence
        self._told_at[name] = now
        self._silent_since.setdefault(name, now)
        if lost:
            self._lost.add(name)
            self.losses[name] += 1
        self.ledger.silent(name)
        self.breakers[name].overdue(now, silence.why)
        if was != silence:
            self._decide(now)
        self._news()

    def tick(self, now: float) -> None:
        """Look at breakers and deadlines; tell the crew who may be used."""
        for name, breaker in self.breakers.items():
            failed_at = breaker.failed_at
            if failed_at is not None and self._crew.worked_since(name, failed_at):
                breaker.succeeded()
            state = breaker.check(now)
            if state is BreakerState.HALF_OPEN and breaker.try_trial(now):
                self.in_background(lambda name=name: self._trial(name))  # type: ignore[misc]
            if state is not self._states[name]:
                self._states[name] = state
                self.observer.breaker_turned(name, str(state))
        self._choose()
        eject_after = self.settings.eject_after_seconds
        for name, since in self._silent_since.items():
            self._crew.abandon(name)
            if now - since >= eject_after:
                self._crew.cut_reads(name)
        self._crew.watch(now)
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            self.in_background(lambda: self._crew.sweep(now))

    # How it comes about

    def _decide(self, now: float) -> None:
        before = self.topology
        self._decided_at = now
        self.topology = after = decide(
            [self._known(name, now) for name in self.names],
            # The first that answers must not decide whose cluster this is.
            fence=before.fence if self._pinned else Fence(),
            max_lag_bytes=self.settings.max_lag_bytes,
        )
        self._pinned = self._pinned or all(self._told_at.values())
        rivals = {name: self._known(name, now) for name in after.split}
        self._rivals = {name: one for name, one in rivals.items() if isinstance(one, Answer)}
        if (before.primary, before.problem) != (after.primary, after.problem):
            _log.info("primary: %s", after.primary or f"none ({after.problem})")
        if before.primary != after.primary:  # even while the new one may not be used yet
            self._leave_old_primaries()
        self._choose()
        for state in after.nodes:
            if state.role in (Role.FENCED, Role.FOREIGN):
                self._crew.cut_writes(state.node)

    def _known(self, name: str, now: float) -> Observation:
        """What a server said last. A rival for the primary's place that falls silent has not given
        it up: it may only have stalled."""
        rival = self._rivals.get(name)
        since = self._silent_since.get(name)
        if rival is not None and since is not None and now - since < _RIVAL_SECONDS:
            return rival
        return self._seen[name]

    def _choose(self) -> None:
        """Who of the topology may be used now, by the breakers.

        One that warms up is in for a share of the moments, without cost to the fast path.
        """
        topology = self.topology
        primary = topology.primary
        if primary is not None and self.breakers[primary].state is not BreakerState.CLOSED:
            primary = None
        replicas = select(
            EVENTUAL,
            topology,
            self.ledger,
            now=self.clock(),
            breakers=self.breakers,
            draw=self._random.random(),
        ).candidates
        if (primary, replicas) == (self.primary, self.replicas):
            return
        before, self.primary, self.replicas = self.primary, primary, replicas
        if before != primary:
            self.observer.primary_changed(before, primary)
        self._crew.routes_changed()
        self._news()

    def _leave_old_primaries(self) -> None:
        """Nobody writes there any more. One that is only silent may come back: then they go on."""
        primary = self.topology.primary
        if primary is None:
            return
        for state in self.topology.nodes:
            name = state.node
            fenced = state.role in (Role.FENCED, Role.FOREIGN)
            if name != primary and (name == self._wrote_to or fenced):
                self._crew.cut_writes(name)
                self.in_background(partial(self._crew.renew, name, writes_only=True))
        self._wrote_to = primary

    def _note(self, answer: Answer, started_at: float) -> None:
        topology, name = self.topology, answer.node
        if name == topology.primary and answer.position is not None:
            self.ledger.primary_seen(
                name,
                started_at=started_at,
                timeline=answer.timeline,
                position=answer.position,
                system_identifier=answer.system_identifier,
            )
        elif answer.in_recovery and answer.system_identifier == topology.fence.system_identifier:
            self.ledger.replica_seen(
                name,
                started_at=started_at,
                timeline=answer.timeline,
                position=answer.position,
                complete=answer.complete,
            )

    def _trial(self, name: str) -> None:
        """A new connection, as a caller would make one; then the pools are made warm."""
        breaker = self.breakers[name]
        member = next(member for member in self.settings.members if member.name == name)
        parameters = self.settings.connection(member, user=self.settings.reader, read_only=True)
        try:
            psycopg.connect(autocommit=True, **parameters).close()
        except (psycopg.Error, OSError) as error:
            breaker.trial_failed(self.clock(), one_line(error))
            return
        if name in self._lost:
            self._lost.discard(name)
            self._crew.renew(name)
        try:
            self._crew.warm(name, 1.0)
        except Exception as error:  # noqa: BLE001 - a hook's own, maybe: the server is well
            _log.info("%s: while it warmed up: %s", name, one_line(error))
        breaker.trial_succeeded(self.clock())
        self._sampler.wake()

    def _news(self) -> None:
        if not self._waiters:
            return
        with self._waiters_lock:
            waiters = list(self._waiters)
        for condition, future in waiters:
            self._look(condition, future)
        with self._waiters_lock:
            self._waiters = [one for one in self._waiters if not one[1].done()]

    @staticmethod
    def _look(condition: Callable[[], bool], future: Future[None]) -> None:
        with suppress(Exception):  # InvalidStateError: done or cancelled meanwhile
            try:
                holds = condition()
            except PgrouteError as error:
                future.set_exception(error)
                return
            if holds:
                future.set_result(None)


def _differs(before: Observation, after: Answer) -> bool:
    """Whether more than the position is new."""
    return not isinstance(before, Answer) or (
        before.in_recovery,
        before.timeline,
        before.system_identifier,
        before.receiving,
        before.position is None,
    ) != (
        after.in_recovery,
        after.timeline,
        after.system_identifier,
        after.receiving,
        after.position is None,
    )
