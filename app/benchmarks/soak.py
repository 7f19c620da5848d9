"""Minutes of load with faults, and the memory of the process meanwhile.

    python -m benchmarks.soak [--minutes 10] [--output FOLDER]

Nothing is kept of the load but counts, so that what grows is the router's or psycopg's. Before each
look, what is free goes back to the system: else it is the allocator's holdings that are seen to
grow, in steps of megabytes.

Exit 1 when a read was stale, or when memory grew by more than ``budgets.GROWTH_KIB``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from benchmarks.budgets import GROWTH_KIB, complaint_of_soak
from benchmarks.faults import Faults, Shell, play, scenario
from benchmarks.fleet import breakable, reached_directly
from benchmarks.machine import describe_machine
from benchmarks.memory import private_kib
from pgroute import Router, new_key
from pgroute.chaos.router_client import RouterClient
from pgroute.chaos.tally import Outcome, Promise, Read, Tally, Write
from pgroute.chaos.workload import Workload
from pgroute.text import table

_SAMPLE_SECONDS = 5.0
_FAULT_SECONDS = 2.0


@dataclass(frozen=True)
class Sample:
    """The process at one moment. Seconds since the start, KiB, and how many."""

    seconds: float
    private_kib: int
    threads: int
    descriptors: int
    writes: int
    reads: int
    failed: int
    stale: int


class Counts(Tally):
    """Counts, and forgets everything but the stale reads."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.stale: list[Read] = []

    def wrote(self, write: Write) -> None:
        self.counted["failed" if write.error else "writes"] += 1

    def read(self, read: Read) -> None:
        self.counted[read.outcome] += 1
        if read.outcome is Outcome.STALE:
            self.stale.append(read)


def soak(minutes: float, say: Callable[[str], None]) -> tuple[list[Sample], list[Read]]:
    """Load and faults for so long; a sample every few seconds, and the stale reads.

    Without the reads within a lag that could not find what a failover has lost.
    """
    counts, samples = Counts(), list[Sample]()
    began, done = time.monotonic(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            samples.append(_sample(time.monotonic() - began, counts.counted))
            done.wait(_SAMPLE_SECONDS)

    with breakable() as servers, Shell(servers.container) as shell:
        faults = Faults(servers, shell)
        with Router(reached_directly(servers)) as router:
            client = RouterClient(router, UUID(str(new_key())), timeout=0.8, max_lag="500ms")
            workload = Workload(client, counts)
            watcher = threading.Thread(target=watch)
            workload.start()
            watcher.start()
            try:
                while time.monotonic() - began < minutes * 60:
                    play(faults, scenario(_FAULT_SECONDS), say, settle=1.0)
            finally:
                done.set()
                stopped = workload.stop()
                watcher.join()
            assert stopped, "a thread of the workload hangs"
            present = client.found()
    lag = Promise.MAX_LAG
    stale = [r for r in counts.stale if r.promise is not lag or (r.worker, r.missing) in present]
    return samples, stale


def _sample(seconds: float, counted: Counter[str]) -> Sample:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return Sample(
        seconds=round(seconds, 1),
        private_kib=private_kib(),
        threads=threading.active_count(),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        writes=counted["writes"],
        reads=counted[Outcome.KEPT],
        failed=counted["failed"] + counted[Outcome.FAILED],
        stale=counted[Outcome.STALE],
    )


def growth_kib(samples: Sequence[Sample]) -> float | None:
    """Mean of the last quarter less mean of the second: the first one is still filling caches.

    None when there are too few samples for quarters."""
    quarter = len(samples) // 4
    if quarter == 0:
        return None

    def mean(part: Sequence[Sample]) -> float:
        return sum(sample.private_kib for sample in part) / len(part)

    return mean(samples[-quarter:]) - mean(samples[quarter : 2 * quarter])


def main() -> None:
    """Soak, print, write; exit 1 when a read was stale or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, help="folder for soak.json and soak.txt")
    arguments = parser.parse_args()
    samples, stale = soak(arguments.minutes, print)
    step = max(1, len(samples) // 12)
    rows = [tuple(asdict(sample).values()) for sample in samples[::step]]
    growth = growth_kib(samples)
    grown = "unknown" if growth is None else f"{growth:,.0f}"
    text = (
        table(tuple(name.replace("_", " ") for name in asdict(samples[0])), rows, indent=0)
        + f"\n\ngrowth from the second to the last quarter: {grown} KiB"
        + f" (limit: {GROWTH_KIB:,.0f})"
        + f"\nstale reads, without those of what a failover has lost: {len(stale)}"
        + "".join(f"\n  {read.promise} on {read.node}, {read.what}" for read in stale)
    )
    print(text)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "soak.txt").write_text(text + "\n")
        result = {"machine": describe_machine(), "samples": [asdict(each) for each in samples]}
        (arguments.output / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    last = samples[-1]
    if said := complaint_of_soak(growth, stale=len(stale), writes=last.writes, reads=last.reads):
        sys.exit(f"the soak failed: {said}")


if __name__ == "__main__":
    main()
