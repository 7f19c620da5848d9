"""When a read is hedged."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.latency import HedgeDelay, Latencies


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=80),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    st.integers(1, 40),
)
def test_a_percentile_of_the_last_ones(seen: list[float], fraction: float, window: int) -> None:
    latencies = Latencies(window)
    for seconds in seen:
        latencies.record(seconds)
    kept = sorted(seen[-window:])
    assert len(latencies) == len(kept)
    assert latencies.percentile(fraction) == kept[ceil(fraction * len(kept)) - 1]


def test_nothing_recorded_has_no_percentile() -> None:
    assert Latencies().percentile(0.5) is None


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
def test_a_senseless_percentile_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        Latencies().percentile(fraction)


def test_few_samples_hedge_nothing() -> None:
    delay = HedgeDelay(enough=50)
    for _ in range(49):
        delay.latencies.record(0.01)
    delay.update()
    assert delay.seconds is None
    delay.latencies.record(0.01)
    delay.update()
    assert delay.seconds == 0.01


def test_the_delay_follows_the_latencies_within_its_limits() -> None:
    delay = HedgeDelay(fraction=0.5, shortest=0.002, longest=0.5, enough=1, window=10)
    seen = []
    for seconds in (0.0001, 0.1, 7.0):
        for _ in range(10):
            delay.latencies.record(seconds)
        delay.update()
        seen.append(delay.seconds)
    assert seen == [0.002, 0.1, 0.5]
