"""Bad input that is found before any node is contacted: each gets one sentence that says what, where, and what to type."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.plugins import load_plugin
from helpers.repository import ROOT

check = load_plugin("action/inventory_check.py")

GROUPS = {"postgres_cluster": ["pg1", "pg2"], "postgres_primary": ["pg1"], "postgres_replicas": ["pg2"], "monitoring": ["mon1"]}
GOOD_SECRET = "kX9v2mQ7rT4w"


def inventory(*, primaries: tuple[str, ...] = ("pg1",), replicas: tuple[str, ...] = ("pg2",), **variables: Any) -> dict[str, Any]:
    """An inventory whose nodes nobody could reach: a check that contacted one would end differently."""
    number = iter(range(1, 9))
    return {"all": {"vars": variables, "children": {
        "env_docker": {"children": {"postgres_cluster": {"children": {
            "postgres_primary": {"hosts": {name: {"standin_number": next(number)} for name in primaries}},
            "postgres_replicas": {"hosts": {name: {"standin_number": next(number)} for name in replicas}},
        }}}},
    }}}


def preflight(folder: Path, content: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = folder / "inventory.yml"
    path.write_text(yaml.safe_dump(content))
    if not (folder / "group_vars").exists():
        (folder / "group_vars").symlink_to(ROOT / "group_vars")
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(path), "playbooks/preflight.yml", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
    )


@pytest.mark.parametrize(("content", "arguments", "sentence"), [
    (inventory(), ["-e", "postgresql_prot=5433"], "Nothing reads the variable postgresql_prot (on the command line): write postgresql_port."),
    (inventory(cluster_databse="app"), [], "Nothing reads the variable cluster_databse"),
    (inventory(primaries=("pg1", "pg2"), replicas=("pg3",)), [], "The inventory names 2 primaries (pg1, pg2)"),
    (inventory(primaries=()), [], "The inventory names no primary"),
    (inventory(primaries=("pg1",), replicas=("pg1", "pg2")), [], "pg1 is in both postgres_primary and postgres_replicas"),
    (inventory(), ["-e", "cluster_state_postgresql_port=high"], "cluster_state_postgresql_port is 'high', but must be a whole number"),
    (inventory(), ["-e", "cluster_state_postgresql_repository=debian"], "must be one of distribution, pgdg, custom"),
    (inventory(postgresql_settings={"max_slot_wal_keep_size": -1}), [], "postgresql_settings sets max_slot_wal_keep_size to -1"),
    (inventory(), ["-e", "node_address=192.0.2.1"], "pg1 and pg2 have the same address 192.0.2.1"),
    (inventory(), ["-e", "postgresql_prot=1", "--limit", "pg2", "--tags", "grafana"], "write postgresql_port"),
    (inventory(), ["-e", "postgresql_prot=1", "--skip-tags", "cluster_state"], "write postgresql_port"),
])
def test_bad_input_ends_the_run_before_any_node_is_contacted(tmp_path: Path, content: dict[str, Any], arguments: list[str], sentence: str) -> None:
    ended = preflight(tmp_path, content, *arguments)
    assert ended.returncode != 0
    assert sentence in " ".join((ended.stdout + ended.stderr).split())
    assert "does not answer" not in ended.stdout + ended.stderr
    assert ended.stdout.count("changed=0") == ended.stdout.count("changed=") == 1


def test_a_good_inventory_passes_on_to_the_nodes(tmp_path: Path) -> None:
    ended = preflight(tmp_path, inventory(), "-e", "ansible_port=1")
    assert "Check the inventory and its variables" in ended.stdout
    assert "pg1 (127.0.0.1 port 1) does not answer over SSH" in ended.stdout + ended.stderr


def test_every_misspelling_is_told_with_its_file(tmp_path: Path) -> None:
    ended = preflight(tmp_path, inventory(grafana_prot=3000, cluster_databse="app"))
    told = " ".join((ended.stdout + ended.stderr).split())
    assert "cluster_databse (" in told
    assert "inventory.yml:" in told
    assert "write cluster_database." in told
    assert "grafana_prot" in told


def test_a_placeholder_in_production_is_told_without_its_value(tmp_path: Path) -> None:
    content = inventory(ansible_host="{{ inventory_hostname }}")
    content["all"]["children"]["env_production"] = content["all"]["children"].pop("env_docker")
    secrets = {"vault_replicator_password": "change_me_soon", "vault_app_rw_password": GOOD_SECRET,
               "vault_app_ro_password": "abc123", "vault_grafana_admin_password": ""}
    ended = preflight(tmp_path, content, "-e", json.dumps(secrets))
    told = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode != 0
    assert "vault_replicator_password still holds a placeholder: set it with ansible-vault edit group_vars/env_production/vault.yml" in told
    assert "vault_app_ro_password is shorter than 12 characters" in told
    assert "vault_grafana_admin_password is empty" in told
    assert "vault_app_rw_password" not in told
    assert not [value for value in ("change_me_soon", GOOD_SECRET, "abc123") if value in told]


@pytest.mark.parametrize(("content", "plain"), [
    (f"---\nvault_app_rw_password: {GOOD_SECRET}\n", True),
    ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", False),
    ("vault_app_rw_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n", False),
    ("# nothing yet\n", False),
    ("vault_app_rw_password: \"{{ lookup('env', 'APP_RW') }}\"\n", False),
    ("vault_app_rw_password: '{{ from_elsewhere }}'\nvault_app_ro_password: {{ bare }}\n", False),
    ("vault_app_rw_password: # set by an extra variable\n", False),
    ("vault_app_rw_password: # of the application\n  !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n", False),
    (f"vault_app_rw_password: {GOOD_SECRET} # of the application\n", True),
    (f"vault_app_rw_password: '#{GOOD_SECRET}'\n", True),
    (f"vault_a: \"{{{{ b }}}}\"\nvault_app_rw_password: {GOOD_SECRET}\n", True),
    (f"vault_app_rw_password: |\n  {GOOD_SECRET}\n", True),
])
def test_a_vault_file_that_is_not_encrypted_is_refused(content: str, plain: bool) -> None:
    files = {ROOT / "group_vars/env_production/vault.yml": content, ROOT / "group_vars/env_production/vault.example.yml": "vault_a: <a>\n"}
    assert check.vault_problems(files) == (
        ["group_vars/env_production/vault.yml is not encrypted: ansible-vault encrypt group_vars/env_production/vault.yml"] if plain else [])


def test_an_open_vault_file_ends_the_run_before_any_node_is_contacted(tmp_path: Path) -> None:
    content = inventory(ansible_host="{{ inventory_hostname }}")
    content["all"]["children"]["env_production"] = content["all"]["children"].pop("env_docker")
    (tmp_path / "group_vars/env_production").mkdir(parents=True)
    for name in ("all", "monitoring.yml", "postgres_cluster.yml", "routing_clients.yml", "env_production/secrets.yml"):
        (tmp_path / "group_vars" / name).symlink_to(ROOT / "group_vars" / name)
    (tmp_path / "group_vars/env_production/vault.yml").write_text("".join(
        f"vault_{name}: {GOOD_SECRET}\n" for name in ("replicator_password", "app_rw_password", "app_ro_password", "grafana_admin_password")))
    ended = preflight(tmp_path, content)
    told = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode != 0
    assert "vault.yml is not encrypted: ansible-vault encrypt" in told
    assert GOOD_SECRET not in told
    assert ended.stdout.count("changed=0") == ended.stdout.count("changed=") == 1


def test_the_check_costs_less_than_a_second() -> None:
    files = check.sources(ROOT, [ROOT / "inventories/docker.yml"])
    started = time.process_time()
    options = check.role_options(ROOT)
    read = check.names_read(path.read_text(errors="replace") for path in files)
    check.unknown_names(["postgresq_port", "my_own"], options, read, [path.name for path in (ROOT / "roles").iterdir()])
    assert time.process_time() - started < 1


@pytest.mark.parametrize(("groups", "sentence"), [
    ({}, "no host in group postgres_cluster"),
    (GROUPS | {"postgres_primary": []}, "names no primary"),
    (GROUPS | {"postgres_primary": ["pg1", "pg2"]}, "names 2 primaries (pg1, pg2)"),
    (GROUPS | {"postgres_replicas": ["pg1", "pg2"]}, "pg1 is in both"),
    ({"postgres_cluster": ["pg1"], "postgres_primary": ["pg1"], "postgres_replica": ["pg2"]}, "write postgres_replicas"),
    (GROUPS | {"postgres_replicas": ["pg2", "pg9"]}, "pg9 is a primary or a replica outside"),
])
def test_a_wrong_group_is_told(groups: dict[str, list[str]], sentence: str) -> None:
    assert sentence in " ".join(check.group_problems(groups))


@pytest.mark.parametrize(("settings", "unlimited", "refused"), [
    ({"max_slot_wal_keep_size": -1}, False, True), ({"max_slot_wal_keep_size": "-1"}, False, True), ({"max_slot_wal_keep_size": -1}, True, False),
    ({"max_slot_wal_keep_size": "10GB"}, False, False), ({}, False, False), (None, False, False),
])
def test_slots_without_a_limit_are_for_those_who_say_so(settings: Any, unlimited: bool, refused: bool) -> None:
    assert bool(check.slot_problem(settings, unlimited)) is refused


def test_right_groups_are_not_told() -> None:
    assert check.group_problems(GROUPS | {"env_docker": ["pg1"], "racks": ["pg1"], "all": ["pg1"]}) == []


@pytest.mark.parametrize(("names", "addresses", "sentence"), [
    (["pg-1", "pg_1"], {}, "would share the replication slot slot_pg_1"),
    (["PG1", "pg1"], {}, "would share the replication slot slot_pg1"),
    (["p" * 59], {}, "too long for a replication slot"),
    (["pg1"], {"pg1": "192.0.2.1", "mon1": "192.0.2.1"}, "mon1 and pg1 have the same address"),
])
def test_a_node_that_cannot_be_told_apart_is_told(names: list[str], addresses: dict[str, str], sentence: str) -> None:
    assert sentence in " ".join(check.node_problems(names, addresses))


def test_nodes_that_differ_are_not_told() -> None:
    assert check.node_problems(["pg1", "db.example.org", "p" * 58], {"pg1": "192.0.2.1", "pg2": "192.0.2.2"}) == []


@pytest.mark.parametrize(("name", "meant"), [
    ("postgresq_port", "postgresql_port"),
    ("postgresql_prot", "postgresql_port"),
    ("postgresql_colour", None),
    ("node_adress", "node_address"),
    ("secret_replicator_pasword", "secret_replicator_password"),
])
def test_a_misspelt_name_is_told_with_the_nearest(name: str, meant: str | None) -> None:
    told = check.unknown_names([name], ["postgresql_port"], ["secret_replicator_password"], ["postgresql"], ["node_address"])
    assert told == {name: meant}


@pytest.mark.parametrize("name", ["ansible_host", "asset_tag", "inventory_dir", "molecule_yml", "postgresql_port", "node_address", "__x"])
def test_a_name_of_the_user_or_of_ansible_is_not_told(name: str) -> None:
    assert check.unknown_names([name], ["postgresql_port"], ["node_address"], ["postgresql"]) == {}


def test_a_name_is_read_where_it_is_a_value_and_not_where_it_is_a_key_or_a_comment() -> None:
    assert check.names_read(["cluster_name: x\n# cluster_size\nrole_input: '{{ cluster_port }}'\n"]) == {"cluster_port"}


@pytest.mark.parametrize(("value", "option", "words"), [
    ("many", {"type": "int"}, "a whole number"),
    ("perhaps", {"type": "bool"}, "true or false"),
    ("maybe", {"type": "str", "choices": ["a", "b"]}, "one of a, b"),
    ([{"port": "x"}], {"type": "list", "elements": "dict", "options": {"port": {"type": "int"}}}, "port"),
    ([{"prot": 1}], {"type": "list", "elements": "dict", "options": {"port": {"type": "int"}}}, "prot"),
])
def test_a_value_of_the_wrong_kind_is_told(value: Any, option: dict[str, Any], words: str) -> None:
    assert words in check.value_problem("role_input", value, option)


@pytest.mark.parametrize("name", ["grafana_admin_password", "replication_secret"])
def test_a_secret_of_the_wrong_kind_is_told_without_its_value(name: str) -> None:
    assert check.value_problem(name, "hunter22", {"type": "int"}) == f"{name} is not a whole number"


@pytest.mark.parametrize(("value", "option"), [(5432, {"type": "int"}), ("5432", {"type": "int"}), ([], {"type": "list", "elements": "str"})])
def test_a_right_value_is_not_told(value: Any, option: dict[str, Any]) -> None:
    assert check.value_problem("role_input", value, option) is None


def test_a_template_is_left_to_the_run() -> None:
    assert not check.is_literal({"a": ["{{ b }}"]})
    assert check.is_literal({"a": [1, "b"]})


@pytest.mark.parametrize("value", [None, "", "  ", "change_me", "CHANGEME-please", "<your password>", "example-secret", "...", "abc123"])
def test_a_placeholder_is_no_secret(value: str | None) -> None:
    sentence = check.secret_problem("vault_x", value, "vault.yml")
    assert sentence
    assert "ansible-vault edit vault.yml" in sentence
    assert not (value or "").strip() or value not in sentence


def test_a_generated_secret_is_one() -> None:
    assert check.secret_problem("vault_x", GOOD_SECRET, "vault.yml") is None


def test_an_old_controller_is_told_what_to_type() -> None:
    assert "pip install --require-hashes -r requirements.txt" in check.controller_problems("2.14.3", (3, 11))[0]
    assert "Python 3.9" in check.controller_problems("2.19.1", (3, 9))[0]
    assert check.controller_problems("2.19.14", (3, 13)) == []


@pytest.mark.parametrize("installed", [{}, {"community.postgresql": "3.0.0"}])
def test_a_missing_or_other_collection_is_told_what_to_type(installed: dict[str, str]) -> None:
    told = check.collection_problems({"community.postgresql": "4.2.0"}, installed)
    assert "community.postgresql 4.2.0" in told[0]
    assert "ansible-galaxy collection install -r requirements.yml" in told[0]
