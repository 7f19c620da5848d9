"""The application nodes: the routing client knows every node, and says so over HTTP and on the command line."""

import re

import pytest

from helpers.fleet import Fleet, Variables, eventually

testinfra_hosts = ["ansible://routing_clients"]


@pytest.fixture(scope="module")
def service(variables: Variables) -> str:
    """The address of the service, as the other nodes reach it."""
    return f"http://{variables['routing_client_address']}:{variables['routing_client_port']}"


def test_the_service_is_alive(fleet: Fleet, name: str, service: str) -> None:
    assert fleet.fetch(name, f"{service}/healthz") == (200, "alive\n")


def test_the_service_is_ready_and_writes_to_the_primary(fleet: Fleet, name: str, service: str, primary: str) -> None:
    assert fleet.fetch(name, f"{service}/readyz") == (200, f"writes go to {primary}\n")


def test_the_metrics_tell_every_node_and_its_role(fleet: Fleet, name: str, service: str) -> None:
    status, text = fleet.fetch(name, f"{service}/metrics")
    assert status == 200
    told = {
        labels["node"]: labels["role"]
        for line in re.findall(r"^pgroute_node_role\{(.*)\} 1\.0$", text, re.MULTILINE)
        for labels in [dict(re.findall(r'(\w+)="([^"]*)"', line))]
    }
    assert told == fleet.roles


def test_the_service_counts_the_reads_it_routes_to_replicas(fleet: Fleet, name: str, service: str, replicas: list[str]) -> None:
    def reads() -> set[str]:
        status, text = fleet.fetch(name, f"{service}/metrics")
        assert status == 200, text
        counted = re.findall(r'^pgroute_routed_total\{(.*)\} (\S+)$', text, re.MULTILINE)
        return {
            dict(re.findall(r'(\w+)="([^"]*)"', labels))["node"]
            for labels, value in counted if 'role="replica"' in labels and float(value) > 0
        }
    eventually(lambda: reads() == set(replicas), seconds=60, what="a heartbeat read on every replica")


def test_the_service_runs_as_a_user_of_its_own(fleet: Fleet, name: str, variables: Variables) -> None:
    user = fleet.node(name).check_output("systemctl show --property=User --value pgroute.service")
    assert user not in ("", "root")


def test_the_command_line_shows_every_node_with_its_role(fleet: Fleet, name: str) -> None:
    shown = fleet.node(name).check_output("pgroute status")
    assert dict(re.findall(r"^(\S+) +\S+ +(primary|replica) ", shown, re.MULTILINE)) == fleet.roles


def test_nobody_but_the_service_reads_the_passwords(fleet: Fleet, name: str) -> None:
    assert fleet.node(name).run("test -s /etc/pgroute/passfile").rc == 0
    assert fleet.node(name).run("runuser -u nobody -- cat /etc/pgroute/passfile").rc != 0
