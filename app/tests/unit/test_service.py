"""The HTTP service and the metrics, over a router that talks to nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from pgroute import AsyncRouter, Fault, Reason, Role, Settings
from pgroute.core.topology import Answer, Observation, Silence, decide
from pgroute.observing.metrics import RouterMetrics
from pgroute.service import make_app
from pgroute.service.run import _config

NODES = ("pg1", "pg2", "pg3")


class Scripted(AsyncRouter):
    """A router whose servers say what the test says."""

    def __init__(self, observer: RouterMetrics) -> None:
        super().__init__(
            Settings.make(nodes="pg1=h:1,pg2=h:2,pg3=h:3", database="app", write_user="app"),
            observer=observer,
        )
        self.life: list[str] = []

    async def open(self) -> None:
        self.life.append("opened")

    async def close(self, timeout: float = 5.0) -> None:
        self.life.append("closed")

    def see(self, *seen: Observation) -> None:
        self.fleet.topology = decide(seen, fence=self.fleet.topology.fence, max_lag_bytes=100)


@pytest.fixture
def metrics() -> RouterMetrics:
    return RouterMetrics(NODES)


@pytest.fixture
def router(metrics: RouterMetrics) -> Scripted:
    made = Scripted(metrics)
    made.see(
        Answer("pg1", False, 1, 7, 1000, False),
        Answer("pg2", True, 1, 7, 990, True),
        Silence("pg3", "connection refused"),
    )
    return made


@pytest.fixture
def client(router: Scripted, metrics: RouterMetrics) -> Iterator[TestClient]:
    with TestClient(make_app(router, metrics)) as opened:
        yield opened


def test_alive_says_nothing_of_the_database(client: TestClient, router: Scripted) -> None:
    router.see(*(Silence(node, "gone") for node in NODES))
    assert client.get("/healthz").status_code == 200


def test_ready_while_there_is_a_primary(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "writes go to pg1\n")


def test_not_ready_without_a_primary_in_one_sentence(client: TestClient, router: Scripted) -> None:
    router.see(*(Silence(node, "gone") for node in NODES))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.text == "no writable server: pg1: gone; pg2: gone; pg3: gone\n"


def test_metrics_tell_roles_health_and_lag(client: TestClient) -> None:
    lines = client.get("/metrics").text.splitlines()
    assert 'pgroute_node_role{node="pg1",role="primary"} 1.0' in lines
    assert 'pgroute_node_role{node="pg2",role="primary"} 0.0' in lines
    assert 'pgroute_node_role{node="pg3",role="unknown"} 1.0' in lines
    assert 'pgroute_node_healthy{node="pg2"} 1.0' in lines
    assert 'pgroute_node_lag_bytes{node="pg2"} 10.0' in lines
    assert "pgroute_writable 1.0" in lines
    assert not [line for line in lines if line.startswith('pgroute_node_lag_bytes{node="pg3"')]


def test_metrics_count_routes_and_errors(client: TestClient, metrics: RouterMetrics) -> None:
    metrics.routed("pg2", Role.REPLICA, Reason.READ)
    metrics.routed("pg1", Role.PRIMARY, Reason.NO_HEALTHY_REPLICA)
    metrics.failed("pg3", Fault.NO_CONNECTION)
    lines = client.get("/metrics").text.splitlines()
    assert 'pgroute_routed_total{node="pg2",reason="read",role="replica"} 1.0' in lines
    assert (
        'pgroute_routed_total{node="pg1",reason="no_healthy_replica",role="primary"} 1.0' in lines
    )
    assert 'pgroute_errors_total{kind="no_connection",node="pg3"} 1.0' in lines


def test_the_service_closes_its_router(router: Scripted, metrics: RouterMetrics) -> None:
    with TestClient(make_app(router, metrics)):
        assert router.life == []
    assert router.life == ["closed"]


def test_the_web_server_s_own_lines_have_the_form_of_all_others(
    router: Scripted, metrics: RouterMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    _config(make_app(router, metrics))
    assert logging.getLogger("uvicorn").handlers == []
    logging.getLogger("uvicorn.error").warning("on purpose")
    assert "on purpose" in caplog.text  # heard by the root's handlers
