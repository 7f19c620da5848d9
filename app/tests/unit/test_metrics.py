"""What Prometheus sees."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import generate_latest

from pgroute import Router, Settings
from pgroute.core.topology import Answer, Role, Silence, decide
from pgroute.errors import NoReadableNode
from pgroute.observing.metrics import RouterMetrics, Tally, Watched
from pgroute.observing.observer import Doubt, Fault, Hedge, Purpose, Query, Reason, Wait

NODES = ("pg1", "pg2", "pg3")
RULES = (
    Path(__file__).parents[3] / "roles/prometheus/templates/etc/prometheus/rules/recording.yml.j2"
)


@pytest.fixture
def metrics() -> RouterMetrics:
    return RouterMetrics(NODES)


def value(metrics: RouterMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_tally_counts_every_call_of_every_thread() -> None:
    tally = Tally()
    assert tally.value == 0
    threads = [
        threading.Thread(target=lambda: [tally.add() for _ in range(10_000)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.value == 80_000


def test_reading_a_tally_does_not_count() -> None:
    tally = Tally()
    tally.add()
    assert (tally.value, tally.value) == (1, 1)


def test_a_kept_counter_and_a_call_count_the_same(metrics: RouterMetrics) -> None:
    count = metrics.counter("pg2", Role.REPLICA, Reason.MAX_LAG)
    count()
    metrics.routed("pg2", Role.REPLICA, Reason.MAX_LAG)
    labels = {"node": "pg2", "role": "replica", "reason": "max_lag"}
    assert value(metrics, "pgroute_routed_total", **labels) == 2


def test_what_has_not_happened_yet_is_zero_and_not_absent(metrics: RouterMetrics) -> None:
    routed = {"node": "pg1", "role": "primary", "reason": "lag_exceeded"}
    assert value(metrics, "pgroute_routed_total", **routed) == 0
    assert value(metrics, "pgroute_errors_total", node="pg3", kind="overdue") == 0
    assert value(metrics, "pgroute_spills_total", reason="lag_exceeded", outcome="capped") == 0
    assert value(metrics, "pgroute_commits_in_doubt_total", node="pg1", outcome="unknown") == 0
    assert value(metrics, "pgroute_misroutes_total", node="pg2") == 0
    assert value(metrics, "pgroute_refusals_total", purpose="read", error="NoReadableNode") == 0
    assert value(metrics, "pgroute_primary_changes_total") == 0


def test_every_event_has_its_metric(metrics: RouterMetrics) -> None:
    metrics.failed("pg3", Fault.OVERDUE)
    metrics.refused(Purpose.READ, NoReadableNode("pg1 is gone"))
    metrics.retried("pg2", "next_node", "57P01")
    metrics.hedged("pg2", Hedge.SECOND_WON)
    metrics.spilled(Reason.LAG_EXCEEDED, True)
    metrics.spilled(Reason.LAG_EXCEEDED, False)
    metrics.misrouted("pg2", "select f()")
    metrics.in_doubt("pg1", Doubt.UNKNOWN)
    metrics.primary_changed("pg1", "pg2")
    counted = {
        "errors": {"node": "pg3", "kind": "overdue"},
        "refusals": {"purpose": "read", "error": "NoReadableNode"},
        "retries": {"node": "pg2", "action": "next_node"},
        "hedges": {"node": "pg2", "outcome": "second_won"},
        "misroutes": {"node": "pg2"},
        "commits_in_doubt": {"node": "pg1", "outcome": "unknown"},
        "primary_changes": {},
    }
    for name, labels in counted.items():
        assert value(metrics, f"pgroute_{name}_total", **labels) == 1, name
    for outcome in ("allowed", "capped"):
        labels = {"reason": "lag_exceeded", "outcome": outcome}
        assert value(metrics, "pgroute_spills_total", **labels) == 1


def test_waits_fall_into_buckets_by_what_was_waited_for(metrics: RouterMetrics) -> None:
    metrics.waited("pg2", Wait.TOKEN, 0.02)
    metrics.waited(None, Wait.PRIMARY, 3.0)
    token = {"node": "pg2", "kind": "token"}
    assert value(metrics, "pgroute_wait_seconds_bucket", **token, le="0.01") == 0
    assert value(metrics, "pgroute_wait_seconds_bucket", **token, le="0.025") == 1
    assert value(metrics, "pgroute_wait_seconds_sum", node="", kind="primary") == 3.0


def test_a_breaker_is_in_one_state(metrics: RouterMetrics) -> None:
    def states() -> dict[str, float | None]:
        return {
            state: value(metrics, "pgroute_breaker_state", node="pg2", state=state)
            for state in ("closed", "half_open", "open")
        }

    assert states() == {"closed": 1, "half_open": 0, "open": 0}
    metrics.breaker_turned("pg2", "open")
    assert states() == {"closed": 0, "half_open": 0, "open": 1}
    metrics.breaker_turned("pg2", "half_open")
    assert states() == {"closed": 0, "half_open": 1, "open": 0}


def test_statements_are_timed_when_asked_for() -> None:
    asked = RouterMetrics(NODES, queries=True)
    assert asked.wants_queries
    asked.queried(Query("pg2", Role.REPLICA, Reason.READ, "select ?", 1, 0.02))
    assert value(asked, "pgroute_query_seconds_count", node="pg2", role="replica") == 1
    assert not RouterMetrics(NODES).wants_queries


def test_the_router_s_state_is_read_at_the_scrape(metrics: RouterMetrics) -> None:
    seen = (
        Answer("pg1", False, 1, 7, 1000, False),
        Answer("pg2", True, 1, 7, 990, True),
        Silence("pg3", "connection refused"),
    )
    pool = SimpleNamespace(node="pg2", purpose="read", size=5, available=2, waiting=1)
    ages = {"pg2": 0.25}
    fleet = SimpleNamespace(
        names=NODES,
        clock=lambda: 50.0,
        heard_at=49.5,
        ledger=SimpleNamespace(staleness=lambda node, _: ages.get(node)),
    )
    router = SimpleNamespace(
        topology=decide(seen, max_lag_bytes=100), fleet=fleet, pools=lambda: [pool]
    )
    metrics.watch(cast(Watched, router))
    assert value(metrics, "pgroute_node_staleness_seconds", node="pg2") == 0.25
    assert value(metrics, "pgroute_node_staleness_seconds", node="pg3") is None
    assert value(metrics, "pgroute_topology_age_seconds") == 0.5
    assert value(metrics, "pgroute_node_role", node="pg1", role="primary") == 1
    assert value(metrics, "pgroute_node_lag_bytes", node="pg2") == 10
    assert value(metrics, "pgroute_node_lag_bytes", node="pg3") is None
    assert value(metrics, "pgroute_node_timeline", node="pg3") is None
    assert value(metrics, "pgroute_writable") == 1
    pools = {"node": "pg2", "purpose": "read"}
    assert value(metrics, "pgroute_pool_connections", **pools, state="used") == 3
    assert value(metrics, "pgroute_pool_connections", **pools, state="idle") == 2
    assert value(metrics, "pgroute_pool_waiting", **pools) == 1


def test_two_routers_in_one_process_do_not_meet() -> None:
    first, second = RouterMetrics(NODES), RouterMetrics(NODES)
    first.failed("pg1", Fault.OVERDUE)
    assert value(second, "pgroute_errors_total", node="pg1", kind="overdue") == 0
    assert generate_latest(second.registry)


@pytest.mark.skipif(not RULES.exists(), reason="pgroute without the fleet's monitoring")
def test_the_fleet_s_rules_read_metrics_that_exist(metrics: RouterMetrics) -> None:
    seen = (Answer("pg1", False, 1, 7, 1000, False), Answer("pg2", True, 1, 7, 990, True))
    pool = SimpleNamespace(node="pg2", purpose="read", size=5, available=2, waiting=1)
    ledger = SimpleNamespace(staleness=lambda *_: 0.1)
    fleet = SimpleNamespace(names=NODES, clock=lambda: 50.0, heard_at=49.5, ledger=ledger)
    router = SimpleNamespace(
        topology=decide(seen, max_lag_bytes=100), fleet=fleet, pools=lambda: [pool]
    )
    metrics.watch(cast(Watched, router))
    metrics.retried("pg2", "next_node", None)
    metrics.hedged("pg2", Hedge.CAPPED)
    metrics.waited("pg2", Wait.TOKEN, 0.02)
    exposed = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert set(re.findall(r"pgroute_\w+", RULES.read_text())) - exposed == set()


def test_the_age_of_what_was_never_heard_is_absent(metrics: RouterMetrics) -> None:
    router = Router(Settings.make(nodes="pg1,pg2", database="app", write_user="app"))
    metrics.watch(router)
    assert value(metrics, "pgroute_topology_age_seconds") is None
    assert value(metrics, "pgroute_node_staleness_seconds", node="pg2") is None
    assert value(metrics, "pgroute_writable") == 0
