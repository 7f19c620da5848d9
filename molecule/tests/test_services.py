"""Every node: each service that its playbook names is enabled, runs, and listens where it must and nowhere else."""

import functools
import re

import pytest

from helpers.fleet import FLEET, Fleet
from helpers.rendering import hosts_of_roles

testinfra_hosts = ["ansible://all"]

# {role that runs a service: its unit}. The role's <role>_address and <role>_port say where it listens.
UNITS = {
    "postgresql": "postgresql@{postgresql_version}-{postgresql_cluster}.service",
    "node_exporter": "prometheus-node-exporter.service",
    "postgres_exporter": "prometheus-postgres-exporter.service",
    "prometheus": "prometheus.service",
    "alertmanager": "prometheus-alertmanager.service",
    "grafana": "grafana-server.service",
    "cadvisor": "cadvisor.service",
    "routing_client": "pgroute.service",
}
# Those that come from no distribution, so that a fleet may have to go without.
OPTIONAL = {"grafana", "cadvisor"}
SSH_PORT = 22


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"node", "role"} <= set(metafunc.fixturenames):
        fleet = metafunc.config.stash[FLEET]
        pairs = [(node, role) for role in UNITS for node in nodes_of(fleet, role)]
        metafunc.parametrize(("node", "role"), pairs, ids=["-".join(pair) for pair in pairs])


def nodes_of(fleet: Fleet, role: str) -> list[str]:
    """The nodes on which a playbook puts the role."""
    pattern = hosts_of_roles().get(role, "none")
    return fleet.inventory.hosts if pattern == "all" else fleet.group(pattern)


@functools.cache
def units(fleet: Fleet, node: str) -> dict[str, dict[str, str]]:
    """{unit: its state} of every unit above, in one call."""
    names = [unit.format_map(fleet.variables(node)) for unit in UNITS.values()]
    shown = fleet.node(node).check_output("systemctl show --property=Id,LoadState,ActiveState,UnitFileState " + " ".join(names))
    states = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")]
    return {state["Id"]: state for state in states}


@functools.cache
def sockets(fleet: Fleet, node: str) -> frozenset[tuple[str, int]]:
    """Every (address, port) on which something listens for TCP."""
    lines = fleet.node(node).check_output("ss -Hltn").splitlines()
    found = (line.split()[3].rpartition(":") for line in lines)
    return frozenset((re.sub(r"[\[\]]|%.*", "", address), int(port)) for address, _, port in found)


def left_out(fleet: Fleet, node: str, role: str) -> bool:
    """Whether a service is missing that the environment may go without, or that it leaves out by name."""
    if role not in OPTIONAL:
        return False
    variables = fleet.variables(node)
    required = variables[f"{role}_required"] and variables[f"{role}_source"] != "none"
    return not required and units(fleet, node)[UNITS[role]]["LoadState"] == "not-found"


def skip_if_left_out(fleet: Fleet, node: str, role: str) -> None:
    if left_out(fleet, node, role):
        if fleet.variables(node)[f"{role}_source"] == "none":
            pytest.skip(f"{role}_source is none: this fleet is meant to go without")
        pytest.skip(f"{role} is left out of this fleet: its source could not be reached and {role}_required is false")


def expected_sockets(fleet: Fleet, node: str, role: str) -> set[tuple[str, int]]:
    variables = fleet.variables(node)
    port = int(variables[f"{role}_port"])
    if role == "postgresql":
        return {(address, port) for address in [*variables["postgresql_listen_addresses"], *local_addresses(fleet, node)]}
    return {(variables[f"{role}_address"], port)}


@functools.cache
def local_addresses(fleet: Fleet, node: str) -> set[str]:
    """What `localhost` means on the node: with or without IPv6."""
    return {line.split()[0] for line in fleet.node(node).check_output("getent ahosts localhost").splitlines()}


def test_service_is_enabled_and_running(fleet: Fleet, node: str, role: str) -> None:
    skip_if_left_out(fleet, node, role)
    state = units(fleet, node)[UNITS[role].format_map(fleet.variables(node))]
    assert state["ActiveState"] == "active"
    assert state["UnitFileState"] in ("enabled", "enabled-runtime")


def test_service_listens_on_its_address_and_nowhere_else(fleet: Fleet, node: str, role: str) -> None:
    skip_if_left_out(fleet, node, role)
    expected = expected_sockets(fleet, node, role)
    ports = {port for _, port in expected}
    assert {socket for socket in sockets(fleet, node) if socket[1] in ports} == expected


def test_nothing_else_listens_beyond_the_node_itself(fleet: Fleet, name: str) -> None:
    if "env_docker" not in fleet.inventory.groups:
        pytest.skip("a machine of your own may serve other things as well")
    expected = {socket for role in UNITS if name in nodes_of(fleet, role) for socket in expected_sockets(fleet, name, role)}
    assert {
        (address, port) for address, port in sockets(fleet, name) - expected
        if port != SSH_PORT and not address.startswith("127.") and address != "::1"
    } == set()


def test_no_unit_has_failed(fleet: Fleet, name: str) -> None:
    assert fleet.node(name).check_output("systemctl --failed --no-legend --plain") == ""
