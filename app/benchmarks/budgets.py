"""What is asked of the figures, and whether they hold it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from benchmarks.faults import FROZEN, PROMOTED, THAWED
from benchmarks.figures import FIGURES, PathFigures
from pgroute.chaos.report import Line, Report
from pgroute.chaos.tally import Promise
from pgroute.text import table

READS = 10_000  # of each promise, for "none of them stale" to mean something
FROZEN_SECONDS = 1.0  # from the freeze of a replica to the last read that fails
FIRST_WRITE_SECONDS = 0.3  # from the moment the new primary accepts writes
GROWTH_KIB = 1024.0  # of a process under load; one byte kept of each call would be a third of it

OURS = "pgroute"  # how the names of all our clients and paths begin
HASQL = ("hasql 0.10 on psycopg", "hasql 0.10 on asyncpg")


# Chaos


def broken_promises(report: Report, *, every_fault: bool = True) -> list[str]:
    """What did not hold, a clause each. ``every_fault``: the run was the whole scenario, so that
    all of it must have been put to the test."""
    broken = [*report.broken, *_late_writes(report)]
    frozen = last_read_failed(report, FROZEN, THAWED)
    if frozen is not None and frozen > FROZEN_SECONDS:
        broken.append(
            f"reads failed until {frozen:.2f} s after a replica froze{_at_most(FROZEN_SECONDS)}"
        )
    if every_fault:
        broken += _not_tested(report)
    return broken


def last_read_failed(report: Report, fault: str, mended: str) -> float | None:
    """Seconds from a fault to the last read that failed by it, 0 when none did; None when there
    was no such fault. What failed only when it was mended had waited all the while."""
    found = [
        line.seconds + after.last_failed_read
        if after.window == mended and after.last_failed_read is not None
        else line.last_failed_read or 0.0
        for line, after in zip(report.lines, [*report.lines[1:], report.total], strict=True)
        if line.window == fault
    ]
    return max(found, default=None)


def slowest_first_write(report: Report) -> float:
    """Seconds from a promotion to the first write; infinity when nobody wrote, or none was."""
    found = [line.first_write for line in _promoted(report)]
    return max((inf if each is None else each for each in found), default=inf)


def _promoted(report: Report) -> list[Line]:
    return [line for line in report.lines if line.window.endswith(PROMOTED)]


def _late_writes(report: Report) -> list[str]:
    broken = []
    for line in _promoted(report):
        if line.first_write is None:
            broken.append(f"nobody wrote after the promotion ({line.window})")
        elif line.first_write > FIRST_WRITE_SECONDS:
            broken.append(
                f"the first write came {line.first_write:.2f} s after the new primary accepted "
                f"writes{_at_most(FIRST_WRITE_SECONDS)} ({line.window})"
            )
    return broken


def _not_tested(report: Report) -> list[str]:
    missing = [
        f"only {report.total.reads_of[promise]:,} reads were made under {promise}, not {READS:,}"
        for promise in (Promise.AFTER, Promise.MONOTONIC)
        if report.total.reads_of[promise] < READS
    ]
    if last_read_failed(report, FROZEN, THAWED) is None:
        missing.append("no replica was frozen")
    if not _promoted(report):
        missing.append("no replica was promoted")
    return missing


def _at_most(limit: float) -> str:
    return f", not within {limit:.2f} s"


def complaint(reports: Mapping[str, Report], *, every_fault: bool = True) -> str:
    """One sentence on the promises that our clients broke; empty when they kept all."""
    broken = {
        name: broken_promises(report, every_fault=every_fault)
        for name, report in reports.items()
        if name.startswith(OURS)
    }
    return "; ".join(f"{name}: {', '.join(each)}" for name, each in broken.items() if each)


# Soak


def complaint_of_soak(growth_kib: float | None, *, stale: int, writes: int, reads: int) -> str:
    """One sentence on what grew or was stale; empty when nothing was. None: it was too short."""
    said = []
    if not writes or not reads:
        said.append(f"{writes} writes and {reads} reads are no load")
    if stale:
        said.append(f"{stale} reads were stale")
    if growth_kib is None:
        said.append("the run was too short to say whether memory grows")
    elif growth_kib > GROWTH_KIB:
        said.append(f"memory grew by {growth_kib:,.0f} KiB, more than {GROWTH_KIB:,.0f}")
    return ", ".join(said)


# Reads and writes


@dataclass(frozen=True)
class Budget:
    """A limit of the issue, and what was measured."""

    budget: str
    asked: float
    measured: float

    @property
    def holds(self) -> bool:
        """Not rounded: 1.064 is more than 1.06."""
        return self.measured <= self.asked


def read_budgets(figures: Sequence[PathFigures]) -> list[Budget]:
    """What a read may cost. KeyError when a path that a budget is about was not measured."""
    by_name = {figure.name: figure for figure in figures}
    read, in_loop = by_name["pgroute read()"], by_name["pgroute read(), async"]
    return [
        Budget("pgroute read(), p10, of a raw read", 1.10, read.p10.ratio),
        Budget("pgroute read(), minimum, of a raw read", 1.06, read.minimum.ratio),
        Budget("pgroute read(), async, p10, of a raw async read", 1.15, in_loop.p10.ratio),
        Budget(
            "slowest pgroute path, of the faster hasql", 0.50, _of_hasql(by_name, "microseconds")
        ),
        Budget("the same, async, both as shares of a raw read", 0.50, _of_hasql(by_name, "ratio")),
    ]


def _of_hasql(by_name: Mapping[str, PathFigures], measure: str) -> float:
    """The worst share over p10, median and minimum. Ratios have one baseline with asyncio only."""

    def of_figure(figure: str) -> float:
        value = {n: getattr(getattr(each, figure), measure) for n, each in by_name.items()}
        ours = [n for n in value if n.startswith(OURS)]
        if measure == "ratio":
            ours = [n for n in ours if by_name[n].baseline == by_name[HASQL[0]].baseline]
        return float(max(value[n] for n in ours) / min(value[n] for n in HASQL))

    return max(map(of_figure, FIGURES))


def write_budgets(figures: Iterable[PathFigures], where: str) -> list[Budget]:
    """What a write with a token may cost, as a statement and as a block."""
    return [
        Budget(f"{figure.name}, p10, of a raw write, {where}", 1.05, figure.p10.ratio)
        for figure in figures
        if figure.name.startswith(OURS) and "token()" in figure.name
    ]


def budget_table(budgets: Sequence[Budget]) -> str:
    """Each budget: asked, measured, and whether it holds."""
    rows = [(b.budget, b.asked, f"{b.measured:.3f}", "yes" if b.holds else "NO") for b in budgets]
    return table(("budget", "asked", "measured", "holds"), rows, indent=0)
