"""The doctor, over real servers where something is really broken."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest

from pgroute import Settings
from pgroute.doctor import Finding, Limits, Verdict, ask, judge
from pgroute.doctor.asking.servers import Connection
from pgroute.doctor.facts import Purpose
from pgroute.doctor.judging.naming import RESERVED
from pgroute.partitions import Partitions, routing
from tests.integration.meddler import meddling
from tests.integration.test_commands import pgroute
from tests.servers import BIN, NAMES, Servers, eventually, port

pytestmark = pytest.mark.integration

USUAL = Limits()
TABLES = """
select count(*) from pg_class
where relkind in ('r', 'p') and not relispartition
    and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
"""


def diagnose(
    settings: Settings, limits: Limits = USUAL, *, tables: Sequence[str] = (), catch_up: float = 30
) -> list[Finding]:
    return judge(ask(settings, tables=tables, limit=60.0, catch_up_limit=catch_up), limits)


def bad(
    findings: list[Finding], verdict: Verdict = Verdict.PROBLEM
) -> list[tuple[str, str | None]]:
    return [(found.check, found.node) for found in findings if found.verdict is verdict]


def the(findings: list[Finding], check: str, node: str | None = None) -> Finding:
    """The worst finding of a check about a node."""
    found = [each for each in findings if (each.check, each.node) == (check, node)]
    assert found, f"{check} says nothing of {node}"
    order = (Verdict.PROBLEM, Verdict.WARNING, Verdict.OK)
    return min(found, key=lambda each: order.index(each.verdict))


@pytest.fixture
def healthy(servers: Servers) -> Servers:
    forget_conflicts(servers)
    eventually(lambda: not bad(diagnose(servers.settings())), what="a fleet without problems")
    return servers


def forget_conflicts(servers: Servers) -> None:
    """Other tests may have had reads cancelled: the servers count from now on."""
    for node in NAMES[1:]:
        servers.sql(node, "select pg_stat_reset()", database="app")


@contextmanager
def altered(servers: Servers, node: str, *settings: str) -> Iterator[None]:
    """Server settings such as ``ssl = on``, for a while."""
    for setting in settings:
        servers.sql(node, f"alter system set {setting}")
    servers.sql(node, "select pg_reload_conf()")
    try:
        yield
    finally:
        for setting in settings:
            servers.sql(node, f"alter system reset {setting.partition(' ')[0]}")
        servers.sql(node, "select pg_reload_conf()")


@contextmanager
def sql(servers: Servers, there: str, back: str, *, database: str = "postgres") -> Iterator[None]:
    """A change on the primary that the replicas have too, undone at the end."""
    servers.sql("pg1", there, database=database)
    try:
        replayed(servers)
        yield
    finally:
        servers.sql("pg1", back, database=database)
        replayed(servers)


def replayed(servers: Servers, *nodes: str) -> None:
    """Wait until these replicas, else all, have what the primary has now."""
    position = servers.sql("pg1", "select pg_current_wal_insert_lsn()")
    there = f"select pg_last_wal_replay_lsn() >= '{position}'"
    for node in nodes or NAMES[1:]:
        eventually(
            lambda name=node: servers.sql(name, there) == "t",
            what=f"{node} has replayed {position}",
        )


def passfile(path: Path, *lines: str) -> Path:
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_healthy_fleet_has_no_problem(healthy: Servers) -> None:
    findings: list[Finding] = []

    def is_well() -> bool:  # on a busy machine replicas may be behind for a moment
        findings[:] = diagnose(healthy.settings())
        return not bad(findings)

    eventually(is_well, what="a fleet without a problem")
    assert bad(findings, Verdict.WARNING) == []
    assert the(findings, "roles").says == "writes go to pg1; replicas: pg2, pg3"
    assert "NOT encrypted" in the(findings, "tls", "pg1").says
    assert {found.check for found in findings} >= {"partitions", "prepared", "connections", "lag"}


# Network and logins


def test_a_host_without_an_address(servers: Servers) -> None:
    nodes = f"pg1=127.0.0.1:{port('pg1')},pg9=no-such-host.invalid"
    findings = diagnose(servers.settings(nodes=nodes))
    assert bad(findings) == [("dns", "pg9")]
    assert "no-such-host.invalid has no address" in the(findings, "dns", "pg9").says


def test_a_port_where_nobody_listens(servers: Servers) -> None:
    findings = diagnose(servers.settings(nodes=f"pg1=127.0.0.1:{port('pg1')},pg9=127.0.0.1:1"))
    assert bad(findings) == [("tcp", "pg9")]
    assert "127.0.0.1 port 1: Connection refused" in the(findings, "tcp", "pg9").says


def test_a_server_that_is_down(healthy: Servers) -> None:
    healthy.stop("pg3")
    try:
        findings = diagnose(healthy.settings())
    finally:
        healthy.start("pg3")
    # The container's port may take the connection although nobody is behind it.
    assert {node for _, node in bad(findings)} == {"pg3"}
    assert {check for check, _ in bad(findings)} <= {"tcp", "login"}
    assert the(findings, "roles").says == "writes go to pg1; replicas: pg2"


def test_a_frozen_server_does_not_hold_the_doctor_up(healthy: Servers) -> None:
    healthy.signal("pg3", "STOP")
    started = time.monotonic()
    try:
        findings = diagnose(healthy.settings(connect_timeout_seconds=2))
    finally:
        healthy.signal("pg3", "CONT")
    assert time.monotonic() - started < 60  # each login is given up after 2 s
    assert bad(findings)[0] == ("login", "pg3")
    assert "is it frozen" in the(findings, "login", "pg3").advice


def test_a_wrong_password_names_the_line_of_the_passfile(servers: Servers, tmp_path: Path) -> None:
    path = passfile(
        tmp_path / "pass", "# logins", "*:*:app:app_ro:ro-for-tests", "*:*:app:app_rw:a-secret"
    )
    findings = diagnose(servers.settings(passfile=path))
    assert bad(findings) == [("login", node) for node in NAMES]
    assert the(findings, "login", "pg1").says == (
        f"app_rw: the server refused the password in line 3 of {path}"
    )
    assert not any("a-secret" in found.says + found.advice for found in findings)


def test_a_missing_line_of_the_passfile(servers: Servers, tmp_path: Path) -> None:
    path = passfile(tmp_path / "pass", "*:*:app:app_ro:ro-for-tests")
    finding = the(diagnose(servers.settings(passfile=path)), "login", "pg2")
    wanted = f"127.0.0.1:{port('pg2')}:app:app_rw"
    assert finding.says == f"app_rw has no password: no line of {path} fits {wanted}"
    assert finding.advice.startswith(f"add a line {wanted}:<password>")


def test_a_passfile_that_libpq_ignores(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = passfile(tmp_path / "pass", *servers.passfile.read_text().splitlines())
    path.chmod(0o644)
    monkeypatch.setenv("PGPASSFILE", str(path))
    findings = diagnose(servers.settings(passfile=None))
    assert "others can read it" in the(findings, "passfile").says
    path.chmod(0o600)
    assert bad(diagnose(servers.settings(passfile=None))) == []


def test_a_password_in_the_environment(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "not-this-one")
    findings = diagnose(servers.settings(passfile=None))
    assert ("passfile", None) in bad(findings, Verdict.WARNING)
    assert "the server refused the password of PGPASSWORD" in the(findings, "login", "pg1").says


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"read_user": "nobody_at_all"}, "no password"),
        ({"database": "no_such_database"}, "no password"),
    ],
)
def test_a_login_that_is_not_in_the_passfile(
    servers: Servers, change: dict[str, str], words: str
) -> None:
    assert words in the(diagnose(servers.settings(**change)), "login", "pg1").says


def test_a_database_that_is_not_there(servers: Servers, tmp_path: Path) -> None:
    path = passfile(tmp_path / "pass", "*:*:*:app_rw:rw-for-tests", "*:*:*:app_ro:ro-for-tests")
    finding = the(diagnose(servers.settings(passfile=path, database="nowhere")), "login", "pg1")
    assert 'database "nowhere" does not exist' in finding.says
    assert finding.advice == "create the database nowhere, or correct its name"


def test_a_database_that_the_user_may_not_enter(servers: Servers) -> None:
    with sql(
        servers,
        "revoke connect on database app from public; grant connect on database app to app_rw",
        "grant connect on database app to public; revoke connect on database app from app_rw",
    ):
        finding = the(diagnose(servers.settings()), "login", "pg2")
    assert "permission denied for database" in finding.says
    assert finding.advice == "grant connect on database app to app_ro"


def test_a_host_that_is_not_let_in(servers: Servers) -> None:
    servers.run(
        "cp /srv/pg/pg3/pg_hba.conf /srv/hba; echo local all all trust > /srv/pg/pg3/pg_hba.conf"
    )
    servers.run(f"su postgres -c '{BIN}/pg_ctl -D /srv/pg/pg3 reload -s'")
    try:
        eventually(
            lambda: bad(diagnose(servers.settings())) == [("login", "pg3")] * 2, what="not let in"
        )
        finding = the(diagnose(servers.settings()), "login", "pg3")
    finally:
        servers.run("cat /srv/hba > /srv/pg/pg3/pg_hba.conf")
        servers.run(f"su postgres -c '{BIN}/pg_ctl -D /srv/pg/pg3 reload -s'")
    assert "pg_hba.conf" in finding.says + finding.advice


# Encryption

HERE = "127.0.0.1"  # a node without a name is called by its host
EXPIRED = "-not_before 20200101000000Z -not_after 20210101000000Z"


@contextmanager
def encrypted(servers: Servers, node: str, dates: str, names: str) -> Iterator[Path]:
    """A server with ssl = on; the path of its certificate, on this machine."""
    servers.run(
        f"""openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=tests {dates} \
        -addext 'subjectAltName = {names}' -keyout /srv/{node}.key -out /srv/{node}.crt 2> /dev/null
        chown postgres /srv/{node}.key /srv/{node}.crt; chmod 0600 /srv/{node}.key"""
    )
    copy = servers.passfile.parent / f"{node}.crt"
    copy.write_text(servers.run(f"cat /srv/{node}.crt"))
    paths = f"ssl_cert_file = '/srv/{node}.crt'", f"ssl_key_file = '/srv/{node}.key'"
    with altered(servers, node, *paths, "ssl = on"):
        eventually(lambda: offers(servers, node), what=f"{node} offers TLS")
        yield copy
    eventually(lambda: not offers(servers, node), what=f"{node} offers no TLS")


def offers(servers: Servers, node: str) -> bool:
    member = next(each for each in servers.settings().members if each.name == node)
    parameters = servers.settings().connection(member, user="app_ro", read_only=True)
    with psycopg.connect(**parameters) as connection:
        return connection.pgconn.ssl_in_use


def only(servers: Servers, node: str, options: str = "") -> Settings:
    """Settings that know one node, and libpq's ``options``."""
    dsn = f"postgresql://app_rw@127.0.0.1:{port(node)}/app?{options}"
    return servers.settings(nodes="", dsn=dsn)


def test_an_expired_certificate(servers: Servers) -> None:
    with encrypted(servers, "pg1", EXPIRED, "IP:127.0.0.1") as authority:
        findings = diagnose(only(servers, "pg1"))
        assert bad(findings) == [("certificate", HERE)]
        assert the(findings, "certificate", HERE).says == (
            "the certificate expired on 2021-01-01 00:00 UTC"
        )
        assert "nobody checks" in the(findings, "tls", HERE).says

        strict = diagnose(only(servers, "pg1", f"sslmode=verify-full&sslrootcert={authority}"))
        assert {check for check, _ in bad(strict)} >= {"login", "certificate"}
        assert "renew the server's certificate" in the(strict, "login", HERE).advice


def test_a_certificate_that_expires_soon(servers: Servers) -> None:
    with encrypted(servers, "pg1", "-days 5", "IP:127.0.0.1") as authority:
        settings = only(servers, "pg1", f"sslmode=verify-full&sslrootcert={authority}")
        findings = diagnose(settings)
        assert bad(findings) == []
        assert the(findings, "certificate", HERE).says.startswith("the certificate expires in ")
        assert the(findings, "tls", HERE).says == "encrypted: TLSv1.3, sslmode=verify-full"
        enough = diagnose(settings, Limits(expiry_days=4))
        assert the(enough, "certificate", HERE).verdict is Verdict.OK


def test_a_certificate_for_another_host(servers: Servers) -> None:
    with encrypted(servers, "pg1", "-days 900", "DNS:pg1.example.com") as authority:
        finding = the(diagnose(only(servers, "pg1")), "certificate", HERE)
        assert finding.verdict is Verdict.WARNING
        assert finding.says == "the certificate is for pg1.example.com, not for 127.0.0.1"
        strict = diagnose(only(servers, "pg1", f"sslmode=verify-full&sslrootcert={authority}"))
        assert the(strict, "certificate", HERE).verdict is Verdict.PROBLEM
        assert "use the name in the certificate" in the(strict, "login", HERE).advice


def test_encryption_that_is_demanded_and_not_there(servers: Servers) -> None:
    finding = the(diagnose(only(servers, "pg1", "sslmode=require")), "login", HERE)
    assert "does not support SSL" in finding.says
    assert finding.advice.startswith("set ssl = on")


# Roles


def test_two_primaries_are_named_and_so_is_an_old_one(expendable: Servers) -> None:
    servers = expendable
    servers.stop("pg1")
    servers.sql("pg2", "select pg_promote()")
    servers.start("pg1")
    findings = diagnose(servers.settings(), catch_up=0.5)
    assert ("roles", "pg1") in bad(findings)
    assert "writable on the old timeline 1, the newest is 2" in the(findings, "roles", "pg1").says

    servers.sql("pg3", "select pg_promote()")
    findings = diagnose(servers.settings())
    split = the(findings, "roles")
    assert split.says.startswith("split brain: pg2 and pg3 are both writable")
    assert "stop the other" in split.advice


def test_a_server_of_another_cluster(expendable: Servers) -> None:
    servers = expendable
    servers.stop("pg3")
    servers.run(
        f"su postgres -c 'mv /srv/pg/pg3 /srv/pg/old; {BIN}/initdb -D /srv/pg/pg3 -U postgres "
        "--auth-local=trust --auth-host=scram-sha-256 --no-sync > /dev/null; "
        "cp /srv/pg/old/postgresql.conf /srv/pg/old/pg_hba.conf /srv/pg/pg3'"
    )
    servers.start("pg3")
    servers.sql(
        "pg3",
        "create role app_rw login password 'rw-for-tests'; "
        "create role app_ro login password 'ro-for-tests'; create database app",
    )
    findings = diagnose(servers.settings())
    assert "different clusters" in the(findings, "cluster").says
    assert "pg3" in the(findings, "cluster").says
    # Its database is in SQL_ASCII: text is text all the same.
    node = ask(servers.settings(), catch_up_limit=0.1).nodes[2]
    session = node.session(Purpose.READ)
    assert session is not None
    assert dict(session.effective) == servers.settings().session(read_only=True)


def test_no_primary(servers: Servers) -> None:
    findings = diagnose(servers.settings(nodes=f"pg2=127.0.0.1:{port('pg2')}"))
    assert bad(findings) == [("roles", None)]
    assert the(findings, "roles").says.startswith("no primary: no writable server: pg2")


def test_one_server_under_two_names(servers: Servers) -> None:
    address = f"127.0.0.1:{port('pg2')}"
    nodes = f"pg1=127.0.0.1:{port('pg1')},pg2={address},pg3={address}"
    findings = diagnose(servers.settings(nodes=nodes))
    assert bad(findings) == [("cluster", None)]
    assert the(findings, "cluster").says == "pg2 and pg3 are one and the same server"


# Replication


def test_a_paused_replay_and_the_lag_that_follows(healthy: Servers) -> None:
    healthy.sql("pg2", "select pg_wal_replay_pause()")
    try:
        healthy.sql("pg1", "select pg_logical_emit_message(false, 'test', repeat('x', 100000))")
        replayed(healthy, "pg3")
        findings = diagnose(healthy.settings(), catch_up=3)
        close = diagnose(healthy.settings(max_lag_bytes=50_000), catch_up=3)
    finally:
        healthy.sql("pg2", "select pg_wal_replay_resume()")
    assert bad(findings) == [("replay", "pg2"), ("lag", "pg2")]
    assert the(findings, "replay", "pg2").advice.startswith("select pg_wal_replay_resume()")
    assert "not caught up within 3 s" in the(findings, "lag", "pg2").says
    assert "more than PGROUTE_MAX_LAG_BYTES allows (48.8 KiB)" in the(close, "lag", "pg2").says
    eventually(lambda: not bad(diagnose(healthy.settings())), what="caught up")


def test_a_replica_that_streams_from_nobody(healthy: Servers) -> None:
    conninfo = healthy.sql("pg3", "show primary_conninfo").replace("'", "''")
    change = "alter system set primary_conninfo = '{}'"
    healthy.sql("pg3", change.format(""))
    healthy.sql("pg3", "select pg_reload_conf()")
    try:
        eventually(
            lambda: ("receiver", "pg3") in bad(diagnose(healthy.settings(), catch_up=0.1)),
            what="pg3 is cut off",
        )
    finally:
        healthy.sql("pg3", change.format(conninfo))
        healthy.sql("pg3", "select pg_reload_conf()")
    eventually(lambda: not bad(diagnose(healthy.settings())), what="pg3 streams again")


def test_reads_that_were_cancelled_for_replay(healthy: Servers) -> None:
    with altered(healthy, "pg2", "max_standby_streaming_delay = 0"):
        eventually(
            lambda: healthy.sql("pg2", "show max_standby_streaming_delay") == "0", what="no delay"
        )
        member = next(each for each in healthy.settings().members if each.name == "pg2")
        parameters = healthy.settings().connection(member, user="app_ro", read_only=True)
        with psycopg.connect(**parameters) as reader:
            reader.execute("begin isolation level repeatable read")
            reader.execute("select count(*) from sales")
            healthy.sql("pg1", "begin; lock sales; commit", database="app")
            with pytest.raises(psycopg.Error):
                eventually(lambda: not reader.execute("select count(*) from sales"), what="never")
        finding = _eventual_warning(healthy, "conflicts", "pg2")
    assert "reads were cancelled for replay" in finding.says
    assert "hot_standby_feedback off, replay waits for reads 0 s" in finding.says

    def forgotten() -> bool:  # a session that ends tells what it has counted a moment later
        forget_conflicts(healthy)
        return the(diagnose(healthy.settings()), "conflicts", "pg2").verdict is Verdict.OK

    eventually(forgotten, what="the conflicts are forgotten")


def _eventual_warning(servers: Servers, check: str, node: str) -> Finding:
    found: list[Finding] = []

    def look() -> bool:
        found[:] = [the(diagnose(servers.settings()), check, node)]
        return found[0].verdict is Verdict.WARNING

    eventually(look, what=f"a warning of {check} on {node}")
    return found[0]


# Clocks, privileges, limits


def test_a_clock_that_is_an_hour_off(servers: Servers) -> None:
    facts = ask(servers.settings(), wall=lambda: time.time() - 3600)
    finding = the(judge(facts), "clock", "pg3")
    assert finding.verdict is Verdict.WARNING
    told = re.fullmatch(
        r"its clock is ([\d,.]+) s \(give or take .*\) ahead of this machine's", finding.says
    )
    assert told
    assert float(told[1].replace(",", "")) == pytest.approx(3600, abs=5)


def test_tables_that_the_users_may_not_use(healthy: Servers) -> None:
    servers = healthy
    with sql(
        servers,
        "create table secrets (id serial primary key); grant insert on secrets to app_rw",
        "drop table secrets",
        database="app",
    ):
        findings = diagnose(servers.settings())
        assert bad(findings, Verdict.WARNING)[:2] == [("tables", None), ("tables", None)]
        says = [found.says for found in findings if found.check == "tables"]
        count = servers.sql("pg1", TABLES, database="app")
        assert says == [
            f"app_ro may not read 1 of {count} tables: public.secrets (no SELECT)",
            f"app_rw may not write to 1 of {count} tables: public.secrets "
            "(no SELECT, UPDATE, DELETE, USAGE of its sequences)",
        ]
        wanted = diagnose(servers.settings(), tables=("secrets", "nowhere"))
        assert bad(wanted) == [("tables", None)] * 4
        fine = diagnose(servers.settings(), tables=("Sales", "public.tbl_users", "tbl_users_p0"))
        assert bad(fine) == []


_RELATIONS = """
create view counted as select count(*) from sales;
create view "Of 2024" as select * from sales_2024;
create materialized view kept as select * from sales;
create extension file_fdw;
create server files foreign data wrapper file_fdw;
create foreign table lines (line text) server files options (filename '/dev/null');
create schema apart;
create table apart.made (id int);
alter extension file_fdw add table apart.made;
create table apart.nearby (id int);
grant usage on schema apart to app_ro, app_rw;
grant select on counted, "Of 2024", kept, lines, apart.made to app_ro, app_rw;
grant insert, update, delete on "Of 2024", apart.made to app_rw;
"""
_NO_RELATIONS = """
drop view counted, "Of 2024"; drop materialized view kept;
drop extension file_fdw cascade; drop schema apart cascade
"""


def test_whatever_can_be_read_may_be_a_table_that_matters(healthy: Servers) -> None:
    with sql(healthy, _RELATIONS, _NO_RELATIONS, database="app"):
        fine = (
            "counted",
            '"Of 2024"',
            "kept",
            "lines",
            "apart.made",
            "sales_2024",
            "pg_stat_activity",
        )
        assert [
            f.says for f in diagnose(healthy.settings(), tables=fine) if f.check == "tables"
        ] == [
            "app_ro may read all 7 tables",
            "app_rw may write to all 7 tables, as far as they take writes",
        ]
        healthy.sql("pg1", "revoke usage on schema apart from app_rw", database="app")
        lacking = diagnose(healthy.settings(), tables=("apart.made",))
        assert [f.says for f in lacking if f.check == "tables"] == [
            "app_ro may read all 1 tables",
            "app_rw may not write to 1 of 1 tables: apart.made (no USAGE of its schema)",
        ]
        for name in ("of 2024", "a.b.c.d", "nearby", "counted;", "app_ro", ""):
            found = the(diagnose(healthy.settings(), tables=(name,)), "tables")
            assert found.says == f"the table {name} does not exist in this database"


def test_a_user_that_does_not_see_the_receiver(healthy: Servers) -> None:
    servers = healthy
    assert the(diagnose(servers.settings()), "receiver", "pg2").says == "a WAL receiver runs"
    with sql(
        servers,
        "revoke pg_read_all_stats from app_ro",
        "grant pg_read_all_stats to app_ro",
    ):
        findings = diagnose(servers.settings())
    assert bad(findings, Verdict.WARNING) == [("privileges", None)]
    assert the(findings, "privileges").advice == "grant pg_read_all_stats to app_ro"
    assert "its state is hidden" in the(findings, "receiver", "pg2").says


def test_words_that_are_no_names_without_quotes(servers: Servers) -> None:
    words = servers.sql("pg1", "select word from pg_get_keywords() where catcode in ('R', 'T')")
    assert set(words.split()) <= RESERVED


def test_a_superuser(servers: Servers) -> None:
    with sql(servers, "alter role app_rw superuser", "alter role app_rw nosuperuser"):
        found = [f.says for f in diagnose(servers.settings()) if f.check == "privileges"]
    assert len([says for says in found if says.startswith("app_rw")]) == 1
    assert any(says.startswith("app_rw is a superuser") for says in found)


def test_a_limit_of_the_role_that_pgroute_overrides(servers: Servers) -> None:
    with sql(
        servers,
        "alter role app_ro set statement_timeout = '5s'; "
        "alter database app set statement_timeout = '3s'",
        "alter role app_ro reset statement_timeout; alter database app reset statement_timeout",
    ):
        finding = the(diagnose(servers.settings()), "settings")
    assert finding.says == (
        "the role app_ro has statement_timeout = 5s, and pgroute sets 60 s over it"
    )
    assert "PGROUTE_STATEMENT_TIMEOUT_SECONDS=5 " in finding.advice


def test_a_limit_of_the_database_that_pgroute_overrides(servers: Servers) -> None:
    with sql(
        servers,
        "alter database app set lock_timeout = '3s'; alter role all set statement_timeout = '9s'",
        "alter database app reset lock_timeout; alter role all reset statement_timeout",
    ):
        findings = diagnose(servers.settings(lock_timeout_seconds=4))
    says = dict.fromkeys(found.says for found in findings if found.check == "settings")
    assert list(says) == [
        "ALTER ROLE ALL has statement_timeout = 9s, and pgroute sets 60 s over it",
        "the database app has lock_timeout = 3s, and pgroute sets 4 s over it",
    ]


def test_a_setting_that_the_server_writes_in_another_way(servers: Servers) -> None:
    for zone in ("utc", "europe/berlin", "+02"):
        findings = diagnose(servers.settings(time_zone=zone, search_path="public,app"))
        assert the(findings, "settings").verdict is Verdict.OK, zone


_SERIALIZABLE = "default_transaction_isolation = 'serializable'"
_LOWER = "default_transaction_isolation = 'repeatable read', then connect anew"


def usable_by_the_tests(servers: Servers) -> AbstractContextManager[None]:
    """The superuser begins at a level that a standby has, whatever is set for others."""
    return sql(
        servers,
        "alter role postgres set default_transaction_isolation = 'read committed'",
        "alter role postgres reset default_transaction_isolation",
    )


def test_readers_that_a_standby_serves_at_no_level(healthy: Servers) -> None:
    for whose, whence in (
        ("role app_ro", "the role app_ro"),
        ("database app", "the database app"),
        ("role app_ro in database app", "the role app_ro in the database app"),
        ("role all", "ALTER ROLE ALL"),
    ):
        changed = dict.fromkeys((whose, "role app_ro"))
        reset = ";".join(f"alter {each} reset default_transaction_isolation" for each in changed)
        with (
            usable_by_the_tests(healthy),
            sql(healthy, f"alter {whose} set {_SERIALIZABLE}", reset),
        ):
            settings = healthy.settings()
            findings = diagnose(settings)
            member = next(each for each in settings.members if each.name == "pg2")
            parameters = settings.connection(member, user="app_ro", read_only=True)
            with (
                psycopg.connect(**parameters) as reader,
                pytest.raises(psycopg.errors.FeatureNotSupported, match="serializable mode"),
            ):
                reader.execute("select 1")
            advice = the(findings, "isolation", "pg2").advice
            healthy.sql("pg1", advice.partition(", then")[0])
            replayed(healthy)
            assert bad(diagnose(healthy.settings())) == [], whose
        assert bad(findings) == [("isolation", "pg2"), ("isolation", "pg3")], whose
        assert the(findings, "isolation", "pg2").says == (
            "a standby runs no serializable transaction (SQLSTATE 0A000), and "
            f"{whence} sets default_transaction_isolation = serializable: no read runs here"
        )
        role = whose if whose.endswith("in database app") else "role app_ro"
        assert advice == f"alter {role} set {_LOWER}"


def test_a_server_whose_own_default_is_serializable(healthy: Servers) -> None:
    for node, verdict in (("pg2", Verdict.PROBLEM), ("pg1", Verdict.WARNING)):
        with usable_by_the_tests(healthy), altered(healthy, node, _SERIALIZABLE):
            eventually(
                lambda name=node, wanted=verdict: (
                    ("isolation", name) in bad(diagnose(healthy.settings()), wanted)
                ),
                what=f"{node} begins at serializable",
            )
            findings = diagnose(healthy.settings())
        found = the(findings, "isolation", node)
        assert "the server's configuration sets default_transaction_isolation = " in found.says
        assert found.advice == f"alter role app_ro set {_LOWER}"


def test_a_low_connection_limit(servers: Servers) -> None:
    with sql(
        servers, "alter role app_ro connection limit 5", "alter role app_ro connection limit -1"
    ):
        findings = diagnose(servers.settings())
    assert bad(findings) == [("connections", node) for node in NAMES]
    finding = the(findings, "connections", "pg1")
    assert finding.says == "the role app_ro may have 5 connections, full pools want 11"
    assert "alter role app_ro connection limit 11" in finding.advice


def test_a_low_limit_of_the_database(servers: Servers) -> None:
    with sql(
        servers,
        "alter database app connection limit 12",
        "alter database app connection limit -1",
    ):
        finding = the(diagnose(servers.settings()), "connections", "pg2")
    assert finding.says == "the database app may have 12 connections, full pools want 21"


def test_pools_that_the_server_cannot_fill(servers: Servers) -> None:
    finding = the(diagnose(servers.settings(pool_max_size=60)), "connections", "pg1")
    assert finding.says == "max_connections leaves 97 connections, full pools want 121"
    several = the(diagnose(servers.settings(), Limits(processes=5)), "connections", "pg1")
    assert several.says == "max_connections leaves 97 connections, full pools want 105"


# What stands between


def test_a_proxy_that_keeps_things_back(servers: Servers) -> None:
    with meddling(port("pg1")) as between:
        findings = diagnose(servers.settings(nodes=f"pg1=127.0.0.1:{between}"))
    assert bad(findings) == [("version", "pg1")]
    assert "in_hot_standby does not arrive" in the(findings, "version", "pg1").says
    assert "a pooler stands between" in the(findings, "prepared", "pg1").says


_PGBOUNCER = """
install="apt-get install -y -qq --no-install-recommends pgbouncer"
{ $install || { apt-get update -qq && $install; }; } > /tmp/install.log 2>&1 \\
    || { cat /tmp/install.log; exit 1; }
install -d -o postgres /srv/pgbouncer
cat > /srv/pgbouncer/ini <<'END'
[databases]
app = host=/srv/pg port=@SERVER@ dbname=app user=app_rw
[pgbouncer]
listen_addr = *
listen_port = @PORT@
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_prepared_statements = 100
@MORE@
END
su postgres -c 'setsid pgbouncer /srv/pgbouncer/ini' < /dev/null > /srv/pgbouncer/log 2>&1 &
for try in $(seq 100); do
    psql -X -h 127.0.0.1 -p @PORT@ -U app_rw -w -c 'select 1' app > /dev/null 2>&1 && break
    sleep 0.1
done
"""


_ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"


@contextmanager
def pooled(servers: Servers, more: str = "") -> Iterator[Settings]:
    """Settings that lead to a PgBouncer before pg1, in the container."""
    at = port("pg1") + 60
    script = _PGBOUNCER.replace("@SERVER@", str(port("pg1"))).replace("@PORT@", str(at))
    servers.run(script.replace("@MORE@", more))
    address = subprocess.run(
        ["docker", "inspect", "-f", _ADDRESS, servers.container],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    try:
        yield servers.settings(nodes=f"pg1={address}:{at}")
    finally:
        servers.run(
            "kill $(pgrep pgbouncer); while pgrep pgbouncer > /dev/null; do sleep 0.05; done"
        )


def test_a_pooler_that_does_not_let_settings_through(servers: Servers) -> None:
    with pooled(servers) as settings:
        findings = diagnose(settings)
    assert bad(findings)[0] == ("login", "pg1")
    assert the(findings, "login", "pg1").advice == (
        "connect to the server itself: a pooler stands between"
    )


def test_a_pooler_that_forgets_settings(servers: Servers) -> None:
    with pooled(servers, "ignore_startup_parameters = options") as settings:
        findings = diagnose(settings)
    says = [found.says for found in findings if found.check == "settings"]
    assert "read connections have default_transaction_read_only = off, though on was asked for" in (
        says
    )
    assert "a pooler stands between" in the(findings, "prepared", "pg1").says
    assert "NOT encrypted" in the(findings, "tls", "pg1").says
    assert the(findings, "tls", "pg1").verdict is Verdict.WARNING


def test_one_strange_table_does_not_hide_the_others(
    healthy: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(connection: Connection, table: str, **_: object) -> Partitions:
        if table == "sales":
            connection.execute("select 1 from no_such_table")
        if table == "apart":
            raise ValueError("not a partition bound that pgroute can read")
        return read(connection, table)

    read = Partitions.read
    with sql(
        healthy,
        "create table apart (id int) partition by list (id)",
        "drop table apart",
        database="app",
    ):
        monkeypatch.setattr(Partitions, "read", failing)
        findings = [f for f in diagnose(healthy.settings()) if f.check == "partitions"]
    assert [(each.verdict, each.says) for each in findings] == [
        (Verdict.WARNING, "apart was not compared: not a partition bound that pgroute can read"),
        (Verdict.WARNING, 'sales was not compared: relation "no_such_table" does not exist'),
        (Verdict.OK, "tbl_users: 32 computed keys lie where they should"),
    ]


def test_tables_of_which_no_key_can_be_made_up(healthy: Servers) -> None:
    with sql(
        healthy,
        "create table old (day date) partition by range (day); create table old_1 partition of old "
        "for values from ('0400-01-01 BC') to ('0044-03-15 BC'); "
        "create table unborn (id int) partition by hash (id)",
        "drop table old, unborn",
        database="app",
    ):
        says = {f.says: f.verdict for f in diagnose(healthy.settings()) if f.check == "partitions"}
        told = pgroute(healthy, "partitions", "old").stdout
    assert says["old: not one key was found for its 1 leaf, so nothing was compared"] is (
        Verdict.WARNING
    )
    assert says["unborn has no partitions yet"] is Verdict.OK
    assert "Self-test: no key was found to ask the server about." in told


def test_a_server_that_puts_keys_elsewhere(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "combine", lambda row_hash, value_hash: row_hash ^ value_hash)
    findings = diagnose(servers.settings())
    assert bad(findings) == [("partitions", None)]
    assert "tbl_users" in the(findings, "partitions").says
