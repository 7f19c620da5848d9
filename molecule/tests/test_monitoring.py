"""Monitoring: everything declared is seen, no rule is blind, alerts reach whom they should, and lag cannot lie."""

import functools
import time
from collections.abc import Callable, Iterator, Sized
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from helpers.fleet import FLEET, Fleet, eventually
from helpers.monitoring import Alertmanager, Prometheus
from helpers.promql import series_of

# Three scrapes and the rules that build on each other take a quarter of it.
PATIENCE_SECONDS = 180.0

# What has no series while all is well, and why. Everything else must have one.
EMPTY_WHEN_WELL = {
    "pgfleet:node:filesystem_full_hours": "no file system is filling",
}

S = TypeVar("S", bound=Sized)

# They speak of the machine under the stand-ins, which may be busy with other things.
ABOUT_THE_MACHINE = {"NodeDiskFilling", "NodeDiskFullSoon"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        metafunc.parametrize("server", metafunc.config.stash[FLEET].group("monitoring"))


@pytest.fixture
def prometheus(fleet: Fleet, server: str) -> Prometheus:
    return Prometheus(fleet, server)


@pytest.fixture
def alertmanager(fleet: Fleet, server: str) -> Alertmanager:
    return Alertmanager(fleet, server)


def labels(results: list[dict[str, Any]], *names: str) -> set[tuple[str, ...]]:
    return {tuple(result["metric"].get(name, "") for name in names) for result in results}


def settled(question: Callable[[], S]) -> S:
    """What is still wrong when the fleet has had time to settle; nothing, as soon as nothing is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (wrong := question()) and time.monotonic() < deadline:
        time.sleep(1)
    return wrong


@functools.cache
def running_rules(fleet: Fleet, server: str) -> list[dict[str, Any]]:
    return [rule for group in Prometheus(fleet, server).api("rules")["groups"] for rule in group["rules"]]


def test_every_declared_target_is_up(fleet: Fleet, server: str, prometheus: Prometheus) -> None:
    declared = {(job["name"], name) for job in fleet.variables(server)["prometheus_scrape_jobs"] for name in job["targets"]}

    def missing() -> set[tuple[str, ...]]:
        up, down = prometheus.query("pgfleet:node:target_up == 1", "pgfleet:node:target_up == 0")
        return (declared - labels(up, "job", "instance")) | labels(down, "job", "instance")

    assert settled(missing) == set()


def test_nothing_undeclared_is_scraped(prometheus: Prometheus) -> None:
    undeclared = prometheus.query("up unless on (job, instance) pgfleet:inventory:target")[0]
    assert labels(undeclared, "job", "instance") == set()


def test_every_collector_succeeds(prometheus: Prometheus) -> None:
    assert {job for (job,) in labels(prometheus.query("pgfleet:node:collector_success")[0], "job")} == {"node_exporter", "postgres_exporter"}
    assert settled(lambda: labels(prometheus.query("pgfleet:node:collector_success == 0")[0], "job", "instance", "collector")) == set()


def test_every_rule_can_be_evaluated(fleet: Fleet, server: str) -> None:
    assert {rule["name"]: rule.get("lastError") for rule in running_rules(fleet, server) if rule["health"] == "err"} == {}


@pytest.mark.parametrize("kind", ["alerting", "recording"])
def test_every_rule_reads_series_that_exist(fleet: Fleet, server: str, prometheus: Prometheus, kind: str) -> None:
    read = sorted({
        str(series) for rule in running_rules(fleet, server) if rule["type"] == kind
        for series in series_of(rule["query"]) if series.name not in EMPTY_WHEN_WELL
    })
    assert read

    def dead() -> list[str]:
        return [series for series, found in zip(read, prometheus.query(*read), strict=True) if not found]

    assert settled(dead) == []


def test_every_recorded_name_has_a_value(fleet: Fleet, server: str, prometheus: Prometheus) -> None:
    recorded = sorted({rule["name"] for rule in running_rules(fleet, server) if rule["type"] == "recording"} - set(EMPTY_WHEN_WELL))

    def without() -> list[str]:
        return [name for name, found in zip(recorded, prometheus.query(*recorded), strict=True) if not found]

    assert settled(without) == []


def test_no_alert_about_the_fleet_fires_but_the_watchdog(prometheus: Prometheus) -> None:
    def firing() -> set[tuple[str, ...]]:
        fired = labels(prometheus.query('ALERTS{alertstate="firing",alertname!="Watchdog"}')[0], "alertname", "instance")
        return {alert for alert in fired if alert[0] not in ABOUT_THE_MACHINE}

    assert settled(firing) == set()
    assert prometheus.value('count(ALERTS{alertstate="firing",alertname="Watchdog"})') == 1


def test_roles_are_seen_as_the_servers_say(fleet: Fleet, prometheus: Prometheus, primary: str, replicas: list[str]) -> None:
    def wrong() -> list[set[str]]:
        writable, reading = prometheus.query("pgfleet:node:writable == 1", "pgfleet:node:receiver_streaming == 1")
        seen = [{name for (name,) in labels(found, "instance")} for found in (writable, reading)]
        return seen if seen != [{primary}, set(replicas)] else []

    assert settled(wrong) == []


def test_every_leaf_is_seen_with_its_rows(fleet: Fleet, prometheus: Prometheus, primary: str, database: str) -> None:
    leaves = {
        tuple(row) for row in fleet.psql(
            primary, "SELECT r.relname, l.relname FROM pg_partitioned_table p JOIN pg_class r ON r.oid = p.partrelid AND NOT r.relispartition "
            "CROSS JOIN LATERAL pg_partition_tree(r.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf", database=database)
    }
    assert leaves
    assert settled(lambda: labels(prometheus.query("pgfleet:cluster:partition_rows")[0], "parent", "partition") ^ leaves) == set()


@pytest.mark.parametrize("name", ["web.enable-admin-api", "web.enable-lifecycle", "web.enable-remote-write-receiver"])
def test_prometheus_takes_no_orders_over_http(prometheus: Prometheus, name: str) -> None:
    assert prometheus.api("status/flags")[name] == "false"


def test_prometheus_keeps_what_the_inventory_says(fleet: Fleet, server: str, prometheus: Prometheus) -> None:
    variables, flags = fleet.variables(server), prometheus.api("status/flags")
    assert flags["storage.tsdb.retention.time"] == variables["prometheus_retention_time"]
    assert flags["storage.tsdb.retention.size"] == variables["prometheus_retention_size"].replace("GB", "GiB")


def test_prometheus_knows_its_alertmanager(fleet: Fleet, server: str, prometheus: Prometheus) -> None:
    known = {alertmanager["url"] for alertmanager in prometheus.api("alertmanagers")["activeAlertmanagers"]}
    assert known == {f"http://{address}/api/v2/alerts" for address in fleet.variables(server)["prometheus_alertmanagers"]}


def test_exporter_is_no_superuser(fleet: Fleet, primary: str, replicas: list[str]) -> None:
    for name in [primary, *replicas]:
        role = fleet.variables(name)["postgres_exporter_role"]
        assert connected(fleet, name) == [[role, "f"]]


def connected(fleet: Fleet, name: str) -> list[list[str]]:
    """[[role, whether it is a superuser]] of the exporter's sessions. One that was lost is made anew by the next scrape."""
    ask = ("SELECT DISTINCT r.rolname, r.rolsuper FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid "
           "WHERE a.application_name = 'postgres_exporter'")
    return eventually(lambda: fleet.psql(name, ask), seconds=PATIENCE_SECONDS, what=f"an exporter's session on {name}")


# Alertmanager: alerts of a node that does not exist, resolved again before anyone is told (group_wait is longer).


def about(alert: str, place: str) -> dict[str, str]:
    """The labels that say where: of "node" or "node mountpoint", and the job where the alert has one."""
    job = {"job": "postgres_exporter"} if alert in ("CollectorFailing", "TargetDown") else {}
    return {**dict(zip(("instance", "mountpoint"), place.split(), strict=False)), **job}


@pytest.fixture
def posted(fleet: Fleet, server: str, alertmanager: Alertmanager) -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
    """{(alertname, instance): what Alertmanager makes of it}, all posted at once."""
    wait = fleet.variables(server)["alertmanager_group_wait_seconds"]
    if wait < 15:
        pytest.skip(f"alertmanager_group_wait_seconds is {wait}: these alerts might reach a person")
    now = datetime.now(UTC)
    described = [
        ("NodeDown", "critical", "test-1"), ("PostgresqlDown", "critical", "test-1"), ("TargetDown", "warning", "test-1"),
        ("PostgresqlSlotLost", "critical", "test-2"), ("PostgresqlLongQuery", "warning", "test-2"),
        ("PostgresqlDeadRows", "warning", "test-3"), ("PostgresqlNotOneWritableNode", "critical", ""),
        ("PostgresqlDown", "critical", "test-4"), ("PostgresqlReplicaNotStreaming", "warning", "test-4"),
        ("CollectorFailing", "warning", "test-4"), ("TargetDown", "warning", "test-4"), ("PostgresqlReplicaLag", "warning", "test-5"),
        ("NodeDiskFullSoon", "critical", "test-6 /"), ("NodeDiskFilling", "warning", "test-6 /"),
        ("NodeDiskFilling", "warning", "test-6 /data"),
    ]
    alerts = [
        {"labels": {"alertname": alert, "severity": severity, "cluster": "test", "environment": "test", **about(alert, place)},
         "startsAt": now.isoformat(), "endsAt": (now + timedelta(seconds=wait / 2)).isoformat()}
        for alert, severity, place in described
    ]
    alertmanager.post(alerts)

    def seen() -> dict[tuple[str, str], dict[str, Any]]:
        return {
            (alert["labels"]["alertname"], " ".join(alert["labels"][name] for name in ("instance", "mountpoint") if name in alert["labels"])): alert
            for alert in alertmanager.alerts() if alert["labels"].get("cluster") == "test"
        }

    found = eventually(lambda: seen() if len(seen()) == len(alerts) else None, seconds=8, what="Alertmanager lists what was posted")
    # It holds them against each other a moment after it has listed them.
    deadline = time.monotonic() + 4
    while sum(bool(alert["status"]["inhibitedBy"]) for alert in found.values()) < 5 and time.monotonic() < deadline:
        found = seen()
    yield found
    ended = datetime.now(UTC).isoformat()
    alertmanager.post([{**alert, "endsAt": ended} for alert in alerts])


def test_a_node_that_is_down_silences_what_runs_on_it(posted: dict[tuple[str, str], dict[str, Any]]) -> None:
    down = posted["NodeDown", "test-1"]
    assert down["status"]["inhibitedBy"] == []
    for alert in ("PostgresqlDown", "TargetDown"):
        assert down["fingerprint"] in posted[alert, "test-1"]["status"]["inhibitedBy"]


@pytest.mark.parametrize(("cause", "consequence", "place"), [
    ("PostgresqlDown", "PostgresqlReplicaNotStreaming", "test-4"),
    ("PostgresqlDown", "CollectorFailing", "test-4"),
    ("NodeDiskFullSoon", "NodeDiskFilling", "test-6 /"),
])
def test_a_cause_silences_what_follows_from_it(
    posted: dict[tuple[str, str], dict[str, Any]], cause: str, consequence: str, place: str,
) -> None:
    assert posted[cause, place]["status"]["inhibitedBy"] == []
    assert posted[consequence, place]["status"]["inhibitedBy"] == [posted[cause, place]["fingerprint"]]


@pytest.mark.parametrize(("alert", "place"), [
    # A slot stays lost until its replica is rebuilt, perhaps for days; the other warnings of the primary are heard meanwhile.
    ("PostgresqlLongQuery", "test-2"),
    ("PostgresqlDeadRows", "test-3"),
    ("PostgresqlNotOneWritableNode", ""),
    # A server that seems down because its exporter is: the exporter is what is to be mended.
    ("TargetDown", "test-4"),
    ("PostgresqlReplicaLag", "test-5"),
    ("NodeDiskFilling", "test-6 /data"),
])
def test_what_has_another_cause_is_heard(posted: dict[tuple[str, str], dict[str, Any]], alert: str, place: str) -> None:
    assert posted[alert, place]["status"]["inhibitedBy"] == []


def test_alerts_go_to_the_receiver_and_the_watchdog_to_its_own(
    fleet: Fleet, server: str, alertmanager: Alertmanager, posted: dict[tuple[str, str], dict[str, Any]],
) -> None:
    receiver = fleet.variables(server)["alertmanager_receiver"]
    assert {one["name"] for alert in posted.values() for one in alert["receivers"]} == {receiver}

    def watchdog() -> list[list[str]]:
        return [[one["name"] for one in alert["receivers"]] for alert in alertmanager.alerts() if alert["labels"]["alertname"] == "Watchdog"]

    assert eventually(watchdog, seconds=PATIENCE_SECONDS, what="the Watchdog arrives") == [["watchdog"]]


# The drill.


@pytest.fixture
def cut_off(fleet: Fleet, primary: str, replicas: list[str]) -> Iterator[str]:
    """A replica to which nothing comes from the primary, and from which nothing goes there."""
    if "env_docker" not in fleet.inventory.groups:
        pytest.skip("cuts a replica off: for stand-ins only")
    replica = replicas[0]
    address = fleet.variables(primary)["node_address"]
    rules = [["INPUT", "--source", address], ["OUTPUT", "--destination", address]]
    try:
        for chain, *rest in rules:
            assert fleet.run(replica, ["iptables", "--insert", chain, *rest, "--jump", "DROP"]).returncode == 0
        yield replica
    finally:
        for chain, *rest in rules:
            fleet.run(replica, ["iptables", "--delete", chain, *rest, "--jump", "DROP"])
        # Both ends still believe in the dead connection: end it, rather than wait until they notice.
        slot = fleet.variables(primary)["topology_slots"][replica]
        fleet.psql(primary, f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND slot_name = '{slot}'")
        fleet.psql(replica, "SELECT pg_terminate_backend(pid) FROM pg_stat_wal_receiver")
        written = fleet.value(primary, "SELECT pg_current_wal_lsn()")
        eventually(
            lambda: fleet.value(replica, f"SELECT pg_last_wal_replay_lsn() >= '{written}' AND EXISTS "
                                "(SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')") == "t",
            seconds=PATIENCE_SECONDS, what=f"{replica} has caught up")


def test_lag_is_told_while_the_exporter_says_zero(fleet: Fleet, server: str, prometheus: Prometheus, primary: str, cut_off: str) -> None:
    rule = next(rule for rule in running_rules(fleet, server) if rule["name"] == "PostgresqlReplicaLag")
    segments = fleet.variables(server)["prometheus_alert_lag_bytes"] // (16 * 1024 * 1024) + 2
    # A segment that holds anything ends here: the position moves on by 16 MiB.
    fleet.psql(primary, "SELECT pg_logical_emit_message(false, 'drill', 'drill'); SELECT pg_switch_wal();" * segments)

    def behind() -> bool:
        return (cut_off,) in labels(prometheus.query(rule["query"])[0], "instance")

    eventually(behind, seconds=PATIENCE_SECONDS, what=f"the alert sees that {cut_off} is behind")
    assert prometheus.value(f'pg_replication_lag_seconds{{instance="{cut_off}"}}') == 0
