"""Database nodes: the version, the settings and the access rules of every server."""

import functools
import re

import pytest

from helpers.fleet import Fleet, Variables

testinfra_hosts = ["ansible://postgres_cluster"]

# What the rest of the fleet rests on, whatever the inventory sets.
REQUIRED = {
    "data_checksums": "on",
    "full_page_writes": "on",
    "hot_standby": "on",
    "log_checkpoints": "on",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_file_mode": "0600",
    "log_lock_waits": "on",
    "logging_collector": "on",
    "password_encryption": "scram-sha-256",
    "server_encoding": "UTF8",
    "track_functions": "all",
    "track_io_timing": "on",
}


@functools.cache
def settings(fleet: Fleet, name: str) -> dict[str, str]:
    return dict(fleet.psql(name, "SELECT name, setting FROM pg_settings"))


def test_the_server_has_the_version_of_the_inventory(fleet: Fleet, name: str, variables: Variables) -> None:
    assert int(fleet.value(name, "SHOW server_version_num")) // 10000 == int(variables["postgresql_version"])


def test_the_node_has_one_cluster_and_no_other(fleet: Fleet, name: str, variables: Variables) -> None:
    listed = fleet.node(name).check_output("pg_lsclusters --no-header")
    assert [line.split()[:3] for line in listed.splitlines()] == [
        [str(variables["postgresql_version"]), variables["postgresql_cluster"], str(variables["postgresql_port"])]
    ]


def test_the_server_starts_once_the_network_is_there(fleet: Fleet, name: str, variables: Variables) -> None:
    unit = f"postgresql@{variables['postgresql_version']}-{variables['postgresql_cluster']}"
    after = fleet.node(name).check_output(f"systemctl show --property=After --value {unit}")
    assert "network-online.target" in after.split()


def test_every_database_has_a_locale_that_sorts_alike_everywhere(fleet: Fleet, name: str) -> None:
    assert fleet.psql(name, "SELECT DISTINCT datcollate, datctype FROM pg_database") == [["C.UTF-8", "C.UTF-8"]]


@pytest.mark.parametrize("setting", sorted(REQUIRED))
def test_a_required_setting_is_in_effect(fleet: Fleet, name: str, setting: str) -> None:
    assert settings(fleet, name)[setting] == REQUIRED[setting]


def test_every_setting_of_the_inventory_is_in_effect(fleet: Fleet, name: str, variables: Variables) -> None:
    # applied: this file's value is the one that counts, no later file has another.
    files = dict(fleet.psql(name, "SELECT name, bool_and(applied) FROM pg_file_settings WHERE sourcefile LIKE '%/conf.d/%' GROUP BY name"))
    assert files
    assert {setting for setting, applied in files.items() if applied == "f"} == set()
    assert set(variables["postgresql_settings"]) - set(files) == set()


def test_no_setting_waits_for_a_restart(fleet: Fleet, name: str) -> None:
    assert fleet.psql(name, "SELECT name FROM pg_settings WHERE pending_restart") == []


def test_no_configuration_file_has_an_error(fleet: Fleet, name: str) -> None:
    assert fleet.psql(name, "SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL") == []


def test_statements_are_counted(fleet: Fleet, name: str) -> None:
    assert int(fleet.value(name, "SELECT count(*) FROM pg_stat_statements")) > 0


def test_a_dead_replica_cannot_fill_the_disk(fleet: Fleet, name: str) -> None:
    limit = int(fleet.value(name, "SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size'"))
    directory = fleet.value(name, "SHOW data_directory")
    disk = int(fleet.node(name).check_output(f"df --output=size --block-size=1M {directory}").split()[-1])
    assert 0 < limit < disk / 2


def test_the_log_is_for_its_owner_only(fleet: Fleet, name: str) -> None:
    path = fleet.value(name, "SELECT pg_current_logfile()")
    assert fleet.node(name).file(path).mode == 0o600


def test_the_access_rules_have_no_error(fleet: Fleet, name: str) -> None:
    assert fleet.psql(name, "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL") == []


def test_no_access_rule_lets_anyone_in_without_proof(fleet: Fleet, name: str) -> None:
    assert fleet.psql(name, "SELECT line_number FROM pg_hba_file_rules WHERE auth_method IN ('trust', 'md5', 'password', 'ident')") == []


def test_the_last_access_rules_reject_everyone(fleet: Fleet, name: str) -> None:
    last = fleet.psql(
        name,
        "SELECT type, database, user_name, coalesce(address, ''), auth_method FROM pg_hba_file_rules ORDER BY rule_number DESC LIMIT 2",
    )
    assert last == [["host", "{all}", "{all}", "all", "reject"], ["local", "{all}", "{all}", "", "reject"]]


def test_the_superuser_comes_in_by_the_socket_only(fleet: Fleet, name: str) -> None:
    allowed = fleet.psql(
        name, "SELECT type, auth_method FROM pg_hba_file_rules WHERE 'postgres' = ANY (user_name) AND auth_method <> 'reject'"
    )
    assert allowed == [["local", "peer"]]


def test_replication_is_allowed_from_the_cluster_only(fleet: Fleet, name: str, variables: Variables) -> None:
    allowed = fleet.psql(
        name, "SELECT address FROM pg_hba_file_rules WHERE 'replication' = ANY (database) AND auth_method <> 'reject' ORDER BY 1"
    )
    assert sorted(row[0] for row in allowed) == sorted(variables["topology_postgresql_addresses"])


def test_a_stranger_on_the_node_is_rejected(fleet: Fleet, name: str, variables: Variables) -> None:
    port = variables["postgresql_port"]
    refused = fleet.node(name).run(f"env -C / sudo -u nobody psql -w -p {port} -U postgres -d postgres -c 'SELECT 1'")
    assert refused.rc != 0
    assert "Peer authentication failed" in refused.stderr


def test_a_role_without_a_rule_is_rejected(fleet: Fleet, name: str, variables: Variables) -> None:
    port = variables["postgresql_port"]
    refused = fleet.node(name).run(f"env -C / sudo -u postgres psql -w -p {port} -U stranger -d postgres -c 'SELECT 1'")
    assert refused.rc != 0
    assert "pg_hba.conf rejects connection" in refused.stderr


def test_old_logs_are_removed_by_the_host(fleet: Fleet, name: str, variables: Variables) -> None:
    days = int(variables["postgresql_log_days"])
    log = "/var/log/postgresql/postgresql-{}-{}".format(variables["postgresql_version"], variables["postgresql_cluster"])
    kept, gone, first = f"{log}-2001-01-02.log", f"{log}-2001-01-01.log", f"{log}.log"
    # Of another program, and of another cluster.
    strangers = ["/var/log/postgresql/pgfleet-test.log", f"{log}test-2001-01-01.log"]
    host = fleet.node(name)
    since = host.check_output("stat --format %%Y %s", first)
    try:
        host.run_expect([0], "touch -d '%s days ago' %s", str(days - 1), kept)
        host.run_expect([0], "touch -d '%s days ago' %s %s %s %s", str(days + 1), gone, first, *strangers)
        # What its timer does once a day; a duplicate line is told on the way and does not count.
        host.run("systemd-tmpfiles --clean --prefix=/var/log/postgresql")
        assert [host.file(path).exists for path in (kept, gone, first, *strangers)] == [True, False, True, True, True]
    finally:
        host.run_expect([0], "rm -f %s %s %s %s", kept, gone, *strangers)
        host.run_expect([0], "touch -d @%s %s", since, first)
    assert host.check_output("systemctl is-active systemd-tmpfiles-clean.timer") == "active"


def test_unattended_upgrades_leave_the_server_alone(fleet: Fleet, name: str, variables: Variables) -> None:
    left = fleet.run(name, ["apt-config", "dump", "--format", "%v%n", "Unattended-Upgrade::Package-Blacklist"]).stdout.split()
    package = f"postgresql-{variables['postgresql_version']}"
    assert any(re.match(pattern, package) for pattern in left), left
    assert not any(re.match(pattern, f"{package}-pgvector") for pattern in left), left


def test_needrestart_leaves_the_server_alone(fleet: Fleet, name: str, variables: Variables) -> None:
    unit = f"postgresql@{variables['postgresql_version']}-{variables['postgresql_cluster']}.service"
    # As needrestart reads it: Perl that sets a table of patterns.
    asked = """our %nrconf; do "/etc/needrestart/conf.d/pgfleet-postgresql.conf"; die $@ if $@;
        for my $unit (@ARGV) { print "$unit\\n" if grep { $unit =~ $_ && !$nrconf{override_rc}{$_} } keys %{$nrconf{override_rc}} }"""
    assert fleet.run(name, ["perl", "-e", asked, unit, "ssh.service"]).stdout.split() == [unit]
