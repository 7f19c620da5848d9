"""Which node is asked: fair where fairness is promised, and always one of those there are."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.policies import (
    POLICIES,
    LeastInFlight,
    NodeStats,
    PowerOfTwo,
    RandomOrder,
    RoundRobin,
    Weighted,
)

THREE = ("pg1", "pg2", "pg3")


def stats(**weights: float) -> dict[str, NodeStats]:
    return {name: NodeStats(weights.get(name, 1.0)) for name in THREE}


@pytest.mark.parametrize("name", POLICIES)
@given(number=st.integers(1, 8), seed=st.integers(0, 99), flying=st.lists(st.integers(0, 3)))
def test_a_pick_is_a_candidate_and_an_order_holds_each_once(
    name: str, number: int, seed: int, flying: list[int]
) -> None:
    policy = POLICIES[name](Random(seed))
    nodes = tuple(f"pg{at}" for at in range(number))
    counts = {node: NodeStats() for node in nodes}
    for node, leases in zip(nodes, flying, strict=False):
        counts[node].in_flight = leases
        counts[node].latency = leases / 7
    for _ in range(5):
        assert policy.pick(nodes, counts) in nodes
        assert sorted(policy.order(nodes, counts)) == sorted(nodes)


@given(rounds=st.integers(1, 50), number=st.integers(1, 7))
def test_round_robin_gives_each_the_same(rounds: int, number: int) -> None:
    policy, nodes = RoundRobin(), tuple(f"pg{at}" for at in range(number))
    picked = Counter(policy.pick(nodes, {}) for _ in range(rounds * number))
    assert set(picked.values()) == {rounds}


def test_random_gives_each_about_the_same() -> None:
    policy = RandomOrder(Random(1))
    picked = Counter(policy.pick(THREE, {}) for _ in range(9000))
    assert all(2800 < picked[name] < 3200 for name in THREE)


def test_weights_are_proportions() -> None:
    policy, counts = Weighted(Random(1)), stats(pg1=1.0, pg2=2.0, pg3=0.0)
    picked = Counter(policy.pick(THREE, counts) for _ in range(9000))
    assert picked["pg3"] == 0
    assert 2800 < picked["pg1"] < 3200


def test_a_weight_of_zero_still_serves_alone() -> None:
    assert Weighted(Random(1)).pick(("pg1",), stats(pg1=0.0)) == "pg1"


def test_weights_of_zero_alone_share_alike() -> None:
    policy, counts = Weighted(Random(1)), stats(pg1=0.0, pg2=0.0, pg3=0.0)
    picked = Counter(policy.pick(THREE, counts) for _ in range(9000))
    assert all(2800 < picked[name] < 3200 for name in THREE)


class Highest(Random):
    """Always draws the highest number there is."""

    def random(self) -> float:
        return 1 - 2**-53


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=9))
def test_rounding_never_picks_a_weight_of_zero(weights: list[float]) -> None:
    counts = {f"pg{at}": NodeStats(weight) for at, weight in enumerate([*weights, 0.0, 0.0])}
    picked = Weighted(Highest()).pick(tuple(counts), counts)
    assert counts[picked].weight > 0
    *_, first, second = Weighted(Highest()).order(tuple(counts), counts)
    assert counts[first].weight == counts[second].weight == 0


def test_least_in_flight_picks_the_idlest_and_takes_turns_among_equals() -> None:
    policy, counts = LeastInFlight(), stats()
    assert Counter(policy.pick(THREE, counts) for _ in range(9)) == dict.fromkeys(THREE, 3)
    counts["pg1"].in_flight, counts["pg2"].in_flight, counts["pg3"].in_flight = 2, 1, 3
    assert {policy.pick(THREE, counts) for _ in range(9)} == {"pg2"}
    assert policy.order(THREE, counts) == ["pg2", "pg1", "pg3"]


def test_least_in_flight_takes_turns_among_equals_that_are_busy() -> None:
    policy, counts = LeastInFlight(), stats()
    for name in THREE:
        counts[name].in_flight = 2
    assert Counter(policy.pick(THREE, counts) for _ in range(9)) == dict.fromkeys(THREE, 3)


def test_power_of_two_never_picks_the_slowest_of_three() -> None:
    policy, counts = PowerOfTwo(Random(1)), stats()
    counts["pg1"].latency, counts["pg2"].latency, counts["pg3"].latency = 0.001, 0.002, 0.5
    picked = Counter(policy.pick(THREE, counts) for _ in range(3000))
    assert picked["pg3"] == 0
    assert 1800 < picked["pg1"] < 2200  # of three pairs it wins two


def test_power_of_two_leaves_a_fast_node_that_is_full() -> None:
    policy, counts = PowerOfTwo(Random(1)), stats()
    counts["pg1"].latency, counts["pg1"].in_flight = 0.001, 50
    counts["pg2"].latency = 0.01
    assert {policy.pick(("pg1", "pg2"), counts) for _ in range(50)} == {"pg2"}


def test_power_of_two_without_latencies_picks_the_idler_one() -> None:
    policy, counts = PowerOfTwo(Random(1)), stats()
    counts["pg1"].in_flight = 3
    assert {policy.pick(("pg1", "pg2"), counts) for _ in range(50)} == {"pg2"}


def test_latency_rises_at_once_and_falls_slowly() -> None:
    node = NodeStats()
    node.took(1.0)
    assert node.latency == 1.0
    node.took(0.0)
    assert node.latency == pytest.approx(0.9)
