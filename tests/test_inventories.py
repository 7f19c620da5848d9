"""The inventories: they parse, every playbook reads them, and a change of one line changes what it should."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.inventory import Inventory, Unresolvable
from helpers.repository import ROOT, inventories, playbooks, read_yaml

every_inventory = pytest.mark.parametrize("inventory", inventories())

# What the nodes answer during a run; everything else of the topology follows from the inventory.
ANSWERED_BY_NODES = {"topology_answers", "topology_primary_runs"}

# What every node must see alike.
CLUSTER_WIDE = [
    "topology_names", "topology_addresses", "topology_declared_primaries", "topology_primary", "topology_replica_names",
    "topology_postgresql_nodes", "topology_slots", "topology_scrape_jobs",
]

# A fourth database node, as someone would add it: nothing else is written.
FOURTH = {
    "inventories/docker.yml": {"pg4": {"standin_number": 4, "standin_ports": ["5435:5432"]}},
    "inventories/production.example.yml": {"pg4": {"ansible_host": "192.0.2.99"}},
}

PRODUCTION_SECRETS = {
    name.replace("secret_", "vault_"): "for-this-test-only"
    for name in read_yaml(ROOT / "group_vars/env_production/secrets.yml")
}


def run(tool: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / tool), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **environment},
    )


def inventory_with_fourth(inventory: str, folder: Path) -> Inventory:
    """The inventory with one more line: an overlay that adds pg4 to the replicas."""
    overlay = folder / "fourth.yml"
    overlay.write_text(yaml.safe_dump({"postgres_replicas": {"hosts": FOURTH[inventory]}}))
    return Inventory(ROOT / inventory, overlay, extra=PRODUCTION_SECRETS)


def topology(inventory: Inventory, host: str) -> dict[str, Any]:
    names = {name for name in inventory.variables(host) if name.startswith("topology_")} - ANSWERED_BY_NODES
    return {name: inventory.value(host, name) for name in sorted(names)}


def test_the_documented_inventories_exist() -> None:
    assert set(inventories()) >= {"inventories/docker.yml", "inventories/production.example.yml"}


@every_inventory
def test_inventory_is_listed_without_a_warning(inventory: str) -> None:
    listed = run("ansible-inventory", "-i", inventory, "--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert set(json.loads(listed.stdout)) >= {"postgres_cluster", "postgres_primary", "postgres_replicas", "monitoring", "routing_clients"}


@every_inventory
def test_every_playbook_reads_the_inventory(inventory: str) -> None:
    checked = run("ansible-playbook", "--syntax-check", "-i", inventory, *playbooks())
    assert checked.returncode == 0, checked.stderr


@every_inventory
def test_inventory_names_one_primary_and_at_least_one_replica(inventory: str) -> None:
    groups = Inventory(ROOT / inventory).groups
    assert len(groups["postgres_primary"]) == 1
    assert groups["postgres_replicas"]
    assert sorted(groups["postgres_primary"] + groups["postgres_replicas"]) == groups["postgres_cluster"]


@every_inventory
def test_inventory_belongs_to_one_environment(inventory: str) -> None:
    groups = Inventory(ROOT / inventory).groups
    environments = [name for name in groups if name.startswith("env_")]
    assert len(environments) == 1
    assert groups[environments[0]] == groups["all"]


@every_inventory
def test_topology_is_the_same_seen_from_every_node(inventory: str) -> None:
    fleet = Inventory(ROOT / inventory, extra=PRODUCTION_SECRETS)
    seen = [{name: fleet.value(host, name) for name in CLUSTER_WIDE} for host in fleet.hosts]
    for one in seen[1:]:
        assert one == seen[0]
    assert seen[0]["topology_names"] == fleet.hosts


def test_topology_does_not_depend_on_the_order_of_a_set() -> None:
    script = (
        "import json; from helpers.inventory import Inventory\n"
        "fleet = Inventory('inventories/docker.yml')\n"
        "names = {name for name in fleet.variables('pg1') if name.startswith('topology_')}\n"
        f"names -= {ANSWERED_BY_NODES}\n"
        "print(json.dumps([[name, fleet.value('pg1', name)] for name in sorted(names)]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE,
                         env={**os.environ, "PYTHONPATH": "tests", "PYTHONHASHSEED": str(seed)})
        for seed in range(1, 5)
    ]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert {process.returncode for process in processes} == {0}


@pytest.mark.parametrize("inventory", FOURTH)
def test_a_fourth_node_changes_what_it_should_and_no_more(inventory: str, tmp_path: Path) -> None:
    before = Inventory(ROOT / inventory, extra=PRODUCTION_SECRETS)
    after = inventory_with_fourth(inventory, tmp_path)
    primary = before.groups["postgres_primary"][0]
    old, new = topology(before, primary), topology(after, primary)

    for name in ("topology_declared_primaries", "topology_primary", "topology_is_primary",
                 "topology_monitoring_names", "topology_routing_client_names"):
        assert new[name] == old[name]
    assert new["topology_postgresql_names"] == sorted([*old["topology_postgresql_names"], "pg4"])
    assert new["topology_replica_names"] == sorted([*old["topology_replica_names"], "pg4"])
    assert {name: address for name, address in new["topology_addresses"].items() if name != "pg4"} == old["topology_addresses"]
    assert [node for node in new["topology_postgresql_nodes"] if node["name"] != "pg4"] == old["topology_postgresql_nodes"]


@pytest.mark.parametrize("inventory", FOURTH)
def test_a_fourth_node_gets_the_same_settings_as_its_siblings(inventory: str, tmp_path: Path) -> None:
    fleet = inventory_with_fourth(inventory, tmp_path)
    sibling = fleet.groups["postgres_replicas"][0]
    own = ("standin_", "ansible_", "inventory_", "group", "hostvars", "node_address")
    first, fourth = fleet.variables(sibling), fleet.variables("pg4")
    shared = {name for name in {*first, *fourth} if not name.startswith(own)}
    assert {name for name in shared if first.get(name) != fourth.get(name)} == set()


def test_group_variables_are_one_folder_from_every_entry_point() -> None:
    link = ROOT / "inventories/group_vars"
    assert link.is_symlink()
    assert os.readlink(link) == "../group_vars"


def test_the_stand_in_inventory_publishes_the_documented_ports() -> None:
    fleet = Inventory(ROOT / "inventories/docker.yml", extra={"standin_slot": 0})
    published = {host: fleet.value(host, "standin_published_ports") for host in fleet.hosts}
    assert published == {
        "pg1": ["127.0.0.1:5432:5432", "127.0.0.1:9187:9187", "127.0.0.1:2201:22"],
        "pg2": ["127.0.0.1:5433:5432", "127.0.0.1:9188:9187", "127.0.0.1:2202:22"],
        "pg3": ["127.0.0.1:5434:5432", "127.0.0.1:9189:9187", "127.0.0.1:2203:22"],
        "mon1": ["127.0.0.1:9090:9090", "127.0.0.1:9093:9093", "127.0.0.1:3000:3000", "127.0.0.1:2208:22"],
        "app1": ["127.0.0.1:8080:8080", "127.0.0.1:2209:22"],
    }


@pytest.mark.parametrize("slot", [0, 1, 5])
def test_stand_ins_of_two_slots_never_share_a_port_an_address_or_a_secret(slot: int) -> None:
    one = Inventory(ROOT / "inventories/docker.yml", extra={"standin_slot": slot})
    other = Inventory(ROOT / "inventories/docker.yml", extra={"standin_slot": slot + 1})
    for name in ("standin_container", "standin_published_ports", "node_address", "standin_secrets", "ansible_port"):
        mine = {str(one.value(host, name)) for host in one.hosts}
        theirs = {str(other.value(host, name)) for host in other.hosts}
        assert mine.isdisjoint(theirs), name


def test_a_stand_in_is_reached_as_a_plain_user_over_ssh() -> None:
    fleet = Inventory(ROOT / "inventories/docker.yml")
    for host in fleet.hosts:
        assert fleet.value(host, "ansible_user") == "deploy"
        assert "ansible_connection" not in fleet.variables(host)
        assert "StrictHostKeyChecking=yes" in fleet.value(host, "ansible_ssh_common_args")


def test_the_production_example_holds_nothing_of_the_test_bed() -> None:
    fleet = Inventory(ROOT / "inventories/production.example.yml")
    for host in fleet.hosts:
        assert [name for name in fleet.variables(host) if name.startswith("standin_")] == []


def test_the_production_example_uses_documentation_addresses_only() -> None:
    fleet = Inventory(ROOT / "inventories/production.example.yml")
    addresses = [fleet.value(host, "node_address") for host in fleet.hosts]
    assert [address for address in addresses if not address.startswith(("192.0.2.", "198.51.100.", "203.0.113."))] == []
    assert len(set(addresses)) == len(addresses)


def test_production_takes_every_secret_from_its_vault() -> None:
    docker = read_yaml(ROOT / "group_vars/env_docker/secrets.yml")
    production = read_yaml(ROOT / "group_vars/env_production/secrets.yml")
    assert set(production) == set(docker)
    assert {name: value for name, value in production.items() if value != "{{ " + name.replace("secret_", "vault_") + " }}"} == {}


@every_inventory
def test_no_node_is_primary_before_the_preflight_has_asked(inventory: str) -> None:
    fleet = Inventory(ROOT / inventory, extra=PRODUCTION_SECRETS)
    host = fleet.groups["postgres_cluster"][0]
    known = {name: value for name, value in fleet.variables(host).items() if name != "cluster_state_known"}
    for name in ("postgresql_is_primary", "postgresql_initialise", "replication_primary_name"):
        with pytest.raises(Unresolvable, match="this run skipped the preflight"):
            fleet.resolve(known[name], known)


def test_a_production_fleet_whose_alerts_reach_nobody_says_so() -> None:
    def notices(name: str, **settings: str) -> list[str]:
        inventory = Inventory(ROOT / name)
        known = {**inventory.variables(inventory.hosts[0]), **settings}
        return list(inventory.resolve(known["fleet_status_notices"], known))

    (told,) = notices("inventories/production.example.yml")
    assert "alertmanager_receiver" in told
    assert notices("inventories/production.example.yml", alertmanager_receiver="webhook") == []
    assert notices("inventories/docker.yml") == []
