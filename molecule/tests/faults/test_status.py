"""The running fleet with something broken: the status page names every promise that does not hold, and fails."""

from collections.abc import Callable
from typing import Any

from helpers.fleet import eventually
from helpers.monitoring import Prometheus

NO_WAIT = ["-e", "fleet_status_wait_seconds=0"]


def test_every_promise_that_does_not_hold_is_named(
    stand_ins: Any, restore: Callable[[Callable[[], object]], None], primary: str, replicas: list[str],
) -> None:
    stopped, detached = replicas[0], replicas[-1]
    monitoring = stand_ins.fleet.group("monitoring")[0]
    sql = "runuser -u postgres -- psql -XAtqc"
    restore(lambda: stand_ins.run(stopped, f"systemctl start {stand_ins.unit}"))
    restore(lambda: stand_ins.run(detached, f"{sql} 'alter system reset primary_slot_name' -c 'select pg_reload_conf()'"))
    restore(lambda: stand_ins.run(primary, f"{sql} \"select pg_drop_replication_slot('nobody')\" -c 'alter system reset max_connections'"
                                           " -c 'select pg_reload_conf()'"))
    restore(lambda: stand_ins.run(monitoring, "systemctl start prometheus-alertmanager"))
    stand_ins.run(stopped, f"systemctl stop {stand_ins.unit}")
    stand_ins.run(detached, f"{sql} \"alter system set primary_slot_name = ''\" -c 'select pg_reload_conf()'")
    stand_ins.run(primary, f"{sql} \"select pg_create_physical_replication_slot('nobody')\" -c 'alter system set max_connections = 99'"
                           " -c 'select pg_reload_conf()'")
    stand_ins.run(monitoring, "systemctl stop prometheus-alertmanager")
    code, said = stand_ins.play("ops/status.yml", *NO_WAIT)
    assert code != 0
    assert f"{stopped}: PostgreSQL does not answer" in said
    assert f"{stopped}: service {stand_ins.unit} is inactive, not running" in said
    assert f"{detached} streams through slot (none) instead of its own" in said or f"{detached} does not stream from {primary}" in said
    assert f"Notice: {primary}: the slot nobody belongs to no node of the inventory" in said
    assert f"{primary}: max_connections changed but wait" in said
    assert f"Notice: {primary}: max_connections was set by ALTER SYSTEM" in said
    assert f"{monitoring}: service prometheus-alertmanager is inactive" in said


def test_a_locked_table_is_no_broken_promise(stand_ins: Any, restore: Callable[[Callable[[], object]], None], primary: str, database: str) -> None:
    sql = f"runuser -u postgres -- psql -XAtq -d {database} -c"
    locked = "from pg_locks where mode = 'AccessExclusiveLock' and relation = 'sales'::regclass"
    # The unit ends with the server's side; stopped itself, it would leave that one asleep with its lock.
    restore(lambda: stand_ins.run(primary, f'{sql} "select pg_terminate_backend(pid) {locked}"'))
    stand_ins.run(primary, f"systemd-run -q --collect --unit=lock {sql} 'begin; lock table sales; select pg_sleep(600)'; "
                           f'until {sql} "select 1 {locked}" | grep -q 1; do :; done')
    # Its exporter asks for the sizes of tables, and is kept waiting, too.
    prometheus = Prometheus(stand_ins.fleet, stand_ins.fleet.group("monitoring")[0])
    failing = f'pg_scrape_collector_success{{instance="{primary}"}} == 0'
    eventually(lambda: prometheus.query(failing)[0], seconds=90, what="a collector that fails")
    code, said = stand_ins.play("ops/status.yml")
    assert code == 0, said
    assert f"Notice: {primary}: rows could not be counted" in said
    assert "canceling statement due to lock timeout" in said
    assert f"Notice: {primary}: pg_scrape_collector_success of collector stat_user_tables says that postgres_exporter fails" in said


def test_a_fleet_of_which_a_node_does_not_answer_says_which(stand_ins: Any, restore: Callable[[Callable[[], object]], None]) -> None:
    client = stand_ins.fleet.group("routing_clients")[0]
    rule = "INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset"
    restore(lambda: stand_ins.run(client, f"iptables -D {rule}"))
    stand_ins.run(client, f"iptables -I {rule}")
    code, said = stand_ins.play("ops/status.yml", *NO_WAIT)
    assert code != 0
    assert f"{client} (" in said
    assert "does not answer over SSH" in said
