"""Monitoring: every query of every dashboard returns data from the running Prometheus."""

import functools
import json
import time

import pytest

from helpers import boards
from helpers.fleet import FLEET, Fleet

# A first scrape, a second one for the rates, and the rules that build on each other.
PATIENCE_SECONDS = 300.0

# {(board, panel): why it may be empty on a healthy fleet}
EMPTY_WHEN_WELL = {
    ("fleet", "Firing alerts"): "nothing is wrong",
    ("host", "Hours until full"): "no file system is filling",
    ("partitions", "Skew"): "a table without rows has no skew",
    ("partitions", "Skew over time"): "a table without rows has no skew",
    ("routing", "Second attempts"): "nothing was tried twice",
    ("routing", "Waits"): "nobody waited",
}
PRIMARY_ONLY = {("node", "WAL written"), ("node", "What replicas have yet to do"), ("node", "WAL that slots retain")}
REPLICA_ONLY = {("node", "Lag in bytes"), ("node", "Lag in seconds"), ("node", "WAL receiver")}

# Run on the node of Prometheus: reads a list of expressions, prints how many series each returns.
ASK = """
import json, sys, urllib.parse, urllib.request
address, expressions = json.load(sys.stdin)
def count(expression):
    data = urllib.parse.urlencode({"query": expression}).encode()
    with urllib.request.urlopen(address + "/api/v1/query", data, timeout=30) as answer:
        return len(json.load(answer)["data"]["result"])
print(json.dumps([count(expression) for expression in expressions]))
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "query" in metafunc.fixturenames:
        asked = questions(metafunc.config.stash[FLEET])
        metafunc.parametrize(("query", "node"), asked, ids=[f"{query}-{node}" if node else str(query) for query, node in asked])


@functools.cache
def questions(fleet: Fleet) -> list[tuple[boards.Query, str]]:
    """(query, node to ask it about, or nothing), each node board once for each of its nodes."""
    nodes = {"node": fleet.group("postgres_cluster"), "host": fleet.inventory.hosts}
    return [(query, node) for query in boards.queries() for node in nodes.get(query.board, [""])]


def expression(fleet: Fleet, query: boards.Query, node: str) -> str:
    return query.filled(cluster=fleet.variables(fleet.group("monitoring")[0])["cluster_name"], node=node, table=".*", client=".*")


def may_be_empty(primary: str, query: boards.Query, node: str) -> bool:
    panel = (query.board, query.panel)
    return panel in EMPTY_WHEN_WELL or (panel in PRIMARY_ONLY and node != primary) or (panel in REPLICA_ONLY and node == primary)


@pytest.fixture(scope="module")
def series(fleet: Fleet, primary: str) -> dict[str, int]:
    """{expression: how many series it returns}, asked again while one that must have data has none yet."""
    server = fleet.group("monitoring")[0]
    address = "http://{prometheus_address}:{prometheus_port}".format_map(fleet.variables(server))
    expressions = sorted({expression(fleet, query, node) for query, node in questions(fleet)})
    needed = {expression(fleet, query, node) for query, node in questions(fleet) if not may_be_empty(primary, query, node)}

    def ask() -> dict[str, int]:
        done = fleet.run(server, ["python3", "-c", ASK], stdin=json.dumps([address, expressions]))
        assert done.returncode == 0, done.stderr
        return dict(zip(expressions, json.loads(done.stdout), strict=True))

    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = ask()
        if all(found[one] for one in needed) or time.monotonic() > deadline:
            return found
        time.sleep(5)


def test_query_returns_data(fleet: Fleet, primary: str, series: dict[str, int], query: boards.Query, node: str) -> None:
    asked = expression(fleet, query, node)
    assert series[asked] > 0 or may_be_empty(primary, query, node), asked


def test_panels_that_may_be_empty_exist() -> None:
    panels = {(name, panel["title"]) for name in boards.names() for panel in boards.panels(name)}
    assert {*EMPTY_WHEN_WELL, *PRIMARY_ONLY, *REPLICA_ONLY} - panels == set()
