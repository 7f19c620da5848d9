"""The ways a connection may be handed out, each with its pool and its counter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from pgroute.core.policies import NodeStats, Policy, RoundRobin
from pgroute.core.topology import Role
from pgroute.observing.observer import Observer, Reason
from pgroute.routing.lease import Front


class Route:
    """One node for one reason. ``count()`` tells the observer of one connection handed out.

    ``after``: the way to the same node when it is proven to have what a token stands for.
    """

    __slots__ = ("after", "count", "node", "pair", "pool", "reason", "role")

    def __init__(self, pool: Front[Any], role: Role, reason: Reason, observer: Observer) -> None:
        self.pool = pool
        self.node = pool.node
        self.role = role
        self.reason = reason
        self.pair = (role, reason)
        self.count: Callable[[], object] = observer.counter(pool.node, role, reason)
        self.after: Route | None = None


class Routes(dict[tuple[Front[Any], Role, Reason], Route]):
    """All routes that were ever used, made when first asked for."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def __missing__(self, key: tuple[Front[Any], Role, Reason]) -> Route:
        route = self[key] = Route(*key, self._observer)
        return route


class PoolStats(NodeStats):
    """A node's numbers for the policies; what is in flight is counted by its pool."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Front[Any], weight: float) -> None:
        self._pool = pool
        self.latency = 0.0
        self.weight = weight

    @property
    def in_flight(self) -> int:  # type: ignore[override]
        return len(self._pool.in_flight)


class NoRoute(LookupError):
    """There is no replica to take without thinking."""


def picker(
    routes: Sequence[Route], policy: Policy, stats: Mapping[str, NodeStats]
) -> Callable[[], Route]:
    """What gives the next replica's route on the fast path; NoRoute when there is none."""
    if not routes:
        return _none
    if type(policy) is RoundRobin:
        return _turns(routes).__next__
    by_name = {route.node: route for route in routes}
    candidates = tuple(by_name)
    return lambda: by_name[policy.pick(candidates, stats)]


def _turns(routes: Sequence[Route]) -> Iterator[Route]:
    return cycle(routes)


def _none() -> Route:
    raise NoRoute
