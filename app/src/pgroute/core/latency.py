"""How long queries take lately: when a second node is asked because the first is slow. Pure."""

from __future__ import annotations


class Latencies:
    """The last ``window`` durations in seconds. :meth:`record` is for the fast path; threads that
    record at once may overwrite each other's sample, which does no harm."""

    __slots__ = ("_at", "_ring", "_window")

    def __init__(self, window: int = 512) -> None:
        if window < 1:
            raise ValueError(f"a window of {window} samples")
        self._window = window
        self._ring: list[float] = []
        self._at = 0

    def __len__(self) -> int:
        return len(self._ring)

    def record(self, seconds: float) -> None:
        """Count one."""
        ring, at = self._ring, self._at
        if len(ring) < self._window:
            ring.append(seconds)
        else:
            ring[at % self._window] = seconds
            self._at = at + 1

    def percentile(self, fraction: float) -> float | None:
        """The smallest duration that ``fraction`` of them do not exceed; None when there are none.

        Sorts: not for the fast path.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"a fraction of {fraction:g}")
        ordered = sorted(self._ring)
        if not ordered:
            return None
        return ordered[max(0, -int(-fraction * len(ordered) // 1) - 1)]


class HedgeDelay:
    """After how many seconds a read is hedged: a percentile of the latencies, within limits."""

    def __init__(
        self,
        *,
        fraction: float = 0.95,
        shortest: float = 0.001,
        longest: float = 1.0,
        enough: int = 50,
        window: int = 512,
    ) -> None:
        """``enough``: with fewer samples nothing is hedged."""
        self.latencies = Latencies(window)
        self.seconds: float | None = None  # None: do not hedge yet
        self._fraction = fraction
        self._shortest = shortest
        self._longest = longest
        self._enough = enough

    def update(self) -> None:
        """Compute ``seconds`` anew: now and then, from the background."""
        found = self.latencies.percentile(self._fraction)
        if found is not None and len(self.latencies) >= self._enough:
            self.seconds = min(max(found, self._shortest), self._longest)
