"""The small benchmark's arithmetic, and that it interleaves."""

from __future__ import annotations

from itertools import count
from statistics import median

import pytest

from pgroute.bench import Round, describe, describe_round, run_round, tenth


def test_reads_alternate_and_so_does_who_goes_first() -> None:
    called: list[str] = []
    ticks = count()
    done = run_round(
        lambda: called.append("raw"),
        lambda: called.append("routed"),
        4,
        lambda: float(next(ticks)),
    )
    assert called == ["routed", "raw", "raw", "routed"] * 2
    assert done == Round((1.0,) * 4, (1.0,) * 4)


def test_each_way_is_charged_with_its_own_time() -> None:
    now = [0.0]

    def lasting(seconds: float) -> None:
        now[0] += seconds

    done = run_round(lambda: lasting(1), lambda: lasting(3), 10, lambda: now[0])
    assert (set(done.raw), set(done.routed)) == ({1.0}, {3.0})
    assert done.ratio(median) == pytest.approx(3)


def test_the_tenth_percentile() -> None:
    assert tenth([float(number) for number in range(100, 0, -1)]) == 11
    assert tenth([5.0]) == 5


def test_the_ratio_of_all_rounds_is_the_median_of_the_rounds() -> None:
    rounds = [Round((1e-4,) * 10, (each * 1e-4,) * 10) for each in (1.0, 1.1, 9.0)]
    lines = describe(rounds).splitlines()
    assert lines[2].split() == ["p10", "100.0", "110.0", "1.100", "1.000", "to", "9.000"]
    assert describe_round(3, rounds[2]).endswith("routed    900.0 us, ratio 9.000 (median)")
