"""Fixtures of the tests that need a running fleet.

`pytest molecule/tests --ansible-inventory=inventories/docker.yml` needs no other option.
A file says on its first line which group it speaks about: `testinfra_hosts = ["ansible://postgres_cluster"]`;
its tests that take `host` run once for each node of the group, all others once.
Expected values come from `variables` (this node's) or `fleet.variables(name)`, who is primary from the servers.
"""

from typing import Any

import pytest
from testinfra.host import Host

from helpers.fleet import FLEET, Fleet, Variables


def pytest_configure(config: pytest.Config) -> None:
    inventory = config.getoption("ansible_inventory")
    if not inventory:
        raise pytest.UsageError("which fleet? add --ansible-inventory=inventories/docker.yml, or an inventory of yours")
    config.stash[FLEET] = Fleet(inventory)


def pytest_unconfigure(config: pytest.Config) -> None:
    if FLEET in config.stash:
        config.stash[FLEET].close()


@pytest.fixture(scope="session")
def fleet(pytestconfig: pytest.Config) -> Fleet:
    """Every node: fleet.group("monitoring"), fleet.psql(name, statement), fleet.fetch(name, url)."""
    return pytestconfig.stash[FLEET]


@pytest.fixture(scope="module")
def name(host: Host) -> str:
    """The node's name in the inventory."""
    return str(host.backend.get_hostname())


@pytest.fixture(scope="module")
def variables(fleet: Fleet, name: str) -> Variables:
    """The node's variables, resolved, with the defaults of all roles."""
    return fleet.variables(name)


@pytest.fixture(scope="session")
def primary(fleet: Fleet) -> str:
    """The name of the node that takes writes now, as the servers say."""
    return fleet.primary


@pytest.fixture(scope="session")
def replicas(fleet: Fleet) -> list[str]:
    """The names of the nodes in recovery now, as the servers say."""
    return fleet.replicas


@pytest.fixture(scope="session")
def database(fleet: Fleet, primary: str) -> Any:
    """The name of the application's database."""
    return fleet.variables(primary)["cluster_database"]
