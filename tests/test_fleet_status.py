"""The promises of the status page, one by one: what the nodes said, and the sentence for each that does not hold."""

import copy
from typing import Any

import pytest

from helpers.plugins import load_plugin

status = load_plugin("filter/fleet_status.py")

NAMES, KNOWN = ["pg1", "pg2"], ["mon1", "pg1", "pg2"]
SLOTS = {"pg1": "slot_pg1", "pg2": "slot_pg2"}
JOBS = [{"name": "node_exporter", "targets": {"pg1": "192.0.2.1:9100"}}]
UNIT = {"load": "loaded", "active": "active", "enabled": True}


def database(**server: Any) -> dict[str, Any]:
    return {"reachable": True, "problems": [], "data_directory": "/data", "units": {"postgresql@17-main": dict(UNIT)}, "tables": [],
            "server": {"timeline": 3, "system_identifier": "77", "pending_restart": [], "hba_errors": [], "slots": [], "senders": [],
                       "upstream": None, **server}}


WHOLE: dict[str, Any] = {
    "pg1": database(in_recovery=False, slots=[{"name": "slot_pg2", "type": "physical", "wal_status": "reserved"}],
                    senders=[{"slot": "slot_pg2", "lag_bytes": 2500, "replay_lag_seconds": 0.25}]),
    "pg2": database(in_recovery=True, upstream={"status": "streaming", "slot": "slot_pg2"}),
    "mon1": {"reachable": True, "problems": [], "prometheus": {"error": "", "failing": [], "targets": [
        {"job": "node_exporter", "instance": "pg1", "health": "up", "error": ""}]}},
}


def told(**broken: Any) -> list[str]:
    """The sentences for the whole fleet with something else at the given paths: pg2__server__timeline=2."""
    nodes = copy.deepcopy(WHOLE)
    for path, value in broken.items():
        *parents, last = path.split("__")
        place = nodes
        for parent in parents:
            place = place[parent]
        place[last] = value
    return list(status.problems(nodes, NAMES, SLOTS, JOBS, KNOWN, ["grafana-server"]))


def test_a_whole_fleet_has_nothing_to_tell() -> None:
    assert told() == []


@pytest.mark.parametrize(("broken", "sentence"), [
    ({"mon1": {"reachable": False, "problems": ["mon1 does not answer over SSH."]}}, "mon1 does not answer over SSH."),
    ({"mon1": {}}, "mon1 was not asked."),
    ({"pg1__units": {"pgroute": UNIT | {"load": "not-found"}}}, "pg1: service pgroute is not installed (not-found)."),
    ({"pg1__units": {"pgroute": UNIT | {"active": "failed"}}}, "pg1: service pgroute is failed, not running: systemctl status pgroute"),
    ({"pg1__units": {"pgroute": UNIT | {"enabled": False}}}, "pg1: service pgroute runs but would not start at boot: systemctl enable pgroute"),
    ({"pg1__not_ready": {"http://192.0.2.1/readyz": "503 no primary"}}, "pg1: http://192.0.2.1/readyz is not ready (503 no primary)."),
    ({"pg2__server__pending_restart": ["max_connections"]}, "pg2: max_connections changed but wait for a restart: run playbooks/postgres.yml."),
    ({"pg2__server__hba_errors": ["pg_hba.conf:3: bad"]}, "pg2: an access rule is in error (pg_hba.conf:3: bad)."),
    ({"pg2__server__in_recovery": False}, "2 nodes accept writes instead of one (pg1, pg2)."),
    ({"pg1__server__in_recovery": True}, "0 nodes accept writes instead of one (none)."),
    ({"pg2__server__system_identifier": "78"}, "The nodes belong to different clusters (pg1 77, pg2 78)."),
    ({"pg2__server__upstream": None}, "pg2 does not stream from pg1: look at PostgreSQL's log on pg2."),
    ({"pg2__server__upstream": {"status": "waiting", "slot": "slot_pg2"}}, "pg2 does not stream from pg1: look at PostgreSQL's log on pg2."),
    ({"pg2__server__upstream": {"status": "streaming", "slot": "other"}}, "pg2 streams through slot other instead of its own, slot_pg2."),
    ({"pg1__server__senders": []}, "pg2 streams, but not from pg1, where nothing uses its slot slot_pg2."),
    ({"pg2__server__timeline": 2}, "pg2 is on timeline 2, pg1 on 3."),
    ({"pg1__server__slots": [{"name": "slot_pg2", "type": "physical", "wal_status": "lost"}]}, "pg1: WAL that slot slot_pg2 needs is lost."),
    ({"mon1__prometheus__error": "refused"}, "mon1: Prometheus does not answer (refused)."),
    ({"mon1__prometheus__targets": []}, "mon1: Prometheus does not scrape node_exporter of pg1: run playbooks/monitoring.yml."),
    ({"mon1__prometheus__targets": [{"job": "node_exporter", "instance": "pg1", "health": "down", "error": "refused"}]},
     "mon1: node_exporter of pg1 is down for Prometheus (refused)."),
    ({"mon1__prometheus__failing": [{"__name__": "pg_scrape_collector_success", "collector": "wal", "instance": "pg2", "job": "postgres_exporter"}]},
     "pg2: pg_scrape_collector_success of collector wal says that postgres_exporter fails."),
])
def test_a_promise_that_does_not_hold_is_one_sentence(broken: dict[str, Any], sentence: str) -> None:
    assert told(**broken) == [sentence]


def test_a_scraped_node_that_left_the_inventory_is_told() -> None:
    targets = [*WHOLE["mon1"]["prometheus"]["targets"], {"job": "node_exporter", "instance": "pg9", "health": "up", "error": ""}]
    assert told(mon1__prometheus__targets=targets) == [
        "mon1: Prometheus scrapes node_exporter of pg9, which the inventory does not know: run playbooks/monitoring.yml."]


def test_a_slot_of_nobody_and_another_primary_are_told_as_notices() -> None:
    nodes = copy.deepcopy(WHOLE)
    nodes["pg1"]["server"]["slots"].append({"name": "old", "type": "physical", "wal_status": "extended"})
    assert status.problems(nodes, NAMES, SLOTS, JOBS, KNOWN, []) == []
    other, slot = status.notices(nodes, SLOTS, "pg2", [])
    assert other == "The inventory names pg2 as primary, the cluster's primary is pg1."
    assert "pg1: the slot old belongs to no node" in slot
    assert status.notices(WHOLE, SLOTS, "pg1", []) == []


def test_a_setting_that_outranks_the_playbook_is_told_as_a_notice() -> None:
    nodes = copy.deepcopy(WHOLE)
    nodes["pg2"]["server"]["altered"] = ["work_mem"]
    assert status.problems(nodes, NAMES, SLOTS, JOBS, KNOWN, []) == []
    (notice,) = status.notices(nodes, SLOTS, "pg1", [])
    assert notice.startswith("pg2: work_mem was set by ALTER SYSTEM, which outranks postgresql_settings")
    assert "on pg2, as postgres: psql -c 'ALTER SYSTEM RESET work_mem' -c 'SELECT pg_reload_conf()'" in notice


def test_rows_that_could_not_be_counted_are_told_as_a_notice() -> None:
    assert told(pg1__tables_error="canceling statement") == []
    nodes = copy.deepcopy(WHOLE)
    nodes["pg1"]["tables_error"] = "canceling statement"
    assert status.notices(nodes, SLOTS, "pg1", []) == ["pg1: rows could not be counted, so the page shows no tables (canceling statement)."]


def test_an_exporter_that_waits_for_a_locked_table_is_told_as_a_notice() -> None:
    waits = {"__name__": "pg_scrape_collector_success", "collector": "stat_user_tables", "instance": "pg2", "job": "postgres_exporter"}
    fails = "pg2: pg_scrape_collector_success of collector stat_user_tables says that postgres_exporter fails"
    assert told(mon1__prometheus__failing=[waits]) == [f"{fails}."]
    assert told(mon1__prometheus__failing=[waits], pg1__tables_error="permission denied") == [f"{fails}."]
    wal = {**waits, "collector": "wal"}
    assert told(mon1__prometheus__failing=[waits, wal], pg1__tables_error="lock timeout") == [f"{fails}.".replace("stat_user_tables", "wal")]
    nodes = copy.deepcopy(WHOLE)
    nodes["mon1"]["prometheus"]["failing"] = [waits, wal]
    assert status.notices(nodes, SLOTS, "pg1", []) == []
    nodes["pg1"]["tables_error"] = "lock timeout"
    _, notice = status.notices(nodes, SLOTS, "pg1", [])
    assert notice == f"{fails}, as it does while a table is locked: the sizes of tables are not recorded meanwhile."


def test_a_stopped_server_is_told_with_its_reason() -> None:
    assert "pg2: PostgreSQL does not answer (no server runs on /data)." in told(pg2__server={})
    assert "pg2: PostgreSQL does not answer (starting up)." in told(pg2__server={}, pg2__server_error="starting up")


def test_a_program_that_may_be_left_out_is_told_as_a_notice() -> None:
    assert told(mon1__units={"grafana-server": UNIT | {"load": "not-found"}}) == []
    nodes = copy.deepcopy(WHOLE)
    nodes["mon1"]["units"] = {"grafana-server": UNIT | {"load": "not-found"}}
    assert status.notices(nodes, SLOTS, "pg1", ["grafana-server"]) == ["grafana-server is not installed on mon1: the fleet goes without it."]


def test_every_broken_promise_is_told_at_once() -> None:
    assert len(told(pg1__server__pending_restart=["port"], pg2__server__timeline=2, mon1__prometheus__error="refused")) == 3


def test_the_page_shows_role_timeline_slot_and_lag() -> None:
    assert status.columns(status.node_rows(WHOLE, NAMES, SLOTS)).splitlines() == [
        "NODE  ROLE     TIMELINE  SLOT      STATE      LAG     REPLAY",
        "pg1   primary  3         -         writable   -       -",
        "pg2   replica  3         slot_pg2  streaming  2.5 kB  0.25 s",
        "mon1  -        -         -         up         -       -",
    ]


def test_the_page_shows_what_is_down() -> None:
    nodes = {"pg1": database() | {"server": {}}, "mon1": {"reachable": False}}
    rows = status.node_rows(nodes, ["pg1"], SLOTS)
    assert [row[4] for row in rows[1:]] == ["down", "does not answer"]


def test_an_estimated_number_of_rows_says_so() -> None:
    tables = [{"parent": "tbl", "table": "tbl_p0", "rows": 5000000, "estimated": True}, {"parent": "t", "table": "t", "rows": 7, "estimated": False},
              {"parent": "u", "table": "u", "rows": None, "estimated": True}]
    rows = status.table_rows({"pg1": database() | {"tables": tables}})
    assert rows[1:] == [["tbl", "tbl_p0", "5,000,000 (estimated)"], ["t", "-", "7"], ["u", "-", "not counted"]]


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1234567, "1.2 MB"), (5e13, "50.0 TB"), (None, "?")])
def test_bytes_are_shown_as_people_read_them(count: float | None, text: str) -> None:
    assert status.human_bytes(count) == text
