"""Changes that the database nodes must refuse: each ends with one sentence, and nothing is changed on any node."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from helpers.fleet import Fleet

Restore = Callable[[Callable[[], object]], None]

OTHER_SETTING = {"postgresql_settings": {"vacuum_cost_limit": 199}}
ACCESS = [{"name": "the local superuser", "databases": ["all"], "users": ["postgres"], "method": "peer"},
          {"name": "peer from afar", "databases": ["all"], "users": ["app_rw"], "addresses": ["192.0.2.0/24"], "method": "peer"}]

NO_SUPERUSER = [{"name": "applications", "databases": ["app"], "users": ["app_rw"], "method": "scram-sha-256"}]


def files(stand_ins: Any, fleet: Fleet) -> dict[str, str]:
    """What stands in the configuration of each node, and since when."""
    return {name: stand_ins.run(name, "cd /etc/postgresql; find . -type f -exec sha256sum {} + -exec stat --format '%n %y' {} + | sort")
            for name in fleet.group("postgres_cluster")}


def tables(fleet: Fleet, primary: str) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = json.loads(json.dumps(fleet.variables(primary)["databases_tables"]))
    hashed = next(table for table in described if table["partition_by"]["method"] == "hash")
    hashed["partition_by"]["modulus"] *= 2
    return described


@pytest.mark.parametrize(("change", "sentence"), [
    ({"postgresql_settings": {"work_mem": "lots"}}, "PostgreSQL refuses these settings, nothing was changed"),
    ({"postgresql_access_rules": ACCESS}, "the old files are back: pg_hba.conf line"),
    ({"postgresql_settings": {"fsync": False}}, "postgresql_settings sets fsync"),
    ({"postgresql_access_rules": NO_SUPERUSER}, "so the old files are back: connection to server on socket"),
    ({"postgresql_settings": {"session_preload_libraries": "auto_explian"}}, "session_preload_libraries names auto_explian"),
    ({"postgresql_settings": {"local_preload_libraries": "auto_explain"}}, "local_preload_libraries names auto_explain"),
    ({"postgresql_preload_libraries": ["pg_cron"]}, "shared_preload_libraries names pg_cron"),
    ({"postgresql_settings": {"ssl": True, "ssl_cert_file": "/etc/ssl/none.pem"}}, "ssl_cert_file names /etc/ssl/none.pem"),
    # The library is there, but sessions may not load it: what only a new connection finds out.
    ({"postgresql_settings": {"session_preload_libraries": "sepgsql"}},
     "no new connection gets in with it, so the old files are back"),
    ({"databases_tables": None, **OTHER_SETTING}, "but databases_tables asks for modulus"),
])
def test_a_change_that_cannot_be_is_refused_before_anything_is_changed(
    stand_ins: Any, fleet: Fleet, primary: str, change: dict[str, Any], sentence: str,
) -> None:
    wanted = {name: tables(fleet, primary) if value is None else value for name, value in change.items()}
    before = files(stand_ins, fleet)
    code, said = stand_ins.play("postgres.yml", "-e", json.dumps(wanted))
    assert code != 0
    assert sentence in said
    assert said.count("changed=0") == said.count("changed=")
    assert files(stand_ins, fleet) == before


@pytest.mark.parametrize(("newcomer", "arguments", "sentence"), [
    ("pg_newcomer", [], 'The roles were not changed: role name "pg_newcomer" is reserved.'),
    ("newcomer", ["--check"], "newcomer: password set"),
])
def test_what_is_wrong_with_a_role_is_told_without_a_secret(
    stand_ins: Any, fleet: Fleet, primary: str, newcomer: str, arguments: list[str], sentence: str,
) -> None:
    variables = fleet.variables(primary)
    password = "k7Qw2nFz9Lp4"
    wanted = {"databases_roles": [*variables["databases_roles"], {"name": newcomer, "login": True}],
              "databases_passwords": {**variables["databases_passwords"], newcomer: password}}
    code, said = stand_ins.play("postgres.yml", "-vvv", "--diff", *arguments, "-e", json.dumps(wanted))
    assert (code == 0) == bool(arguments)
    assert sentence in said
    assert "Make the replication role" in said
    assert [name for name, secret in {**fleet.secrets, "newcomer": password}.items() if secret in said] == []
    assert "SCRAM-SHA-256$" not in said


def test_a_server_that_does_not_come_up_is_told_with_the_reason_in_its_log(
    stand_ins: Any, restore: Restore, fleet: Fleet, primary: str, replicas: list[str],
) -> None:
    library = f"/usr/lib/postgresql/{stand_ins.data.parent.name}/lib/no_library.so"

    def take_back() -> None:
        code, said = stand_ins.play("postgres.yml")
        assert code == 0, said
        for name in fleet.group("postgres_cluster"):
            stand_ins.run(name, f"rm {library}")

    restore(take_back)
    for name in fleet.group("postgres_cluster"):
        stand_ins.run(name, f"echo none > {library}")
    code, said = stand_ins.play("postgres.yml", "-e", json.dumps({"postgresql_preload_libraries": ["no_library"]}))
    assert code != 0
    assert f"failed (its log says: FATAL: could not load library \"{library}\": " in said
    assert stand_ins.run(primary, f"systemctl is-active {stand_ins.unit}").strip() == "active"
    # One replica tried; the run ended before the next.
    assert [stand_ins.streams(name) for name in sorted(replicas)] == [False] + [True] * (len(replicas) - 1)


def test_a_lost_slot_is_told_and_kept(stand_ins: Any, restore: Restore, fleet: Fleet, primary: str, replicas: list[str]) -> None:
    lost = replicas[-1]
    slot = fleet.variables(primary)["topology_slots"][lost]
    small = {"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}

    def sql(*statements: str) -> None:
        for statement in statements:
            fleet.psql(primary, statement)

    def clone_again() -> None:
        sql(f"SELECT pg_drop_replication_slot('{slot}')")
        stand_ins.run(lost, f"mv {stand_ins.data} {stand_ins.data}.lost && rm {stand_ins.marker}")
        code, said = stand_ins.play("postgres.yml")
        assert code == 0, said
        stand_ins.run(lost, f"rm -rf {stand_ins.data}.lost")

    restore(clone_again)
    restore(lambda: sql(*(f"ALTER SYSTEM RESET {name}" for name in small), "SELECT pg_reload_conf()"))
    stand_ins.run(lost, f"systemctl stop {stand_ins.unit}")
    sql(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in small.items()), "SELECT pg_reload_conf()")
    for _ in range(8):
        sql("SELECT pg_logical_emit_message(false, 'pgfleet', 'test'), pg_switch_wal()", "CHECKPOINT")
    code, said = stand_ins.play("postgres.yml", "--tags", "replication")
    assert code != 0
    assert f"{primary} has removed WAL that {lost} still needed" in said
    assert f"pg_drop_replication_slot('{slot}')" in said
    assert said.count("changed=0") == said.count("changed=")
    assert fleet.value(primary, f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'") == "lost"
