"""The database nodes in every state that a run must not touch: it ends with one sentence and changed=0."""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.repository import ROOT, read_yaml

Restore = Callable[[Callable[[], object]], None]

REFUSE_SSH = "INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset"
IGNORE_SSH = "INPUT -p tcp --dport 22 -j DROP"


@pytest.fixture
def replica(replicas: list[str]) -> str:
    return replicas[-1]


def assert_stopped(result: tuple[int, str], *sentences: str) -> None:
    code, said = result
    for sentence in sentences:
        assert sentence in said
    assert code != 0
    assert "changed=0" in said
    assert said.count("changed=0") == said.count("changed=")


def assert_goes_on(result: tuple[int, str], *words: str) -> None:
    code, said = result
    assert code == 0, said
    for word in words:
        assert word in said


@pytest.mark.parametrize("limit", [[], ["--limit", "LAST"], ["--limit", "monitoring", "--tags", "grafana"]])
def test_a_database_node_that_does_not_answer_stops_every_run(
    stand_ins: Any, restore: Restore, primary: str, replica: str, limit: list[str],
) -> None:
    restore(lambda: stand_ins.run(primary, f"iptables -D {REFUSE_SSH}"))
    stand_ins.run(primary, f"iptables -I {REFUSE_SSH}")
    arguments = [replica if word == "LAST" else word for word in limit]
    assert_stopped(stand_ins.play("preflight.yml", *arguments), f"{primary} (", "does not answer over SSH", "No run changes a cluster while the state")


def test_a_database_node_that_fell_silent_is_told_soon(stand_ins: Any, restore: Restore, primary: str) -> None:
    restore(lambda: stand_ins.run(primary, f"iptables -D {IGNORE_SSH}"))
    stand_ins.run(primary, f"iptables -I {IGNORE_SSH}")
    started = time.monotonic()
    assert_stopped(stand_ins.play("preflight.yml"), f"{primary} (", "does not answer over SSH", "No run changes a cluster while the state")
    # A new connection is given up after 10 s, one that is shared with an earlier run after 30 s; the kernel itself tries for two minutes.
    assert time.monotonic() - started < 120


def test_a_user_without_sudo_is_told_how_to_get_it(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.run(replica, "mv /etc/sudoers.kept /etc/sudoers.d/deploy"))
    stand_ins.run(replica, "mv /etc/sudoers.d/deploy /etc/sudoers.kept")
    assert_stopped(stand_ins.play("preflight.yml"), f"{replica}: deploy is not root and may not use sudo")


def test_a_port_of_ours_that_a_stranger_took_is_told_with_its_pid(stand_ins: Any, restore: Restore, replica: str) -> None:
    port = stand_ins.fleet.variables(replica)["node_exporter_port"]
    restore(lambda: stand_ins.run(replica, "systemctl stop stranger; systemctl start prometheus-node-exporter"))
    stand_ins.run(replica, f"systemctl stop prometheus-node-exporter; systemd-run -q --unit=stranger python3 -m http.server {port};"
                           f"until ss -ltn | grep -q ':{port} '; do :; done")
    pid = stand_ins.run(replica, "systemctl show --value -p MainPID stranger").strip()
    assert_stopped(stand_ins.play("preflight.yml"),
                   f"{replica}: port {port}, which prometheus-node-exporter needs, is taken by python3 (pid {pid}, unit stranger)")


def test_a_full_disk_is_told(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.run(replica, "umount /mnt; "))
    stand_ins.run(replica, "mount -t tmpfs -o size=1m none /mnt")
    wanted = '{"cluster_state_directories": [{"path": "/mnt/data", "minimum_free_bytes": 500000000}]}'
    assert_stopped(stand_ins.play("preflight.yml", "--limit", replica, "-e", wanted), f"{replica}: /mnt/data has 1 MB free and needs 500 MB")


def test_an_address_that_is_not_the_nodes_own_is_told(stand_ins: Any, replica: str) -> None:
    own = stand_ins.fleet.variables(replica)["node_address"]
    wanted = '{"cluster_state_address": "192.0.2.77"}'
    assert_stopped(stand_ins.play("preflight.yml", "--limit", replica, "-e", wanted),
                   f"{replica}: 192.0.2.77 is none of its own addresses ({own}", f"set node_address of {replica}")
    wanted = '{"cluster_state_address": "localhost"}'
    assert_stopped(stand_ins.play("preflight.yml", "--limit", replica, "-e", wanted),
                   f"{replica}: localhost is only a loopback address on it", f"set node_address of {replica}")


def test_a_data_directory_that_is_itself_a_mount_point_is_told(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.run(replica, f"umount {stand_ins.data}; mv /run/marker {stand_ins.marker}; systemctl start {stand_ins.unit}"))
    stand_ins.run(replica, f"systemctl stop {stand_ins.unit}; mv {stand_ins.marker} /run/marker; mount -t tmpfs none {stand_ins.data}")
    assert_stopped(stand_ins.play("preflight.yml", "--limit", replica),
                   f"{replica}: {stand_ins.data} is itself a mount point", f"mount that disk on {stand_ins.data.parent} instead")


def test_an_unsupported_distribution_is_told(stand_ins: Any) -> None:
    assert_stopped(stand_ins.play("preflight.yml", "-e", '{"cluster_state_distributions": ["Ubuntu 24.04"]}'), "supported are Ubuntu 24.04")


def test_data_of_another_cluster_is_never_touched(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.put_back(replica))
    stand_ins.set_aside(replica)
    stand_ins.run(replica, f"runuser -u postgres -- {initdb(stand_ins)} -D {stand_ins.data}")
    assert_stopped(stand_ins.play("postgres.yml"), f"{replica} holds data of another cluster", f"move {stand_ins.data} on {replica} aside")


def test_an_incomplete_directory_counts_as_incomplete(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.put_back(replica))
    stand_ins.set_aside(replica)
    stand_ins.run(replica, f"install -d -o postgres -m 0700 {stand_ins.data}; echo 17 > {stand_ins.data}/PG_VERSION")
    assert_goes_on(stand_ins.play("preflight.yml", "-v", "--limit", replica), "cluster_state_data_directory_state: incomplete", "action: converge")


def test_two_writable_nodes_stop_every_run(stand_ins: Any, restore: Restore, primary: str, replica: str) -> None:
    restore(lambda: stand_ins.put_back(replica))
    stand_ins.set_aside(replica)
    stand_ins.run(replica, f"cp -a {stand_ins.data}.kept {stand_ins.data}; rm {stand_ins.data}/standby.signal; systemctl start {stand_ins.unit}")
    assert_stopped(stand_ins.play("postgres.yml", "--limit", primary), "More than one node accepts writes", f"{primary}: identifier", f"{replica}: identifier")


def test_a_stopped_primary_is_the_one_that_is_started(stand_ins: Any, restore: Restore, primary: str) -> None:
    restore(lambda: stand_ins.run(primary, f"systemctl start {stand_ins.unit}"))
    stand_ins.run(primary, f"systemctl stop {stand_ins.unit}")
    assert_goes_on(stand_ins.play("preflight.yml", "-v"), "action: start_recorded_primary", f"cluster_state_primary: {primary}")


@pytest.mark.parametrize("way_past", [["--start-at-task", "Ask how large the host is"], ["--start-at-task", "Start the server"], ["--skip-tags", "always"]])
def test_a_run_that_skips_the_preflight_starts_nothing(stand_ins: Any, restore: Restore, primary: str, way_past: list[str]) -> None:
    restore(lambda: stand_ins.run(primary, f"systemctl start {stand_ins.unit}"))
    stand_ins.run(primary, f"systemctl stop {stand_ins.unit}")
    assert_stopped(stand_ins.play("site.yml", *way_past), "this run skipped the preflight")
    assert stand_ins.run(primary, f"systemctl is-active {stand_ins.unit} || true").strip() == "inactive"


def test_a_cluster_of_which_everything_is_stopped_is_started_as_it_was(
    stand_ins: Any, restore: Restore, primary: str, replicas: list[str],
) -> None:
    for name in [*replicas, primary]:
        restore(lambda name=name: stand_ins.run(name, f"systemctl start {stand_ins.unit}"))  # type: ignore[misc]
    for name in [primary, *replicas]:
        stand_ins.run(name, f"systemctl kill --signal=KILL {stand_ins.unit}; systemctl stop {stand_ins.unit}")
    assert_goes_on(stand_ins.play("preflight.yml", "-v"), "action: start_recorded_primary", f"cluster_state_primary: {primary}")


def test_a_cluster_that_lost_power_is_started_again(stand_ins: Any, restore: Restore, primary: str, replicas: list[str]) -> None:
    for name in [primary, *replicas]:
        restore(lambda name=name: stand_ins.run(name, f"systemctl start {stand_ins.unit}"))  # type: ignore[misc]
        # What a server leaves behind that had no time to remove it.
        stand_ins.run(name, f"cp -a {stand_ins.data}/postmaster.pid /run/pid; systemctl stop {stand_ins.unit}; cp -a /run/pid {stand_ins.data}/postmaster.pid")
    code, said = stand_ins.play("postgres.yml")
    assert code == 0, said
    assert [said.count(f"changed={number} ") for number in (1, 0)] == [1 + len(replicas), said.count("changed=") - 1 - len(replicas)]
    for name in replicas:
        assert stand_ins.streams(name)


def test_a_primary_whose_data_is_gone_is_never_initialised_again(stand_ins: Any, restore: Restore, primary: str) -> None:
    restore(lambda: stand_ins.put_back(primary))
    stand_ins.set_aside(primary)
    assert_stopped(stand_ins.play("postgres.yml"), "No node accepts writes, and none of them was primary last", "pg_promote")
    assert stand_ins.data.name not in stand_ins.run(primary, f"ls {stand_ins.data.parent}").split()


def test_a_cluster_whose_disks_are_not_mounted_is_not_begun_anew(stand_ins: Any, restore: Restore, primary: str) -> None:
    names = [primary, *stand_ins.fleet.replicas]
    for name in names:
        restore(functools.partial(stand_ins.put_back, name))
        stand_ins.set_aside(name)
    assert_stopped(stand_ins.play("postgres.yml"), "No node holds data", "mounted?", f"type on {', '.join(sorted(names))}: sudo rm")
    for name in names:
        assert stand_ins.data.name not in stand_ins.run(name, f"ls {stand_ins.data.parent}").split()


def test_a_replica_whose_disk_is_not_mounted_is_not_cloned_again(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.put_back(replica))
    stand_ins.set_aside(replica)
    assert_stopped(stand_ins.play("postgres.yml"), f"{replica} holds no data, but did", "mounted?", f"type on {replica}: sudo rm {stand_ins.marker}")
    assert_goes_on(stand_ins.play("preflight.yml", "--limit", f"!{replica}"))
    assert_goes_on(stand_ins.play("client.yml", "--check"))
    assert stand_ins.data.name not in stand_ins.run(replica, f"ls {stand_ins.data.parent}").split()


def test_a_clone_that_would_not_fit_is_refused_before_anything_is_copied(
    stand_ins: Any, restore: Restore, primary: str, replica: str,
) -> None:
    place = stand_ins.data.parent
    restore(lambda: stand_ins.run(replica, f"umount {place}; mv /run/marker {stand_ins.marker}; systemctl start {stand_ins.unit}"))
    stand_ins.run(replica, f"systemctl stop {stand_ins.unit}; mv {stand_ins.marker} /run/marker; mount -t tmpfs -o size=16m none {place}")
    assert_stopped(stand_ins.play("postgres.yml", "-e", "cluster_minimum_free_bytes=1"),
                   f"{replica}: the databases of {primary} take", f"{stand_ins.data}, where they would be cloned to, has 16 MB free")
    assert stand_ins.run(replica, f"ls -A {place}") == ""


def test_a_directory_moved_away_under_a_running_server_stops_every_run(stand_ins: Any, restore: Restore, replica: str) -> None:
    restore(lambda: stand_ins.run(replica, f"mv {stand_ins.data}.kept {stand_ins.data}; systemctl restart {stand_ins.unit}"))
    stand_ins.run(replica, f"mv {stand_ins.data} {stand_ins.data}.kept")
    assert_stopped(stand_ins.play("preflight.yml"), f"{replica}: a PostgreSQL server (pid", "moved or damaged under the server")


def test_an_inventory_that_names_another_primary_is_told_and_followed_by_nobody(
    stand_ins: Any, primary: str, replica: str, tmp_path: Path,
) -> None:
    tiers = read_yaml(ROOT / "inventories/docker.yml")
    cluster = tiers["env_docker"]["children"]["postgres_cluster"]["children"]
    declared, others = cluster["postgres_primary"]["hosts"], cluster["postgres_replicas"]["hosts"]
    declared[replica], others[primary] = others.pop(replica), declared.pop(primary)
    (tmp_path / "inventory.yml").write_text(json.dumps(tiers))
    (tmp_path / "group_vars").symlink_to(ROOT / "group_vars")
    secrets = stand_ins.fleet.variables(primary)["standin_secrets"]
    assert_goes_on(stand_ins.play("preflight.yml", "-e", f"standin_secrets={secrets}", inventory=str(tmp_path / "inventory.yml")),
                   f"names {replica} as primary", f"goes on around {primary}")


def initdb(stand_ins: Any) -> str:
    return f"/usr/lib/postgresql/{stand_ins.data.parent.name}/bin/initdb"
