"""Whether a node may be asked: one breaker per node. Pure: the time is passed in.

    CLOSED ──error threshold or deadline──▶ OPEN ──the probe answers──▶ HALF_OPEN
       ▲                                     ▲                             │
       └──── the single trial succeeds ──────┴── the trial fails ──────────┘

A node that is re-admitted warms up: :meth:`Breaker.weight` rises from a tenth to 1.
"""

from __future__ import annotations

from enum import StrEnum
from threading import Lock

_COLD_WEIGHT = 0.1


class BreakerState(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing
    HALF_OPEN = "half_open"  # one trial at a time


class Breaker:
    """One node's breaker. Thread-safe; ``state`` is one attribute read.

    Times are seconds on one monotonic clock. ``threshold``: so many errors open it, unless a
    success or ``forget`` seconds without another one come between.
    ``pause``: how long it stays open at least, doubled by each failed trial up to
    ``longest_pause``. ``trial``: how long a trial may take.
    """

    __slots__ = (
        "_closed_at",
        "_errors",
        "_failed_at",
        "_forget",
        "_lock",
        "_longest_pause",
        "_next_pause",
        "_opened_at",
        "_opened_for",
        "_pause",
        "_threshold",
        "_trial",
        "_trial_since",
        "_warm_up",
        "state",
        "why",
    )

    def __init__(
        self,
        *,
        threshold: int = 3,
        forget: float = 5.0,
        pause: float = 0.1,
        longest_pause: float = 5.0,
        trial: float = 1.0,
        warm_up: float = 5.0,
    ) -> None:
        self._threshold = threshold
        self._forget = forget
        self._failed_at = 0.0
        self._pause = pause
        self._longest_pause = longest_pause
        self._trial = trial
        self._warm_up = warm_up
        self._lock = Lock()
        self._errors = 0
        self._opened_at = 0.0
        self._opened_for = 0.0
        self._next_pause = pause
        self._closed_at: float | None = None  # None: never opened, warm from the start
        self._trial_since: float | None = None
        self.state = BreakerState.CLOSED
        self.why: str | None = None  # it is not closed: one line

    # What was seen of the node

    @property
    def failed_at(self) -> float | None:
        """When the last of the errors came that count, None when none does."""
        return self._failed_at if self._errors else None

    def succeeded(self) -> None:
        """A query came back, or failed for a reason that is not the node's."""
        with self._lock:
            self._errors = 0

    def failed(self, now: float, why: str) -> None:
        """A connection could not be made, or was lost. A running trial has failed with it."""
        with self._lock:
            if now - self._failed_at > self._forget:
                self._errors = 0
            self._failed_at = now
            self._errors += 1
            if self.state is BreakerState.HALF_OPEN or self._errors >= self._threshold:
                self._open(now, why)

    def overdue(self, now: float, why: str) -> None:
        """The node was silent for too long: opens at once."""
        with self._lock:
            self._open(now, why)

    def answered(self, now: float) -> None:
        """The probe has its answer: an open breaker becomes half-open when its pause is over."""
        with self._lock:
            if self.state is BreakerState.OPEN and now - self._opened_at >= self._opened_for:
                self.state = BreakerState.HALF_OPEN

    def check(self, now: float) -> BreakerState:
        """The state after what time alone does: a trial without an end opens it."""
        with self._lock:
            tried = self._trial_since
            if tried is not None and now - tried >= self._trial:
                self._open(now, f"the trial got no answer within {self._trial:g} s")
            return self.state

    # The single trial

    def try_trial(self, now: float) -> bool:
        """True for exactly one caller while half-open: it must tell how the trial ended."""
        with self._lock:
            if self.state is not BreakerState.HALF_OPEN or self._trial_since is not None:
                return False
            self._trial_since = now
            return True

    def trial_succeeded(self, now: float) -> None:
        """Close, and warm up. Without meaning when the trial was given up meanwhile."""
        with self._lock:
            if self.state is not BreakerState.HALF_OPEN or self._trial_since is None:
                return
            self.state = BreakerState.CLOSED
            self.why = None
            self._trial_since = None
            self._errors = 0
            self._next_pause = self._pause
            self._closed_at = now

    def trial_failed(self, now: float, why: str) -> None:
        """Open again, for twice as long."""
        with self._lock:
            if self.state is BreakerState.HALF_OPEN:
                self._open(now, why)

    # What follows

    def weight(self, now: float) -> float:
        """The node's share of the traffic it would have: 0 unless closed, rising to 1."""
        if self.state is not BreakerState.CLOSED:
            return 0.0
        since = self._closed_at
        if since is None or now - since >= self._warm_up:
            return 1.0
        return _COLD_WEIGHT + (1 - _COLD_WEIGHT) * max(0.0, now - since) / self._warm_up

    def _open(self, now: float, why: str) -> None:
        again = self.state is BreakerState.HALF_OPEN
        if self.state is BreakerState.OPEN:
            return
        self.state = BreakerState.OPEN
        self.why = why
        self._next_pause = min(self._next_pause * 2, self._longest_pause) if again else self._pause
        self._opened_at, self._opened_for = now, self._next_pause
        self._trial_since = None
        self._errors = 0
