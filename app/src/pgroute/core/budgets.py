"""Caps on work that was not asked for: spilled reads, retries, hedges. Pure and thread-safe."""

from __future__ import annotations

from threading import Lock

_WHOLE = 1 - 1e-9  # ten times a tenth is one


class TokenBucket:
    """At most ``burst`` at once and ``per_second`` in the long run; full at first.

    In any span of s seconds no more than ``burst + per_second * s`` are taken.
    """

    def __init__(self, *, per_second: float, burst: float, now: float) -> None:
        if per_second < 0 or burst < 0:
            raise ValueError(f"a bucket of {burst:g} filled by {per_second:g} per second")
        self._per_second = per_second
        self._burst = burst
        self._level = burst
        self._filled_at = now
        self._lock = Lock()

    def try_take(self, now: float) -> bool:
        """Take one if there is one."""
        with self._lock:
            if now > self._filled_at:
                self._level = min(
                    self._burst, self._level + (now - self._filled_at) * self._per_second
                )
                self._filled_at = now
            if self._level < _WHOLE:
                return False
            self._level -= 1
            return True


class RatioBudget:
    """At most ``ratio`` of the traffic, plus ``reserve`` for a program that has had none yet.

    The caller counts its requests anyway, and passes the total: nothing is paid per request.
    ``most`` caps what a quiet time saves up: after any moment at most ``most + ratio * requests``
    are taken. In all no more than ``reserve + ratio * requests`` are.
    """

    def __init__(self, ratio: float, *, reserve: float = 0, most: float = 1000) -> None:
        if not 0 <= ratio <= 1 or reserve < 0 or most < reserve:
            raise ValueError(f"a budget of {ratio:g} with reserve {reserve:g} of at most {most:g}")
        self._ratio = ratio
        self._most = most
        self._credit = float(reserve)
        self._requests = 0
        self._lock = Lock()

    def try_take(self, requests: int) -> bool:
        """Take one if there is one; ``requests`` is how many there have been until now."""
        with self._lock:
            if requests > self._requests:
                earned = (requests - self._requests) * self._ratio
                self._credit = min(self._most, self._credit + earned)
                self._requests = requests
            if self._credit < _WHOLE:
                return False
            self._credit -= 1
            return True
