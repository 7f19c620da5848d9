"""Prometheus metrics of one router.

What is on the fast path is counted by :class:`Tally`, an eighth of the price of
``prometheus_client.Counter.inc``, and turned into samples when scraped; children of everything
else are bound when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pgroute.core.retries import Action
from pgroute.core.topology import Role, Topology
from pgroute.errors import NodeUnavailable, NoPrimary, NoReadableNode
from pgroute.observing.observer import Doubt, Fault, Hedge, Purpose, Query, Reason, Silent, Wait
from pgroute.routing.fleet import Fleet

_BREAKER_STATES = ("closed", "half_open", "open")
_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_QUERY_SECONDS = (0.0005, *_WAIT_SECONDS, 30.0, 60.0)


class Tally:
    """A count that any thread may add to without a lock: ``tally.add()``."""

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = count()
        self.add: Callable[[], int] = self._count.__next__  # one call in C: nothing gets between

    @property
    def value(self) -> int:
        """How often :attr:`add` was called. Only repr() tells it without counting."""
        return int(repr(self._count).removeprefix("count(").removesuffix(")"))


class PoolReport(Protocol):
    """How full one pool is."""

    @property
    def node(self) -> str: ...
    @property
    def purpose(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def available(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Watched(Protocol):
    """What of a router is read at each scrape."""

    @property
    def topology(self) -> Topology: ...
    @property
    def fleet(self) -> Fleet: ...
    def pools(self) -> Sequence[PoolReport]: ...


class RouterMetrics(Silent):
    """An observer that counts: ``router = Router(..., observer=metrics)``, then
    ``metrics.watch(router)``.

    ``queries``: also time every statement, by node and role.
    """

    def __init__(self, nodes: Sequence[str], *, queries: bool = False) -> None:
        self.registry = CollectorRegistry()
        self._routed: dict[tuple[str, Role, Reason], Tally] = {}
        for node in nodes:
            for role, reason in _usual():
                self._routed[node, role, reason] = Tally()
        self.registry.register(_RoutedCollector(self._routed))
        self._failed = self._counter("errors", "What went wrong, by node and kind.", "node", "kind")
        self._refused = self._counter(
            "refusals", "Callers that got an error of pgroute, by its class.", "purpose", "error"
        )
        self._retried = self._counter(
            "retries", "Attempts that failed and were made again.", "node", "action"
        )
        self._hedged = self._counter(
            "hedges", "Slow reads that were tried twice, by who answered first.", "node", "outcome"
        )
        self._spilled = self._counter(
            "spills",
            "Reads no replica could serve, let through to the primary or capped.",
            "reason",
            "outcome",
        )
        self._misrouted = self._counter(
            "misroutes", "Statements a replica refused and the primary then ran.", "node"
        )
        self._in_doubt = self._counter(
            "commits_in_doubt",
            "COMMITs whose answer was lost, by what was found out.",
            "node",
            "outcome",
        )
        self._primary_changed = self._counter("primary_changes", "Changes of the primary.")
        self._breaker = Gauge(
            "pgroute_breaker_state",
            "1 for the state that the breaker of a node is in.",
            ("node", "state"),
            registry=self.registry,
        )
        self._waited = self._histogram(
            "wait", "Waits of callers off the fast path.", _WAIT_SECONDS, "node", "kind"
        )
        self._queried = (
            self._histogram("query", "Statements.", _QUERY_SECONDS, "node", "role")
            if queries
            else None
        )
        for node in nodes:
            for fault in Fault:
                self._failed.labels(node, fault)
            self._misrouted.labels(node)
            self.breaker_turned(node, "closed")
            for doubt in Doubt:
                self._in_doubt.labels(node, doubt)
            for hedge in Hedge:
                self._hedged.labels(node, hedge)
            for action in set(Action) - {Action.RAISE}:
                self._retried.labels(node, action)
        for purpose in Purpose:
            for error in (NoPrimary, NoReadableNode, NodeUnavailable):
                self._refused.labels(purpose, error.__name__)
        for reason in (Reason.NO_HEALTHY_REPLICA, Reason.TOKEN_NOT_REACHED, Reason.LAG_EXCEEDED):
            for outcome in ("allowed", "capped"):
                self._spilled.labels(reason, outcome)

    def watch(self, router: Watched) -> None:
        """Also report the router's topology and pools, read when scraped."""
        self.registry.register(_RouterCollector(router))

    # What the router tells

    @property
    def wants_queries(self) -> bool:
        return self._queried is not None

    def counter(self, node: str, role: Role, reason: Reason) -> Callable[[], object]:
        return self._routed.setdefault((node, role, reason), Tally()).add

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        self.counter(node, role, reason)()

    def failed(self, node: str, fault: Fault) -> None:
        self._failed.labels(node, fault).inc()

    def refused(self, purpose: Purpose, error: Exception) -> None:
        self._refused.labels(purpose, type(error).__name__).inc()

    def waited(self, node: str | None, wait: Wait, seconds: float) -> None:
        self._waited.labels(node or "", wait).observe(seconds)

    def retried(self, node: str, action: str, sqlstate: str | None) -> None:
        self._retried.labels(node, action).inc()

    def hedged(self, node: str, outcome: Hedge) -> None:
        self._hedged.labels(node, outcome).inc()

    def spilled(self, reason: Reason, allowed: bool) -> None:
        self._spilled.labels(reason, "allowed" if allowed else "capped").inc()

    def misrouted(self, node: str, statement: str) -> None:
        self._misrouted.labels(node).inc()

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        self._in_doubt.labels(node, outcome).inc()

    def breaker_turned(self, node: str, state: str) -> None:
        for possible in _BREAKER_STATES:
            self._breaker.labels(node, possible).set(possible == state)

    def primary_changed(self, before: str | None, after: str | None) -> None:
        self._primary_changed.inc()

    def queried(self, query: Query) -> None:
        if self._queried is not None:
            self._queried.labels(query.node, query.role or "").observe(query.seconds)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"pgroute_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(
            f"pgroute_{name}_seconds", what, labels, buckets=buckets, registry=self.registry
        )


def _usual() -> Iterator[tuple[Role, Reason]]:
    """What is shown as 0 before it has happened."""
    for reason in (Reason.READ, Reason.AFTER_TOKEN, Reason.NAMED):
        yield Role.REPLICA, reason
    for reason in (
        Reason.WRITE,
        Reason.NAMED,
        Reason.NO_HEALTHY_REPLICA,
        Reason.TOKEN_NOT_REACHED,
        Reason.LAG_EXCEEDED,
    ):
        yield Role.PRIMARY, reason


class _RoutedCollector(Collector):
    def __init__(self, routed: dict[tuple[str, Role, Reason], Tally]) -> None:
        self._routed = routed

    def collect(self) -> Iterator[Metric]:
        routed = CounterMetricFamily(
            "pgroute_routed",
            "Connections handed out, by node, its role and the reason.",
            labels=("node", "role", "reason"),
        )
        for labels, tally in list(self._routed.items()):
            routed.add_metric(labels, tally.value)
        yield routed


class _RouterCollector(Collector):
    def __init__(self, router: Watched) -> None:
        self._router = router

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._nodes()
        yield from self._pools()

    def _nodes(self) -> Iterator[Metric]:
        topology = self._router.topology
        role = GaugeMetricFamily(
            "pgroute_node_role", "1 for the role the node has now.", labels=("node", "role")
        )
        healthy = GaugeMetricFamily(
            "pgroute_node_healthy", "1 when the node is used.", labels=("node",)
        )
        lag = GaugeMetricFamily(
            "pgroute_node_lag_bytes",
            "Log not yet replayed; absent when unknown.",
            labels=("node",),
        )
        timeline = GaugeMetricFamily(
            "pgroute_node_timeline", "The node's timeline; absent when unknown.", labels=("node",)
        )
        for state in topology.nodes:
            for possible in Role:
                role.add_metric((state.node, possible), float(state.role is possible))
            healthy.add_metric((state.node,), float(state.healthy))
            if state.lag_bytes is not None:
                lag.add_metric((state.node,), state.lag_bytes)
            if state.timeline is not None:
                timeline.add_metric((state.node,), state.timeline)
        yield from (role, healthy, lag, timeline, *self._ages())
        yield GaugeMetricFamily(
            "pgroute_writable", "1 when there is a primary.", value=float(bool(topology.primary))
        )

    def _ages(self) -> Iterator[Metric]:
        fleet = self._router.fleet
        now = fleet.clock()
        staleness = GaugeMetricFamily(
            "pgroute_node_staleness_seconds",
            "How old a replica's data are at most; absent when unknown.",
            labels=("node",),
        )
        for node in fleet.names:
            seconds = fleet.ledger.staleness(node, now)
            if seconds is not None:
                staleness.add_metric((node,), seconds)
        yield staleness
        if fleet.heard_at is not None:
            yield GaugeMetricFamily(
                "pgroute_topology_age_seconds",
                "How long ago the newest answer of any node was asked for.",
                value=now - fleet.heard_at,
            )

    def _pools(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            "pgroute_pool_connections",
            "Connections of a pool, by state.",
            labels=("node", "purpose", "state"),
        )
        waiting = GaugeMetricFamily(
            "pgroute_pool_waiting",
            "Callers that wait for a connection.",
            labels=("node", "purpose"),
        )
        for pool in self._router.pools():
            labels = (pool.node, pool.purpose)
            connections.add_metric((*labels, "idle"), pool.available)
            connections.add_metric((*labels, "used"), pool.size - pool.available)
            waiting.add_metric(labels, pool.waiting)
        yield from (connections, waiting)
