"""Do the clocks agree? Pure.

The router's own decisions use no wall clock. Keys made here (UUIDv7), timestamps made by servers
and whoever compares logs do.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from pgroute.doctor.facts import Facts
from pgroute.doctor.findings import Finding, ok, warning
from pgroute.doctor.limits import Limits

_ADVICE = "run chrony or systemd-timesyncd on both machines, and compare: timedatectl"


def judge_clocks(facts: Facts, limits: Limits) -> Iterator[Finding]:
    """Each node's clock agrees with this machine's, and the nodes' with one another."""
    for node, server in facts.answering:
        clock = server.clock
        words = f"{_span(abs(clock.offset))} (give or take {_span(clock.uncertainty)})"
        where = "ahead of" if clock.offset > 0 else "behind"
        if abs(clock.offset) - clock.uncertainty > limits.clock_seconds:
            says = f"its clock is {words} {where} this machine's"
            yield warning(says, _ADVICE, node=node.name)
        else:
            yield ok(f"its clock is within {words} of this machine's", node=node.name)
    for (one, first), (other, second) in combinations(facts.answering, 2):
        apart = abs(first.clock.offset - second.clock.offset)
        unsure = first.clock.uncertainty + second.clock.uncertainty
        if apart - unsure > limits.clock_seconds:
            yield warning(
                f"the clocks of {one.name} and {other.name} differ by {_span(apart)}", _ADVICE
            )


def _span(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
