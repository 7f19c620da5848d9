"""What the router tells to whoever counts, traces or logs: silent by default.

The router calls an observer from any thread and never waits for it: a method must be quick and
must not raise. Only :meth:`Observer.counter`'s callable is on the fast path of a read; everything
else is called when something took longer or went wrong.

An observer derives from :class:`Silent` and overrides what it wants to hear. Several at once:
``together(metrics, mine)``. A router has a log, and spans if the process traces, besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Protocol

from pgroute.core.topology import Role


class Reason(StrEnum):
    """Why a connection came from the server it came from."""

    WRITE = "write"
    READ = "read"
    AFTER_TOKEN = "after_token"  # noqa: S105 - a label, not a secret
    MAX_LAG = "max_lag"  # within the lag the caller accepts
    MONOTONIC = "monotonic"  # not behind what the session has seen
    STRONG = "strong"  # the caller asked for the primary
    STATEMENT = "statement"  # the statement is not known to be a read
    NAMED = "named"  # the caller named the node
    RETRY = "retry"  # an earlier attempt failed elsewhere
    HEDGE = "hedge"  # the second of two equal reads
    NO_HEALTHY_REPLICA = "no_healthy_replica"
    TOKEN_NOT_REACHED = "token_not_reached"  # noqa: S105 - a label, not a secret
    LAG_EXCEEDED = "lag_exceeded"  # no replica within the lag the caller accepts


class Fault(StrEnum):
    """What went wrong on a server."""

    NO_CONNECTION = "no_connection"
    CONNECTION_LOST = "connection_lost"
    READ_ONLY = "read_only"
    OVERDUE = "overdue"


class Purpose(StrEnum):
    """What a caller asked for."""

    READ = "read"
    WRITE = "write"


class Wait(StrEnum):
    """What a caller waited for, off the fast path."""

    CHECKOUT = "checkout"  # a free connection
    TOKEN = "token"  # noqa: S105 - a label: a replica to replay a token
    PRIMARY = "primary"  # a primary to appear


class Hedge(StrEnum):
    """How a read that was slow enough for a second attempt ended."""

    FIRST_WON = "first_won"
    SECOND_WON = "second_won"
    NEITHER = "neither"  # both attempts failed
    CAPPED = "capped"  # no second attempt: the budget was used up


class Doubt(StrEnum):
    """What is known of a COMMIT whose answer was lost, after asking for it."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    UNKNOWN = "unknown"  # CommitUnknown was raised


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that has ended.

    ``statement``: its text as it may be shown: placeholders, never values. ``started_at``:
    nanoseconds since 1970. ``error``: what was raised, else None.
    """

    node: str
    role: Role | None
    reason: Reason | None
    statement: str
    started_at: int
    seconds: float
    error: BaseException | None = None


class Observer(Protocol):
    """What the router calls. Nodes are named as in the settings; times are in seconds."""

    @property
    def wants_queries(self) -> bool:
        """Whether :meth:`queried` is to be called. Asked once, when the router opens.

        While False, no statement is timed and no cursor is wrapped.
        """
        ...

    @property
    def queries_from(self) -> float:
        """How many seconds a statement must have taken to be told of: 0 for all of them."""
        ...

    def counter(self, node: str, role: Role, reason: Reason) -> Callable[[], object]:
        """What to call for each connection handed out this way. Asked once per triple, kept."""
        ...

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        """A connection to ``node`` was handed out: as ``counter(node, role, reason)()``.

        For callers that do not keep the counter. Of the two, one is called, once per lease.
        """
        ...

    def failed(self, node: str, fault: Fault) -> None:
        """Something went wrong on ``node``."""
        ...

    def refused(self, purpose: Purpose, error: Exception) -> None:
        """A caller got one of pgroute's own errors instead of what it asked for."""
        ...

    def waited(self, node: str | None, wait: Wait, seconds: float) -> None:
        """A caller waited, with or without success; ``node``: None while there was none yet."""
        ...

    def retried(self, node: str, action: str, sqlstate: str | None) -> None:
        """An attempt on ``node`` failed and is made again.

        ``action``: what the retry table says, such as "next_node"; ``sqlstate``: None when the
        server said nothing.
        """
        ...

    def hedged(self, node: str, outcome: Hedge) -> None:
        """A slow read on ``node`` was hedged, or would have been."""
        ...

    def spilled(self, reason: Reason, allowed: bool) -> None:
        """A read no replica could serve goes to the primary, or may not: the cap is reached."""
        ...

    def misrouted(self, node: str, statement: str) -> None:
        """A statement taken for a read was refused by ``node`` and goes to the primary."""
        ...

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        """The answer to a COMMIT on ``node`` was lost."""
        ...

    def breaker_turned(self, node: str, state: str) -> None:
        """The breaker of ``node`` is now "closed", "open" or "half_open"."""
        ...

    def primary_changed(self, before: str | None, after: str | None) -> None:
        """Writes go elsewhere from now on; None: nowhere."""
        ...

    def queried(self, query: Query) -> None:
        """A statement has ended. Only when :attr:`wants_queries`."""
        ...


class Silent:
    """Hears everything, does nothing: the base of every observer."""

    @property
    def wants_queries(self) -> bool:
        return False

    @property
    def queries_from(self) -> float:
        return 0.0

    def counter(self, node: str, role: Role, reason: Reason) -> Callable[[], object]:
        """Calls :meth:`routed`, or nothing where that does nothing."""
        if type(self).routed is Silent.routed:
            return _nothing
        return partial(self.routed, node, role, reason)

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        return

    def failed(self, node: str, fault: Fault) -> None:
        return

    def refused(self, purpose: Purpose, error: Exception) -> None:
        return

    def waited(self, node: str | None, wait: Wait, seconds: float) -> None:
        return

    def retried(self, node: str, action: str, sqlstate: str | None) -> None:
        return

    def hedged(self, node: str, outcome: Hedge) -> None:
        return

    def spilled(self, reason: Reason, allowed: bool) -> None:
        return

    def misrouted(self, node: str, statement: str) -> None:
        return

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        return

    def breaker_turned(self, node: str, state: str) -> None:
        return

    def primary_changed(self, before: str | None, after: str | None) -> None:
        return

    def queried(self, query: Query) -> None:
        return


def _nothing() -> None:
    return


def together(*observers: Observer) -> Observer:
    """One observer that tells all of these, in this order; a single one is returned as it is."""
    heard = [one for one in observers if type(one) is not Silent]
    if not heard:
        return Silent()
    return heard[0] if len(heard) == 1 else _Together(heard)


def each_of(observer: Observer) -> Sequence[Observer]:
    """The observers that :func:`together` has made one of; a single one as it is."""
    if not isinstance(observer, _Together):
        return (observer,)
    return [one for several in observer._all for one in each_of(several)]


class _Together(Silent):
    def __init__(self, observers: Sequence[Observer]) -> None:
        self._all = tuple(observers)
        self._asking = tuple(one for one in self._all if one.wants_queries)

    @property
    def wants_queries(self) -> bool:
        return bool(self._asking)

    @property
    def queries_from(self) -> float:
        return min((one.queries_from for one in self._asking), default=0.0)

    def counter(self, node: str, role: Role, reason: Reason) -> Callable[[], object]:
        every = [one.counter(node, role, reason) for one in self._all]
        counters = tuple(count for count in every if count is not _nothing)
        if not counters:
            return _nothing
        if len(counters) == 1:
            return counters[0]

        def count() -> None:
            for counter in counters:
                counter()

        return count

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        for one in self._all:
            one.routed(node, role, reason)

    def failed(self, node: str, fault: Fault) -> None:
        for one in self._all:
            one.failed(node, fault)

    def refused(self, purpose: Purpose, error: Exception) -> None:
        for one in self._all:
            one.refused(purpose, error)

    def waited(self, node: str | None, wait: Wait, seconds: float) -> None:
        for one in self._all:
            one.waited(node, wait, seconds)

    def retried(self, node: str, action: str, sqlstate: str | None) -> None:
        for one in self._all:
            one.retried(node, action, sqlstate)

    def hedged(self, node: str, outcome: Hedge) -> None:
        for one in self._all:
            one.hedged(node, outcome)

    def spilled(self, reason: Reason, allowed: bool) -> None:
        for one in self._all:
            one.spilled(reason, allowed)

    def misrouted(self, node: str, statement: str) -> None:
        for one in self._all:
            one.misrouted(node, statement)

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        for one in self._all:
            one.in_doubt(node, outcome)

    def breaker_turned(self, node: str, state: str) -> None:
        for one in self._all:
            one.breaker_turned(node, state)

    def primary_changed(self, before: str | None, after: str | None) -> None:
        for one in self._all:
            one.primary_changed(before, after)

    def queried(self, query: Query) -> None:
        for one in self._asking:
            one.queried(query)
