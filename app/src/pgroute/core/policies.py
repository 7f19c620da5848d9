"""Which of several nodes is asked. Pure: randomness is passed in.

A policy picks the first node, and orders all of them for a caller whose first failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random
from types import MappingProxyType
from typing import Protocol


class NodeStats:
    """What the router counts of a node while it works: read by policies, never reset."""

    __slots__ = ("in_flight", "latency", "weight")

    def __init__(self, weight: float = 1.0) -> None:
        self.in_flight = 0
        self.latency = 0.0  # seconds, a moving average; 0 before the first
        self.weight = weight

    def took(self, seconds: float) -> None:
        """Count one answer: slow ones weigh at once, quick ones bit by bit."""
        latency = self.latency
        self.latency = seconds if seconds > latency else latency + (seconds - latency) * 0.1


_LEAST_LATENCY = 1e-6
_NO_STATS: Mapping[str, NodeStats] = MappingProxyType({})


class Policy(Protocol):
    """Anything that picks among candidates: node names, at least one, each once.

    ``stats`` has an entry for every candidate.
    """

    def pick(self, candidates: Sequence[str], stats: Mapping[str, NodeStats]) -> str:
        """The candidate to ask first. On the fast path: must be quick and must not raise."""
        ...

    def order(
        self, candidates: Sequence[str], stats: Mapping[str, NodeStats] = ...
    ) -> Sequence[str]:
        """All candidates, the one to ask first in front."""
        ...


class RoundRobin:
    """Each in its turn."""

    def __init__(self) -> None:
        self._turn = count()

    def pick(self, candidates: Sequence[str], stats: Mapping[str, NodeStats]) -> str:
        return candidates[next(self._turn) % len(candidates)]

    def order(
        self, candidates: Sequence[str], stats: Mapping[str, NodeStats] = _NO_STATS
    ) -> Sequence[str]:
        start = next(self._turn) % len(candidates)
        return [*candidates[start:], *candidates[:start]]


class RandomOrder:
    """Any, with equal chances."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._draw = random.random

    def pick(self, candidates: Sequence[str], stats: Mapping[str, NodeStats]) -> str:
        return candidates[int(self._draw() * len(candidates))]

    def order(
        self, candidates: Sequence[str], stats: Mapping[str, NodeStats] = _NO_STATS
    ) -> Sequence[str]:
        return self._random.sample(candidates, len(candidates))


class Weighted:
    """Any, with chances in proportion to ``NodeStats.weight``.

    One of weight 0 only when all have 0; each has the same chance then.
    """

    def __init__(self, random: Random) -> None:
        self._draw = random.random

    def pick(self, candidates: Sequence[str], stats: Mapping[str, NodeStats]) -> str:
        total = 0.0
        for name in candidates:
            total += stats[name].weight
        if not total:
            return candidates[int(self._draw() * len(candidates))]
        left = self._draw() * total
        picked = candidates[0]
        for name in candidates:
            weight = stats[name].weight
            if weight:
                picked = name
                left -= weight
                if left < 0:
                    break
        return picked  # the last that has a weight, where rounding has left a rest

    def order(
        self, candidates: Sequence[str], stats: Mapping[str, NodeStats] = _NO_STATS
    ) -> Sequence[str]:
        return _by_picking(self, candidates, stats)


class LeastInFlight:
    """The one with the fewest leases out; among equals each in its turn."""

    def __init__(self) -> None:
        self._turn = count()

    def pick(self, candidates: Sequence[str], stats: Mapping[str, NodeStats]) -> str:
        start = next(self._turn) % len(candidates)
        best = candidates[start]
        fewest = stats[best].in_flight
        if fewest:
            for name in candidates:
                flying = stats[name].in_flight
                if flying < fewest:
                    best, fewest = name, flying
        return best

    def order(
        self, candidates: Sequence[str], stats: Mapping[str, NodeStats] = _NO_STATS
    ) -> Sequence[str]:
        start = next(self._turn) % len(candidates)
        turned = [*candidates[start:], *candidates[:start]]
        return sorted(turned, key=lambda name: stats[name].in_flight)


class PowerOfTwo:
    """Of two drawn at random the one with the lower latency times leases out."""

    def __init__(self, random: Random) -> None:
        self._draw = random.random

    def pick(self, candidates: Sequence[str], stats: Mapping[str, NodeStats]) -> str:
        number = len(candidates)
        if number == 1:
            return candidates[0]
        at = int(self._draw() * number * (number - 1))
        first, other = divmod(at, number - 1)
        one, two = candidates[first], candidates[other + (other >= first)]
        mine, theirs = stats[one], stats[two]
        # One whose latency is not known yet is asked; of two such the idler one.
        mine_costs = (mine.latency + _LEAST_LATENCY) * (mine.in_flight + 1)
        if (theirs.latency + _LEAST_LATENCY) * (theirs.in_flight + 1) < mine_costs:
            return two
        return one

    def order(
        self, candidates: Sequence[str], stats: Mapping[str, NodeStats] = _NO_STATS
    ) -> Sequence[str]:
        return _by_picking(self, candidates, stats)


def _by_picking(
    policy: Weighted | PowerOfTwo, candidates: Sequence[str], stats: Mapping[str, NodeStats]
) -> Sequence[str]:
    left, ordered = list(candidates), []
    while left:
        ordered.append(policy.pick(left, stats))
        left.remove(ordered[-1])
    return ordered


POLICIES: Mapping[str, Callable[[Random], Policy]] = {
    "random": RandomOrder,
    "round_robin": lambda _random: RoundRobin(),
    "weighted": Weighted,
    "least_in_flight": lambda _random: LeastInFlight(),
    "power_of_two": PowerOfTwo,
}
