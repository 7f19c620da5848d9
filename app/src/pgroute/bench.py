"""What a routed read costs beside a raw one, on the user's own fleet: small and interleaved.

A round times single reads in pairs, one each way, on the same servers; a figure of the
routed reads is divided by the same figure of the raw ones of that round. What slows everything
down for a moment falls out of the ratio.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import psycopg

from pgroute.errors import NoReadableNode
from pgroute.router import Router
from pgroute.text import table

_WARM_UP_CALLS = 20  # psycopg prepares a statement after its fifth execution


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of each single read, both ways."""

    raw: tuple[float, ...]
    routed: tuple[float, ...]

    def ratio(self, figure: Callable[[Sequence[float]], float]) -> float:
        """How many times as long the routed reads take, by one figure of both."""
        return figure(self.routed) / figure(self.raw)


def tenth(times: Sequence[float]) -> float:
    """The tenth percentile: what a read takes when nothing comes in between."""
    return sorted(times)[len(times) // 10]


FIGURES: dict[str, Callable[[Sequence[float]], float]] = {
    "p10": tenth,
    "median": median,
    "minimum": min,
}


def measure(
    router: Router,
    sql: str,
    *,
    rounds: int,
    calls: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Round]:
    """``rounds`` of ``calls`` reads each way. Raises what Router.read() and psycopg raise."""
    with ExitStack() as stack:
        raw = _raw_reads(router, sql, stack)
        routed = _routed_reads(router, sql)
        for _ in range(_WARM_UP_CALLS):
            raw()
            routed()
        for _ in range(rounds):
            yield run_round(raw, routed, calls, clock)


def run_round(
    raw: Callable[[], object],
    routed: Callable[[], object],
    calls: int,
    clock: Callable[[], float],
) -> Round:
    """Pairs of reads, now this way first and now that."""
    times: list[tuple[Callable[[], object], list[float]]] = [(raw, []), (routed, [])]
    gc.collect()
    gc.disable()  # a collection would be charged to whoever is running
    try:
        for number in range(calls):
            for call, spent in times if number % 2 else reversed(times):
                began = clock()
                call()
                spent.append(clock() - began)
    finally:
        gc.enable()
    return Round(*(tuple(spent) for _, spent in times))


def _raw_reads(router: Router, sql: str, stack: ExitStack) -> Callable[[], object]:
    """Reads on connections of our own, in turn on the servers that the router reads from."""
    settings = router.settings
    names = router.fleet.replicas or tuple(filter(None, (router.fleet.primary,)))
    if not names:
        raise NoReadableNode(f"nothing to read from: {router.topology.problem}")
    members = {member.name: member for member in settings.members}
    connections: list[psycopg.Connection[Any]] = [
        stack.enter_context(
            psycopg.connect(
                autocommit=True,
                **settings.connection(members[name], user=settings.reader, read_only=True),
            )
        )
        for name in names
    ]
    turn = cycle(connections).__next__
    return lambda: turn().execute(sql, prepare=True).fetchall()


def _routed_reads(router: Router, sql: str) -> Callable[[], object]:
    def read() -> object:
        with router.read() as connection:
            return connection.execute(sql).fetchall()

    return read


def describe_round(number: int, done: Round) -> str:
    """One line."""
    raw, routed = median(done.raw) * 1e6, median(done.routed) * 1e6
    return (
        f"round {number:3}: raw {raw:8.1f} us, routed {routed:8.1f} us, "
        f"ratio {done.ratio(median):.3f} (median)"
    )


def describe(rounds: Sequence[Round]) -> str:
    """The figures over all rounds: the median of the rounds' ratios."""
    rows = []
    for name, figure in FIGURES.items():
        ratios = sorted(each.ratio(figure) for each in rounds)
        rows.append(
            (
                name,
                f"{median(figure(each.raw) for each in rounds) * 1e6:.1f}",
                f"{median(figure(each.routed) for each in rounds) * 1e6:.1f}",
                f"{median(ratios):.3f}",
                f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
            )
        )
    header = ("figure", "raw in us", "routed in us", "ratio", "of single rounds")
    return table(header, rows, indent=0)
