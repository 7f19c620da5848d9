"""What a record means: which promises were broken, in which window of time. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from pgroute.chaos.tally import BUCKET_SECONDS, Outcome, Promise, Read, Record, Write


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time with a name, such as "replica frozen"."""

    name: str
    begin: float
    end: float

    def holds(self, moment: float) -> bool:
        """True when ``moment`` lies in it."""
        return self.begin <= moment < self.end


@dataclass(frozen=True, slots=True)
class Promotion:
    """``node`` was seen to accept writes on ``timeline``, for the first time at ``at``."""

    node: str
    timeline: int
    at: float


@dataclass(frozen=True, slots=True)
class Line:
    """What happened in one window. Times in seconds."""

    window: str
    seconds: float
    writes: int
    failed_writes: int
    wrong_node: int  # acknowledged on an old timeline, begun after a newer one accepted writes
    dead_branch: int  # the same, but begun before
    lost: int  # acknowledged on the newest timeline, and not there any more
    lost_with_primary: int  # acknowledged on an old timeline before its primary was replaced
    reads: int
    failed_reads: int
    refused_reads: int
    stale: dict[Promise, int]
    reads_of: dict[Promise, int]
    last_failed_read: float | None  # after the window began
    last_failed_write: float | None
    slowest_read: float
    first_write: float | None  # from a promotion in this window to the first write after it
    errors: dict[str, int]  # how many, by the kind of error


@dataclass(frozen=True, slots=True)
class Report:
    """One line a window, and their sum: there the longest time from a promotion to a write."""

    lines: list[Line]
    total: Line
    promotions: list[Promotion] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)  # what the run could not find out

    @property
    def broken(self) -> list[str]:
        """The promises that were broken or not put to the test, one sentence each."""
        total = self.total
        counts = {
            "writes were acknowledged by the wrong node": total.wrong_node,
            "acknowledged writes were lost": total.lost,
            "reads after a token were stale": total.stale[Promise.AFTER],
            "reads in a session went back in time": total.stale[Promise.MONOTONIC],
            "reads exceeded the accepted lag": total.stale[Promise.MAX_LAG],
        }
        return [f"{count} {what}" for what, count in counts.items() if count] + self.unproven


def judge(
    record: Record,
    windows: Sequence[Window],
    promotions: Sequence[Promotion],
    present: AbstractSet[tuple[int, int]] | None,
    unproven: Sequence[str] = (),
) -> Report:
    """The report. ``present``: the (worker, sequence) found on the primary at the end, None when
    nobody could say; then no write is called lost."""
    ordered = sorted(promotions, key=lambda promotion: promotion.at)
    verdicts = [(write, _verdict(write, ordered, present)) for write in record.writes]
    lost = {
        (write.worker, write.sequence)
        for write, verdict in verdicts
        if verdict in ("lost_with_primary", "dead_branch")
    }
    # A read within a lag cannot find what the failover has lost; nobody promised that it would.
    stale = [
        read
        for read in record.stale
        if read.promise is not Promise.MAX_LAG or (read.worker, read.missing) not in lost
    ]
    whole = Window("total", windows[0].begin, windows[-1].end)
    lines = [_line(window, record, verdicts, stale, ordered) for window in (*windows, whole)]
    promoted = [line.first_write for line in lines[:-1] if line.first_write is not None]
    total = replace(
        lines[-1],
        last_failed_read=None,
        last_failed_write=None,
        first_write=max(promoted, default=None),
    )
    return Report(lines[:-1], total, ordered, list(unproven))


def _verdict(
    write: Write, promotions: Iterable[Promotion], present: AbstractSet[tuple[int, int]] | None
) -> str:
    if write.error is not None or write.timeline is None:
        return "failed"
    newer = [p for p in promotions if p.timeline > write.timeline]
    if any(p.at <= write.began for p in newer):
        return "wrong_node"
    if present is None or (write.worker, write.sequence) in present:
        return "kept"
    if any(p.at <= write.ended for p in newer):
        return "dead_branch"
    return "lost_with_primary" if newer else "lost"


def _line(
    window: Window,
    record: Record,
    verdicts: Sequence[tuple[Write, str]],
    stale: Sequence[Read],
    promotions: Sequence[Promotion],
) -> Line:
    writes = [(write, verdict) for write, verdict in verdicts if window.holds(write.ended)]
    reads = [count for count in record.reads if window.holds((count.bucket + 0.5) * BUCKET_SECONDS)]
    failures = [count for count in reads if count.outcome is Outcome.FAILED]
    failed_writes = [write for write, verdict in writes if verdict == "failed"]

    def verdict(name: str) -> int:
        return sum(1 for _, each in writes if each == name)

    def outcome(*names: Outcome, promise: Promise | None = None) -> int:
        return sum(
            count.count
            for count in reads
            if count.outcome in names and promise in (None, count.promise)
        )

    errors = Counter((write.error or "").partition(":")[0] for write in failed_writes)
    for count in failures:
        errors[count.error] += count.count
    return Line(
        window=window.name,
        seconds=window.end - window.begin,
        writes=len(writes) - len(failed_writes),
        failed_writes=len(failed_writes),
        wrong_node=verdict("wrong_node"),
        dead_branch=verdict("dead_branch"),
        lost=verdict("lost"),
        lost_with_primary=verdict("lost_with_primary"),
        reads=outcome(Outcome.KEPT, Outcome.STALE),
        failed_reads=outcome(Outcome.FAILED),
        refused_reads=outcome(Outcome.REFUSED),
        stale={
            p: sum(1 for read in stale if read.promise is p and window.holds(read.ended))
            for p in Promise
        },
        reads_of={p: outcome(Outcome.KEPT, Outcome.STALE, promise=p) for p in Promise},
        last_failed_read=max(
            (max(0.0, count.last - window.begin) for count in failures), default=None
        ),
        last_failed_write=max((w.ended - window.begin for w in failed_writes), default=None),
        slowest_read=max((count.slowest for count in reads), default=0.0),
        first_write=_first_write(window, writes, promotions),
        errors=dict(errors),
    )


def _first_write(
    window: Window, writes: Sequence[tuple[Write, str]], promotions: Sequence[Promotion]
) -> float | None:
    """Seconds from the last promotion in the window to the first write acknowledged there."""
    inside = [p for p in promotions[1:] if window.holds(p.at)]
    if not inside:
        return None
    last = inside[-1]
    return min((w.ended - last.at for w, _ in writes if w.timeline == last.timeline), default=None)
