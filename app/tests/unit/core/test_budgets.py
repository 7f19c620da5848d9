"""Caps: nobody gets more than the budget holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.budgets import RatioBudget, TokenBucket

STEPS = st.lists(st.floats(0, 3, allow_nan=False), max_size=200)


@given(STEPS, st.floats(0, 20), st.floats(0, 20))
def test_a_bucket_never_gives_more_than_its_rate(
    steps: list[float], per_second: float, burst: float
) -> None:
    bucket, now, taken = TokenBucket(per_second=per_second, burst=burst, now=0.0), 0.0, []
    for step in steps:
        now += step
        if bucket.try_take(now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = taken[last] - taken[first]
            assert last - first + 1 <= burst + per_second * span + 1e-6


def test_a_bucket_fills_up_again_but_not_beyond_its_burst() -> None:
    bucket = TokenBucket(per_second=10, burst=2, now=0.0)
    assert [bucket.try_take(0.0) for _ in range(3)] == [True, True, False]
    assert bucket.try_take(0.1)
    assert not bucket.try_take(0.1)
    assert [bucket.try_take(100.0) for _ in range(3)] == [True, True, False]


def test_a_clock_that_stands_or_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(per_second=10, burst=1, now=5.0)
    assert bucket.try_take(5.0)
    assert not bucket.try_take(1.0)
    assert not bucket.try_take(5.0)
    assert bucket.try_take(5.1)


@given(st.lists(st.integers(0, 50), max_size=200), st.floats(0, 1), st.integers(0, 20))
def test_a_ratio_is_never_exceeded(steps: list[int], ratio: float, reserve: int) -> None:
    budget, requests, taken = RatioBudget(ratio, reserve=reserve), 0, 0
    for step in steps:
        requests += step
        taken += budget.try_take(requests)
        assert taken <= reserve + ratio * requests + 1e-6


def test_a_ratio_is_also_used_up() -> None:
    budget = RatioBudget(0.1)
    assert sum(budget.try_take(requests) for requests in range(1, 1001)) == 100


def test_a_quiet_time_saves_up_no_storm() -> None:
    budget = RatioBudget(0.1, most=20)
    assert sum(budget.try_take(1_000_000) for _ in range(100)) == 20


def test_a_new_program_has_its_reserve_and_no_more() -> None:
    assert RatioBudget(0.10, reserve=10).try_take(1)
    without = RatioBudget(0.05)
    assert not without.try_take(19)
    assert without.try_take(20)


@pytest.mark.parametrize(
    ("ratio", "reserve", "most"), [(-0.1, 0, 1), (1.1, 0, 1), (0.1, -1, 1), (0.1, 2, 1)]
)
def test_a_senseless_ratio_is_refused(ratio: float, reserve: float, most: float) -> None:
    with pytest.raises(ValueError, match="a budget of"):
        RatioBudget(ratio, reserve=reserve, most=most)


def test_a_senseless_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="a bucket of"):
        TokenBucket(per_second=-1, burst=1, now=0.0)
