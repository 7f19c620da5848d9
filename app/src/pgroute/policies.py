"""In which order healthy replicas are tried. Pure: randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Protocol


class Policy(Protocol):
    """Anything that orders candidates; the first is tried first."""

    def order(self, candidates: Sequence[str]) -> Sequence[str]:
        """All of ``candidates`` (node names, never empty), each once."""
        ...


class RoundRobin:
    """Each replica in its turn."""

    def __init__(self) -> None:
        self._turn = count()

    def order(self, candidates: Sequence[str]) -> Sequence[str]:
        start = next(self._turn) % len(candidates)
        return [*candidates[start:], *candidates[:start]]


class RandomOrder:
    """Any replica, with equal chances."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def order(self, candidates: Sequence[str]) -> Sequence[str]:
        return self._random.sample(candidates, len(candidates))


POLICIES: Mapping[str, Callable[[Random], Policy]] = {
    "random": RandomOrder,
    "round_robin": lambda _random: RoundRobin(),
}
