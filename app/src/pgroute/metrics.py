"""Prometheus metrics of one router. Children are bound once: counting costs a dict lookup."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pgroute.observer import Fault, Reason, Silent
from pgroute.router import Router
from pgroute.topology import Role


class RouterMetrics(Silent):
    """An observer that counts. Give it to the router, then :meth:`watch` that router."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        routed = Counter(
            "pgroute_routed",
            "Connections handed out, by node, its role and the reason.",
            ("node", "role", "reason"),
            registry=self.registry,
        )
        failed = Counter(
            "pgroute_errors",
            "What went wrong, by node and kind.",
            ("node", "kind"),
            registry=self.registry,
        )
        self._routed_by = routed
        self._routed = {
            (node, role, reason): routed.labels(node, role, reason)
            for node in nodes
            for role, reason in _possible()
        }
        self._failed = {
            (node, fault): failed.labels(node, fault) for node in nodes for fault in Fault
        }

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        """Count a connection handed out."""
        self.counter(node, role, reason)()

    def counter(self, node: str, role: Role, reason: Reason) -> Callable[[], object]:
        """What counts one such connection."""
        key = node, role, reason
        if key not in self._routed:
            self._routed[key] = self._routed_by.labels(node, role, reason)
        return self._routed[key].inc

    def failed(self, node: str, fault: Fault) -> None:
        """Count a fault."""
        self._failed[node, fault].inc()

    def watch(self, router: Router) -> None:
        """Also report the router's topology and pools, read when scraped."""
        self.registry.register(_RouterCollector(router))


def _possible() -> Iterator[tuple[Role, Reason]]:
    for reason in (Reason.READ, Reason.AFTER_TOKEN, Reason.NAMED):
        yield Role.REPLICA, reason
    for reason in (
        Reason.WRITE,
        Reason.NAMED,
        Reason.NO_HEALTHY_REPLICA,
        Reason.TOKEN_NOT_REACHED,
    ):
        yield Role.PRIMARY, reason


class _RouterCollector(Collector):
    def __init__(self, router: Router) -> None:
        self._router = router

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
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
        yield from (role, healthy, lag, timeline)
        yield GaugeMetricFamily(
            "pgroute_writable", "1 when there is a primary.", value=float(bool(topology.primary))
        )

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
