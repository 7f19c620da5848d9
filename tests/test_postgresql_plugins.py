"""The database roles' plugins, in what they decide: text of configuration files, turns of a restart, slots, roles."""

import base64
import hashlib
import hmac
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from helpers.module_code import load_module
from helpers.plugins import load_plugin

scram = load_plugin("module_utils/scram.py")
filters = load_plugin("filter/postgresql.py")
capacity = load_module("host_capacity")
directory = load_module("postgresql_data_directory")
configuration = load_module("postgresql_configuration", "postgresql_connection")
slots = load_module("postgresql_slots", "postgresql_connection")
restart = load_module("postgresql_restart", "postgresql_connection")
streaming = load_module("postgresql_streaming", "postgresql_connection")
roles = load_module("postgresql_roles", "postgresql_connection", "scram")
privileges = load_module("postgresql_privileges", "postgresql_connection")


connection = load_plugin("module_utils/postgresql_connection.py")
fragment = load_plugin("doc_fragments/postgresql_connection.py")


@pytest.mark.parametrize(("program", "running"), [("postgres", True), ("something-else", False), (None, False)])
def test_a_server_runs_only_if_its_process_does(tmp_path: Path, program: str | None, running: bool) -> None:
    process = subprocess.Popen(
        [program or "gone"], executable="cat", bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"started\n")
    process.stdout.readline()  # before its answer, a new process still bears no name, or its parent's
    try:
        if program is None:
            process.kill()
            process.wait()
        (tmp_path / "postmaster.pid").write_text(f"{process.pid}\n{tmp_path}\n")
        assert connection.is_running(str(tmp_path)) is running
    finally:
        process.kill()
        process.wait()


def test_no_server_runs_where_there_is_no_pid(tmp_path: Path) -> None:
    assert connection.is_running(str(tmp_path)) is False


def test_another_identity_brings_its_supplementary_groups_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that is root, and a user postgres who is in group 114 as well, as Debian's ssl-cert is.
    now: dict[str, Any] = {"uid": 0, "gid": 0, "groups": [0, 27]}

    def changes(key: str) -> Callable[[Any], None]:
        def change(value: Any) -> None:
            assert key == "uid" or now["uid"] == 0, "only root may change groups"
            now[key] = value
        return change

    entry = SimpleNamespace(pw_name="postgres", pw_uid=105, pw_gid=110)
    monkeypatch.setattr(connection, "pwd", SimpleNamespace(getpwnam=lambda _: entry))
    monkeypatch.setattr(connection, "os", SimpleNamespace(
        geteuid=lambda: now["uid"], getegid=lambda: now["gid"], getgroups=lambda: now["groups"],
        seteuid=changes("uid"), setegid=changes("gid"), setgroups=changes("groups"),
        initgroups=lambda user, group: changes("groups")([group, 114] if user == "postgres" else [group])))
    with connection.acting_as("postgres"):
        assert now == {"uid": 105, "gid": 110, "groups": [110, 114]}
    assert now == {"uid": 0, "gid": 0, "groups": [0, 27]}


def test_the_connection_is_documented_as_it_is_taken() -> None:
    documented = yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"]
    assert {name: {key: option[key] for key in ("type", "default")} for name, option in documented.items()} == connection.CONNECTION_ARGUMENTS


# Verifiers

def test_verifier_proves_itself_as_the_example_of_rfc_7677_says() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    exchange = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    server_key = base64.b64decode(scram.verifier("pencil", salt).rpartition(":")[2])
    signature = hmac.new(server_key, exchange.encode(), hashlib.sha256).digest()
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_verifier_holds_no_password() -> None:
    assert "pencil" not in scram.verifier("pencil", os.urandom(16))


@pytest.mark.parametrize(("password", "stored_for", "answer"), [
    ("pencil", "pencil", True),
    ("pencil", "Pencil", False),
    ("I\u00adX", "IX", True),
    ("\u2168", "IX", True),
    ("\u00a0blank", " blank", True),
])
def test_verifier_matches_its_password_only(password: str, stored_for: str, answer: bool) -> None:
    assert scram.matches(password, scram.verifier(stored_for, b"0123456789abcdef", 5000)) is answer


@pytest.mark.parametrize("stored", [None, "", "md5abc", "SCRAM-SHA-256$4096:x"])
def test_anything_but_a_verifier_matches_no_password(stored: str | None) -> None:
    assert scram.matches("pencil", stored) is False


# Text of configuration files

@pytest.mark.parametrize(("value", "text"), [
    (True, "on"), (False, "off"), (12, "12"), (0.9, "0.9"), ("12", "12"), ("0600", "0600"), ("1GB", "'1GB'"),
    ("it's", "'it''s'"), ("", "''"),
])
def test_setting_is_written_as_the_server_reads_it(value: object, text: str) -> None:
    assert filters.postgresql_value(value) == text


def test_connection_values_are_quoted() -> None:
    assert filters.postgresql_conninfo({"user": "o'neil", "host": "a\\b"}) == "host='a\\\\b' user='o\\'neil'"


def test_rule_becomes_a_line_for_each_address_of_its_aliases() -> None:
    rule = {"name": "x", "databases": ["a", "b"], "users": ["u"], "addresses": ["cluster", "192.0.2.9", "198.51.100.0/24"],
            "method": "scram-sha-256"}
    assert filters.postgresql_access_lines(rule, {"cluster": ["192.0.2.1", "2001:db8::1", "192.0.2.9"]}) == [
        "host a,b u 192.0.2.1/32 scram-sha-256",
        "host a,b u 2001:db8::1/128 scram-sha-256",
        "host a,b u 192.0.2.9/32 scram-sha-256",
        "host a,b u 198.51.100.0/24 scram-sha-256",
    ]


def test_rule_without_addresses_is_for_the_socket() -> None:
    rule = {"name": "x", "databases": ["all"], "users": ["postgres"], "method": "peer", "options": ["map=m"]}
    assert filters.postgresql_access_lines(rule, {}) == ["local all postgres peer map=m"]


def test_rule_for_an_empty_alias_lets_nobody_in() -> None:
    rule = {"name": "x", "databases": ["all"], "users": ["u"], "addresses": ["clients"], "method": "scram-sha-256"}
    assert filters.postgresql_access_lines(rule, {"clients": []}) == []


def test_rule_with_an_unknown_address_is_refused() -> None:
    rule = {"name": "x", "databases": ["all"], "users": ["u"], "addresses": ["not an address"], "method": "scram-sha-256"}
    with pytest.raises(AnsibleFilterError, match="'not an address' is neither"):
        filters.postgresql_access_lines(rule, {})


@pytest.mark.parametrize(("settings", "refused"), [
    ({"work_mem": "8MB"}, []),
    ({"port": 5433}, ["port"]),
    ({"port": "5432"}, []),
    ({"wal_level": "minimal"}, ["wal_level"]),
    ({"wal_level": "logical"}, []),
    ({"hba_file": "/elsewhere", "hot_standby": False}, ["hba_file", "hot_standby"]),
    ({"hot_standby": True}, []),
])
def test_settings_that_the_fleet_rests_on_are_refused(settings: dict[str, object], refused: list[str]) -> None:
    required = {"port": 5432, "hot_standby": True, "wal_level": "replica"}
    permitted = {"hba_file": [], "wal_level": ["replica", "logical"]}
    assert filters.postgresql_refused_settings(settings, required, permitted) == refused


# Turns of a restart

def setting(name: str, present: object, wanted: object) -> dict[str, object]:
    return {"name": name, "present": str(present), "wanted": None if wanted is None else str(wanted)}


@pytest.mark.parametrize(("pending", "replica", "primary"), [
    ([setting("shared_buffers", 16384, "1GB")], "first", "last"),
    ([setting("max_connections", 100, 200)], "first", "last"),
    ([setting("max_connections", 200, 100)], "last", "first"),
    ([setting("max_connections", 200, 100), setting("shared_buffers", 16384, "1GB")], "last", "first"),
    ([setting("max_wal_senders", 10, None)], "first", "last"),
])
def test_replicas_restart_first_except_where_a_limit_is_lowered(pending: list[dict[str, object]], replica: str, primary: str) -> None:
    assert configuration.turn(pending, True) == (replica, None)
    assert configuration.turn(pending, False) == (primary, None)


def test_one_roll_cannot_raise_one_limit_and_lower_another() -> None:
    turn, refusal = configuration.turn([setting("max_connections", 100, 50), setting("max_wal_senders", 10, 20)], True)
    assert turn is None
    assert "raises max_wal_senders (10 to 20) and lowers max_connections (100 to 50)" in refusal


def test_complaint_of_the_server_is_one_line_without_prefixes() -> None:
    said = (
        '2026-01-01 00:00:00.000 UTC [42] LOG:  unrecognized configuration parameter "wrok_mem"'
        ' in file "/tmp/tmpx/conf.d/10-settings.conf" line 3\n'
        '2026-01-01 00:00:00.000 UTC [42] FATAL:  configuration file "/tmp/tmpx/conf.d/10-settings.conf" contains errors\n'
    )
    assert configuration.complaint(said) == (
        'unrecognized configuration parameter "wrok_mem" in file conf.d/10-settings.conf line 3'
    )


@pytest.mark.parametrize(("name", "setting", "places"), [
    ("pg_cron", "shared_preload_libraries", ["/lib/17/pg_cron", "/lib/17/pg_cron.so", "/extra/pg_cron", "/extra/pg_cron.so"]),
    ("pg_cron", "local_preload_libraries", ["/lib/17/plugins/pg_cron", "/lib/17/plugins/pg_cron.so"]),
    ("$libdir/x.so", "session_preload_libraries", ["/lib/17/x.so", "/lib/17/x.so.so"]),
    ("/opt/x", "session_preload_libraries", ["/opt/x", "/opt/x.so"]),
])
def test_a_library_is_looked_for_where_the_server_would(name: str, setting: str, places: list[str]) -> None:
    assert sorted(configuration.library_candidates(name, setting, "$libdir:/extra", "/lib/17")) == sorted(places)


@pytest.mark.parametrize(("changed", "said"), [([{"path": "pg_hba.conf"}], ", so the old files are back"), ([], "")])
def test_old_files_are_said_to_be_back_only_where_new_ones_were_written(changed: list[dict[str, str]], said: str) -> None:
    files = object.__new__(configuration.Files)
    files.changed = changed
    assert files.restored == said


def test_what_ended_a_server_is_found_in_its_log(tmp_path: Path) -> None:
    day, early = tmp_path / "17-main-day.log", tmp_path / "17-main.log"
    day.write_text("2026 [7] FATAL:  could not map an older segment\n")
    log = restart.Log(str(tmp_path))
    assert log.fatal() == ""
    with day.open("a") as stream:
        stream.write("2026 UTC [8] user=,db= FATAL:  terminating walreceiver process due to administrator command\n"
                     "2026 UTC [9] user=u FATAL:  the database system is shutting down\n")
    assert log.fatal() == ""
    early.write_text('2026 UTC [10] FATAL:  could not access file "pg_cron": No such file or directory\n2026 UTC [10] LOG:  database system is shut down\n')
    assert log.fatal() == ' (its log says: FATAL: could not access file "pg_cron": No such file or directory)'


# What the host has

def test_limits_are_looked_for_in_every_group_above_the_process() -> None:
    assert capacity.limit_files("0::/docker/abc/init.scope\n") == [
        "/sys/fs/cgroup/docker/abc/init.scope/memory.max", "/sys/fs/cgroup/docker/abc/memory.max",
        "/sys/fs/cgroup/docker/memory.max", "/sys/fs/cgroup/memory.max",
    ]
    assert capacity.limit_files("4:cpu,memory:/docker\n3:pids:/docker\n") == [
        "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]


@pytest.mark.parametrize(("values", "limit"), [(["max\n", ""], None), (["max\n", "1073741824\n", "9223372036854771712"], 1073741824)])
def test_the_smallest_limit_counts(values: list[str], limit: int | None) -> None:
    assert capacity.smallest_limit(values) == limit


def test_memory_of_the_host_is_read_in_bytes() -> None:
    assert capacity.host_memory("MemTotal:       1024 kB\nMemFree: 1 kB\n") == 1048576


@pytest.mark.parametrize(("size", "planned"), [
    (2 * 2**30, 2 * 2**30), (512 * 2**20, 512 * 2**20), (16_384_000_000, 15 * 2**30), (5, 5),
])
def test_some_megabytes_of_memory_more_or_less_change_nothing(size: int, planned: int) -> None:
    assert capacity.steady(size) == planned
    if planned < size:
        assert capacity.steady(size - 20 * 2**20) == planned


def test_a_server_without_replicas_waits_for_none() -> None:
    assert "unnest(%(names)s::text[])" in restart.NOT_FOLLOWING  # an empty list has no type of its own



# Data directories

@pytest.mark.parametrize(("names", "valid", "state"), [
    (None, False, "empty"), ([], False, "empty"), (["PG_VERSION"], False, "incomplete"), (["PG_VERSION"], True, "cluster"),
])
def test_a_directory_is_a_cluster_only_with_a_valid_control_file(tmp_path: Path, names: list[str] | None, valid: bool, state: str) -> None:
    path = tmp_path / "main"
    if names is not None:
        path.mkdir()
        for name in names:
            (path / name).touch()
    assert directory.state_of(str(path), lambda _: valid) == state


# Slots

def slot(active: bool = False, kind: str = "physical", status: str = "reserved") -> dict[str, object]:
    return {"active": active, "slot_type": kind, "wal_status": status}


@pytest.mark.parametrize(("present", "wanted", "answer"), [
    ({}, ["slot_b"], (["slot_b"], [], [], [])),
    ({"slot_b": slot(True)}, ["slot_b"], ([], [], [], [])),
    ({"slot_a": slot(), "slot_b": slot(True)}, ["slot_b"], ([], ["slot_a"], [], [])),
    ({"slot_a": slot(True)}, [], ([], [], [], [])),
    ({"slot_a": slot(kind="logical")}, [], ([], [], [], [])),
    ({"other": slot()}, [], ([], [], ["other"], [])),
    ({"slot_a": slot(status="lost")}, [], ([], ["slot_a"], [], [])),
    ({"slot_b": slot(status="lost")}, ["slot_b"], ([], [], [], ["slot_b"])),
])
def test_slots_of_others_and_slots_in_use_are_never_dropped(
    present: dict[str, Any], wanted: list[str], answer: tuple[list[str], ...],
) -> None:
    assert slots.plan(present, wanted, ["slot_a", "slot_b"]) == answer


@pytest.mark.parametrize(("receivers", "words"), [
    ([], "no connection"),
    ([{"status": "waiting", "slot_name": "slot_b", "sender_host": "192.0.2.1"}], "waiting"),
    ([{"status": "streaming", "slot_name": "slot_c", "sender_host": "192.0.2.1"}], "slot_c"),
    ([{"status": "streaming", "slot_name": "slot_b", "sender_host": "192.0.2.7"}], "192.0.2.7"),
])
def test_a_replica_that_follows_otherwise_is_told_how(receivers: list[dict[str, str]], words: str) -> None:
    assert words in streaming.complaint(receivers, "slot_b", "192.0.2.1")


def test_a_replica_that_follows_as_it_should_is_not_complained_about() -> None:
    assert streaming.complaint([{"status": "streaming", "slot_name": "slot_b", "sender_host": "192.0.2.1"}], "slot_b", "192.0.2.1") == ""


# Roles

def present(**differences: object) -> dict[str, dict[str, object]]:
    row: dict[str, object] = {
        "name": "r", "login": True, "replication": False, "connection_limit": 5, "privileged": False, "verifier": None,
        "member_of": ["g"], "settings": ["statement_timeout=10s"],
    }
    return {"r": {**row, **differences}}


WANTED = {"name": "r", "login": True, "connection_limit": 5, "member_of": ["g"], "settings": {"statement_timeout": "10s"}}


def statements(wanted: dict[str, object], now: dict[str, dict[str, object]], passwords: dict[str, str]) -> list[str]:
    return [statement for statement, _ in roles.plan([wanted], now, passwords, lambda _: "VERIFIER")]


def test_a_role_as_described_is_left_alone() -> None:
    assert statements(WANTED, present(), {}) == []


@pytest.mark.parametrize(("differences", "statement"), [
    ({"login": False}, 'ALTER ROLE "r" LOGIN'),
    ({"connection_limit": -1}, "CONNECTION LIMIT 5"),
    ({"privileged": True}, "NOSUPERUSER"),
    ({"member_of": []}, 'GRANT "g" TO "r"'),
    ({"member_of": ["g", "h"]}, 'REVOKE "h" FROM "r"'),
    ({"settings": []}, 'ALTER ROLE "r" SET "statement_timeout" = \'10s\''),
    ({"settings": ["statement_timeout=10s", "work_mem=1GB"]}, 'ALTER ROLE "r" RESET "work_mem"'),
    ({"verifier": "SCRAM-SHA-256$..."}, 'ALTER ROLE "r" PASSWORD NULL'),
])
def test_a_role_that_differs_is_made_as_described(differences: dict[str, object], statement: str) -> None:
    (done,) = statements(WANTED, present(**differences), {})
    assert statement in done


@pytest.mark.parametrize("stored", [[], ["search_path=app"], ['search_path="app, public"']])
def test_a_list_of_schemas_is_set_as_a_list(stored: list[str]) -> None:
    wanted = {**WANTED, "settings": {"search_path": '"$user", public'}}
    (done,) = statements(wanted, present(settings=stored), {})
    assert done == """ALTER ROLE "r" SET "search_path" = '$user', 'public'"""


def test_a_list_as_the_server_stores_it_is_left_alone() -> None:
    wanted = {**WANTED, "settings": {"search_path": "$user,public"}}
    assert statements(wanted, present(settings=['search_path="$user", public']), {}) == []


def test_a_missing_role_is_made_with_all_it_has() -> None:
    assert [statement.split('"')[0].strip() for statement in statements(WANTED, {}, {"r": "pencil"})] == [
        "CREATE ROLE", "ALTER ROLE", "GRANT", "ALTER ROLE",
    ]


def test_a_password_reaches_the_server_as_a_verifier_only() -> None:
    (done,) = statements(WANTED, present(), {"r": "pencil"})
    assert done == "ALTER ROLE \"r\" PASSWORD 'VERIFIER'"


def test_a_password_that_fits_its_verifier_is_left_alone() -> None:
    assert statements(WANTED, present(verifier=scram.verifier("pencil", b"salt")), {"r": "pencil"}) == []


def test_what_was_done_is_told_without_the_secret() -> None:
    told = [action for _, action in roles.plan([WANTED], {}, {"r": "pencil"}, lambda _: "VERIFIER")]
    assert not any("VERIFIER" in action or "pencil" in action for action in told)


# Privileges

@pytest.mark.parametrize(("item", "wanted", "answer"), [
    ({"kind": "database", "object": "ON DATABASE app", "grants": {"": ["CONNECT", "TEMPORARY"]}}, {},
     ["REVOKE CONNECT, TEMPORARY ON DATABASE app FROM PUBLIC"]),
    ({"kind": "tables", "object": "ON TABLE t", "grants": {"ro": ["SELECT", "UPDATE"], "owner": ["DELETE"], "other": ["SELECT"]}},
     {"ro": {"tables": ["SELECT"]}}, ['REVOKE UPDATE ON TABLE t FROM "ro"']),
    ({"kind": "tables", "object": "ON TABLE t", "grants": {}}, {"ro": {"tables": ["SELECT"]}}, ['GRANT SELECT ON TABLE t TO "ro"']),
    ({"kind": "tables", "object": "ON TABLE t", "grants": {"ro": ["SELECT"]}}, {"ro": {"tables": ["SELECT"]}}, []),
    ({"kind": "tables", "object": "default tables", "grants": {}}, {"ro": {"tables": ["SELECT"]}},
     ['ALTER DEFAULT PRIVILEGES FOR ROLE "owner" IN SCHEMA "public" GRANT SELECT ON TABLES TO "ro"']),
    ({"kind": "functions", "object": "default functions", "grants": {"": ["EXECUTE"]}}, {},
     ['ALTER DEFAULT PRIVILEGES FOR ROLE "owner" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC']),
])
def test_named_roles_get_exactly_what_is_listed_and_public_nothing(
    item: dict[str, Any], wanted: dict[str, Any], answer: list[str],
) -> None:
    assert privileges.plan([item], wanted, "owner", "public") == answer
