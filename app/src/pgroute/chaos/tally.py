"""What the workload writes down. Times are of one monotonic clock, in seconds."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from enum import StrEnum

BUCKET_SECONDS = 0.1


class Promise(StrEnum):
    """What a read was promised."""

    AFTER = "after"  # at least what its token stands for
    MONOTONIC = "monotonic"  # at least what its session has seen
    MAX_LAG = "max_lag"  # everything older than the accepted lag
    EVENTUAL = "eventual"  # nothing


class Outcome(StrEnum):
    """How a read ended."""

    KEPT = "kept"
    STALE = "stale"  # the promise was broken without a word
    REFUSED = "refused"  # the promise could not be proven, and that was said
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Write:
    """One attempt to write. Acknowledged when ``error`` is None."""

    worker: int
    sequence: int
    began: float
    ended: float
    node: str | None
    timeline: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Read:
    """One read. ``missing``: the sequence of ``worker`` that a stale read should have found."""

    promise: Promise
    outcome: Outcome
    began: float
    ended: float
    node: str | None
    what: str
    worker: int
    missing: int


@dataclass(slots=True)
class ReadCount:
    """The reads that ended within one bucket of time in one way; ``error``: its kind."""

    bucket: int
    promise: Promise
    outcome: Outcome
    node: str | None
    error: str
    count: int = 0
    slowest: float = 0.0
    last: float = 0.0  # when it ended


@dataclass(frozen=True, slots=True)
class Record:
    """All that one run of the workload wrote down: reads are counted, stale ones also told."""

    writes: list[Write]
    reads: list[ReadCount]
    stale: list[Read]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many so far."""

    writes: int
    failed_writes: int
    reads: dict[Outcome, int]


class Tally:
    """Collects from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: list[Write] = []
        self._stale: list[Read] = []
        self._reads: dict[tuple[int, Promise, Outcome, str | None, str], ReadCount] = {}
        self._failed_writes = 0
        self._outcomes = dict.fromkeys(Outcome, 0)

    def wrote(self, write: Write) -> None:
        """Note an attempt to write."""
        with self._lock:
            self._writes.append(write)
            self._failed_writes += write.error is not None

    def read(self, read: Read) -> None:
        """Note a read."""
        error = read.what.partition(":")[0] if read.outcome is Outcome.FAILED else ""
        key = (int(read.ended / BUCKET_SECONDS), read.promise, read.outcome, read.node, error)
        with self._lock:
            self._outcomes[read.outcome] += 1
            count = self._reads.get(key)
            if count is None:
                count = self._reads[key] = ReadCount(*key)
            count.count += 1
            count.slowest = max(count.slowest, read.ended - read.began)
            count.last = max(count.last, read.ended)
            if read.outcome is Outcome.STALE:
                self._stale.append(read)

    def counts(self) -> Counts:
        """How many attempts so far."""
        with self._lock:
            done = len(self._writes) - self._failed_writes
            return Counts(done, self._failed_writes, dict(self._outcomes))

    def record(self) -> Record:
        """A copy of everything so far."""
        with self._lock:
            reads = [replace(count) for count in self._reads.values()]
            return Record(list(self._writes), reads, list(self._stale))
