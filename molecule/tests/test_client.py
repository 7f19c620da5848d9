"""The application nodes: the routing client knows every node, and says so over HTTP and on the command line."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.fleet import Fleet, Variables, eventually

testinfra_hosts = ["ansible://routing_clients"]

# How long a busy machine may keep a node from being seen as it is.
SETTLE_SECONDS = 120

# A name that no user of the demo or of a load has, so that rows of these tests are found and removed.
MARK = "pgfleet-client-verification"

# Writes users through the service and reads each back at once with the token of its write; then all of them once more.
# It runs on the node. Prints {written: [node], read: [node], later: [node], stale: number of users not found}.
WRITE_AND_READ = """
import json, sys, urllib.error, urllib.request
service, mark, pairs = sys.argv[1], sys.argv[2], int(sys.argv[3])
told = {"written": [], "read": [], "later": [], "stale": 0}

def read(key, token, nodes):
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{service}/users/{key}", headers={"Consistency-Token": token}), timeout=60) as answer:
            nodes.append(answer.headers["Served-By"])
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        told["stale"] += 1

written = []
for _ in range(pairs):
    request = urllib.request.Request(
        f"{service}/users", data=json.dumps({"first_name": mark}).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told["written"].append(answer.headers["Served-By"])
        written.append((json.load(answer)["id"], answer.headers["Consistency-Token"]))
    read(*written[-1], told["read"])
for key, token in written:
    read(key, token, told["later"])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def service(variables: Variables) -> str:
    """The address of the service, as the other nodes reach it."""
    return f"http://{variables['routing_client_address']}:{variables['routing_client_port']}"


def test_the_service_is_alive(fleet: Fleet, name: str, service: str) -> None:
    assert fleet.fetch(name, f"{service}/healthz") == (200, "alive\n")


def test_the_service_is_ready_and_writes_to_the_primary(fleet: Fleet, name: str, service: str, primary: str) -> None:
    def ready() -> bool:  # a busy machine may keep the primary silent for a moment
        return fleet.fetch(name, f"{service}/readyz") == (200, f"writes go to {primary}\n")

    eventually(ready, seconds=SETTLE_SECONDS, what=f"writes go to {primary}")


def test_the_metrics_tell_every_node_and_its_role(fleet: Fleet, name: str, service: str) -> None:
    def told() -> dict[str, str]:
        _, text = fleet.fetch(name, f"{service}/metrics")
        return {
            labels["node"]: labels["role"]
            for line in re.findall(r"^pgroute_node_role\{(.*)\} 1\.0$", text, re.MULTILINE)
            for labels in [dict(re.findall(r'(\w+)="([^"]*)"', line))]
        }

    eventually(lambda: told() == fleet.roles, seconds=SETTLE_SECONDS, what=f"roles: {fleet.roles}")


def test_the_service_counts_the_reads_it_routes_to_replicas(fleet: Fleet, name: str, service: str, replicas: list[str]) -> None:
    def reads() -> set[str]:
        status, text = fleet.fetch(name, f"{service}/metrics")
        assert status == 200, text
        counted = re.findall(r'^pgroute_routed_total\{(.*)\} (\S+)$', text, re.MULTILINE)
        return {
            dict(re.findall(r'(\w+)="([^"]*)"', labels))["node"]
            for labels, value in counted if 'role="replica"' in labels and float(value) > 0
        }
    eventually(lambda: reads() == set(replicas), seconds=SETTLE_SECONDS, what="a heartbeat read on every replica")


@pytest.fixture(scope="module")
def pairs(fleet: Fleet, service: str, primary: str, database: str) -> Iterator[dict[str, Any]]:
    """What 200 writes through the service and the reads behind them told; their rows are gone again afterwards."""
    node = fleet.group("routing_clients")[0]
    yield json.loads(fleet.node(node).check_output("python3 -c %s %s %s 200", WRITE_AND_READ, service, MARK))
    fleet.psql(primary, f"DELETE FROM tbl_users WHERE first_name = '{MARK}'", database=database)


def test_every_write_through_the_service_goes_to_the_primary(pairs: dict[str, Any], primary: str) -> None:
    assert pairs["written"] == [primary] * 200


def test_no_read_with_the_token_of_a_write_misses_that_write(pairs: dict[str, Any]) -> None:
    assert pairs["stale"] == 0
    assert (len(pairs["read"]), len(pairs["later"])) == (200, 200)


def test_reads_with_a_token_come_from_replicas_once_they_are_there(pairs: dict[str, Any], replicas: list[str]) -> None:
    assert set(pairs["later"]) & set(replicas)


def test_the_service_tells_the_topology(fleet: Fleet, name: str, service: str) -> None:
    def told() -> dict[str, str]:
        status, text = fleet.fetch(name, f"{service}/topology")
        return {node["name"]: node["role"] for node in json.loads(text)["nodes"]} if status == 200 else {}

    eventually(lambda: told() == fleet.roles, seconds=SETTLE_SECONDS, what=f"roles: {fleet.roles}")


def test_the_page_and_the_interface_are_served(fleet: Fleet, name: str, service: str) -> None:
    status, page = fleet.fetch(name, f"{service}/")
    assert status == 200
    assert "<!doctype html>" in page.lower()
    status, interface = fleet.fetch(name, f"{service}/openapi.json")
    assert status == 200
    assert {"/users", "/sales", "/topology"} <= set(json.loads(interface)["paths"])


def test_the_doctor_finds_nothing_wrong(fleet: Fleet, name: str) -> None:
    said: list[str] = []

    def well() -> bool:  # a replica may be behind for a moment
        found = fleet.node(name).run("pgroute doctor")
        said[:] = [found.stdout]
        return bool(found.rc == 0)

    try:
        eventually(well, seconds=SETTLE_SECONDS, what="the doctor finds nothing wrong")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{said[0]}") from None


def test_the_service_runs_as_a_user_of_its_own(fleet: Fleet, name: str, variables: Variables) -> None:
    user = fleet.node(name).check_output("systemctl show --property=User --value pgroute.service")
    assert user not in ("", "root")


def test_the_command_line_shows_every_node_with_its_role(fleet: Fleet, name: str) -> None:
    def shown() -> dict[str, str]:
        table = fleet.node(name).run("pgroute status").stdout
        return dict(re.findall(r"^(\S+) +\S+ +(primary|replica) ", table, re.MULTILINE))

    eventually(lambda: shown() == fleet.roles, seconds=SETTLE_SECONDS, what=f"roles: {fleet.roles}")


def test_nobody_but_the_service_reads_the_passwords(fleet: Fleet, name: str) -> None:
    assert fleet.node(name).run("test -s /etc/pgroute/passfile").rc == 0
    assert fleet.node(name).run("runuser -u nobody -- cat /etc/pgroute/passfile").rc != 0
