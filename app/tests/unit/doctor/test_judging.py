"""What the doctor makes of what it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from pgroute.config import Node
from pgroute.doctor import CHECKS, Finding, Limits, Verdict, judge
from pgroute.doctor.facts import (
    Address,
    CatchUp,
    Certificate,
    Clock,
    Facts,
    Login,
    NodeFacts,
    Origin,
    PartitionedTable,
    Passfile,
    Purpose,
    Reach,
    Rights,
    Tls,
)
from pgroute.doctor.judging.encryption import covers
from pgroute.doctor.judging.naming import identifier
from pgroute.doctor.judging.sessions import milliseconds
from tests.unit.doctor.fleets import (
    NOW,
    changed,
    facts,
    findings,
    logins,
    node,
    session,
    settings,
    troubles,
)

PROBLEM, WARNING = Verdict.PROBLEM, Verdict.WARNING


def test_a_healthy_fleet_gives_no_trouble_and_every_check_but_two_speaks() -> None:
    seen = facts()
    assert troubles(seen) == []
    silent = {check.name for check in CHECKS} - {found.check for found in judge(seen)}
    assert silent == {"certificate", "partitions"}  # it has neither


def test_trouble_always_comes_with_advice() -> None:
    broken = facts(
        node("pg1", reach=Reach(failure="Name or service not known"), server=None, logins=()),
        changed("pg2", replay_paused=True, receiving=False, version=130000),
        passfile=Passfile("/nowhere", "No such file or directory"),
    )
    found = [each for each in judge(broken) if each.verdict is not Verdict.OK]
    assert len(found) > 4
    assert all(each.advice for each in found)


# Network


def test_a_name_without_address_is_a_problem_of_dns_alone() -> None:
    lost = node("pg2", reach=Reach(failure="Name or service not known"), logins=(), server=None)
    assert troubles(facts(lost)) == [(PROBLEM, "dns", "pg2")]


def test_one_of_two_addresses_is_a_warning_and_both_are_a_problem() -> None:
    good, dead = Address("IPv4", "10.0.0.2", 0.001), Address("IPv6", "fd00::2", failure="refused")
    one = node("pg2", reach=Reach((good, dead)))
    assert troubles(facts(one)) == [(WARNING, "tcp", "pg2")]
    slower = replace(good, seconds=0.0025)
    assert findings(facts(node("pg1", reach=Reach((slower, good)))), "tcp")[0].says == (
        "connected within 2.5 ms"
    )
    none = node("pg2", reach=Reach((dead, dead)), logins=(), server=None)
    assert troubles(facts(none)) == [(PROBLEM, "tcp", "pg2")]


# Logins


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ('no pg_hba.conf entry for host "10.0.0.9"', "add a line for app_rw, app and this machine"),
        ('permission denied for database "app"', "grant connect on database app to app_rw"),
        ('role "app_rw" is not permitted to log in', "alter role app_rw login"),
        ('role "app_rw" does not exist', "create the role app_rw"),
        ('database "app" does not exist', "create the database app"),
        ('database "payroll_roles" does not exist', "create the database app"),
        ('role "database" does not exist', "create the role app_rw"),
        ('root certificate file "/roles/database.crt" does not exist', "put the authority's"),
        ('role "too many clients" is not permitted to log in', "alter role app_rw login"),
        ("sorry, too many clients already", "let max_connections"),
        ('too many connections for role "app_rw"', "let max_connections or the role's limit grow"),
        ("the database system is starting up", "wait until the server has started"),
        ("server does not support SSL, but SSL was required", "set ssl = on"),
        ("unsupported startup parameter: options", "connect to the server itself"),
        ("SSL error: certificate verify failed", "renew the server's certificate"),
        ("connection timeout expired", "the server takes connections but does not answer"),
        ("le mot de passe est faux", "see the server's log"),
    ],
)
def test_each_refusal_has_its_advice(words: str, advice: str) -> None:
    refused = (logins()[0], Login("app_rw", Purpose.WRITE, words, 2))
    found = findings(facts(node("pg2", logins=refused)), "login")
    problem = next(each for each in found if each.verdict is PROBLEM)
    assert words in problem.says
    assert problem.advice.startswith(advice)


@pytest.mark.parametrize("words", ["no password supplied", "password authentication failed"])
def test_a_refused_password_names_the_passfile(words: str) -> None:
    def says(line: int | None, **changes: object) -> str:
        refused = tuple(Login(user, purpose, words, line) for user, purpose in USERS)
        found = findings(facts(node("pg2", logins=refused), **changes), "login")
        assert [each.verdict for each in found if each.node == "pg2"] == [PROBLEM] * 2
        return next(each.says for each in found if each.node == "pg2")

    in_line = "app_ro: the server refused the password in line 3 of /srv/app/.pgpass"
    empty = "app_ro has no password: line 3 of /srv/app/.pgpass fits and has an empty one"
    assert says(3) == (in_line if "failed" in words else empty)
    assert "no line of /srv/app/.pgpass fits pg2:5432:app:app_ro" in says(None)
    assert says(3, password_variable=True).endswith("refused the password of PGPASSWORD")


def test_names_in_advice_can_be_typed() -> None:
    named = settings(database="Pay", read_user="app-ro", write_user="user")

    def advice(check: str, whole: Facts) -> list[str]:
        return [each.advice for each in findings(replace(whole, settings=named), check)]

    def refused(words: str) -> Facts:
        return facts(node("pg2", logins=(Login("app-ro", Purpose.READ, words), logins()[1])))

    assert 'grant connect on database "Pay" to "app-ro"' in advice(
        "login", refused('permission denied for database "Pay"')
    )
    assert 'alter role "app-ro" login' in advice("login", refused("is not permitted to log in"))
    wrong = (Login("app-ro", Purpose.READ, "password authentication failed", 1), logins()[1])
    assert any(
        r'(\password "app-ro")' in each
        for each in advice("login", facts(node("pg2", logins=wrong)))
    )
    superusers, blind = logins(superuser=True), logins(sees_statistics=False)
    assert [
        each.partition(",")[0]
        for each in advice("privileges", facts(node("pg2", logins=superusers)))
    ] == ['alter role "app-ro" nosuperuser', 'alter role "user" nosuperuser']
    assert 'grant pg_read_all_stats to "app-ro"' in advice(
        "privileges", facts(node("pg2", logins=blind))
    )
    rights = Rights('"my.schema".t', usage=False), Rights("public.u", insert=False)
    lacking = advice("tables", allowed(*rights))
    assert lacking[0].startswith('grant usage on schema "my.schema" to "app-ro";')
    assert lacking[1].startswith('grant usage on schema "my.schema" to "user";')
    few = facts(node("pg2", logins=logins(connection_limit=1)))
    assert [each.partition("or ")[2] for each in advice("connections", few) if each] == [
        'alter role "app-ro" connection limit 11 or more',
        'alter role "user" connection limit 10 or more',
    ]
    small = advice("connections", facts(changed("pg2", database_limit=1)))
    assert any('or alter database "Pay" connection limit 21' in each for each in small)
    for origin, whose in (
        (Origin.ROLE, 'role "app-ro"'),
        (Origin.ROLE_IN_DATABASE, 'role "app-ro" in database "Pay"'),
    ):
        serializable = logins(isolation="serializable", isolation_origin=origin)
        (found,) = advice("isolation", facts(node("pg2", logins=serializable)))
        assert found.startswith(f"alter {whose} set default_transaction_isolation")


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("app_ro", "app_ro"),
        ("_1$", "_1$"),
        ("App", '"App"'),
        ("app-ro", '"app-ro"'),
        ("1st", '"1st"'),
        ("größe", '"größe"'),
        ('a"b', '"a""b"'),
        ("user", '"user"'),
        ("left", '"left"'),
    ],
)
def test_names_as_sql_has_them(name: str, typed: str) -> None:
    assert identifier(name) == typed


def test_the_line_to_be_added_is_one_that_libpq_finds() -> None:
    def advice(host: str, failure: str | None = None) -> Finding:
        refused = (Login("app_ro", Purpose.READ, "no password supplied"), logins()[1])
        here = node("pg2", node=Node("pg2", host, 5432), logins=refused)
        passfile = Passfile("/p", failure, socket_directory="/run/sockets")
        return next(f for f in findings(facts(here, passfile=passfile), "login") if f.advice)

    assert advice("/run/sockets").advice.startswith("add a line localhost:5432:app:app_ro:<pass")
    assert advice("/run/other").advice.startswith("add a line /run/other:5432:app:app_ro:<pass")
    assert advice("::1").advice.startswith(r"add a line \:\:1:5432:app:app_ro:<password> to /p")
    ignored = advice("pg2", "libpq ignores it: others can read it")
    assert ignored.says == "app_ro has no password: /p: libpq ignores it: others can read it"
    assert "chmod 0600" in ignored.advice


USERS = (("app_ro", Purpose.READ), ("app_rw", Purpose.WRITE))


def test_the_same_refusal_of_one_user_is_told_once() -> None:
    refused = tuple(Login("app", purpose, "too many clients") for purpose in Purpose)
    assert len(findings(facts(node("pg2", logins=refused)), "login")) == 3


def test_an_unread_passfile_matters_only_where_passwords_are_asked_for() -> None:
    unread = Passfile("/p", "No such file or directory")
    assert troubles(facts(passfile=unread)) == [(PROBLEM, "passfile", None)]
    trusted = [node(name, logins=logins(used_password=False)) for name in ("pg1", "pg2", "pg3")]
    assert troubles(facts(*trusted, passfile=unread)) == []


def test_a_password_in_the_environment_is_a_warning() -> None:
    assert troubles(facts(password_variable=True)) == [(WARNING, "passfile", None)]


def test_one_user_with_a_password_is_enough_to_want_the_passfile() -> None:
    mixed = (logins()[0], logins(used_password=False)[1])
    trusted = [node(name, logins=logins(used_password=False)) for name in ("pg2", "pg3")]
    seen = facts(node("pg1", logins=mixed), *trusted, passfile=Passfile("/p", "gone"))
    assert troubles(seen) == [(PROBLEM, "passfile", None)]


def test_a_node_with_one_good_address_has_its_logins_judged() -> None:
    good, dead = Address("IPv4", "10.0.0.2", 0.001), Address("IPv6", "fd00::2", failure="refused")
    refused = (Login("app_ro", Purpose.READ, "no"), logins()[1])
    seen = facts(node("pg2", reach=Reach((good, dead)), logins=refused))
    assert (PROBLEM, "login", "pg2") in troubles(seen)


def test_a_server_that_stops_answering_is_told() -> None:
    hung = node("pg3", server=None, failure="not done within 10 s")
    assert (PROBLEM, "login", "pg3") in troubles(facts(hung))


# Encryption


def plain(name: str, **changes: object) -> NodeFacts:
    return node(name, logins=logins(encrypted=False), **({"sslmode": "prefer"} | changes))


def test_a_connection_that_is_not_encrypted_is_said_plainly() -> None:
    found = findings(facts(plain("pg1", tls=Tls(False))), "tls")[0]
    assert found.verdict is WARNING
    assert found.says == ("the connection is NOT encrypted (sslmode=prefer): the server has no TLS")
    assert troubles(facts(plain("pg1", tls=Tls(True)))) == [(WARNING, "tls", "pg1")]
    unheard = findings(facts(plain("pg1", tls=Tls(failure="timed out"))), "tls")[0]
    assert (unheard.verdict, unheard.says) == (
        WARNING,
        "the connection is NOT encrypted (sslmode=prefer), "
        "and whether the server offers TLS was not heard: timed out",
    )
    offered = findings(facts(plain("pg1", sslmode="disable", tls=Tls(True))), "tls")[0]
    assert offered.says.endswith("(sslmode=disable), though the server offers TLS")
    local = plain("pg1", reach=Reach((Address("IPv4", "127.0.0.1", 0.001),)))
    assert findings(facts(local), "tls")[0].verdict is Verdict.OK
    partly = plain("pg1", reach=Reach((*local.reach.addresses, Address("IPv4", "10.0.0.1", 0.1))))
    assert findings(facts(partly), "tls")[0].verdict is WARNING


@pytest.mark.parametrize("sslmode", ["allow", "prefer", "require"])
def test_encryption_without_a_check_of_the_server_is_a_warning(sslmode: str) -> None:
    assert troubles(facts(node("pg1", sslmode=sslmode))) == [(WARNING, "tls", "pg1")]


def certified(days: float, *names: str, begun: float = 10, sslmode: str = "verify-full") -> Facts:
    """A fleet whose pg1 has a certificate that ends in ``days`` and began ``begun`` days ago."""
    begins, ends = NOW - timedelta(days=begun), NOW + timedelta(days=days)
    shown = Certificate(names or ("pg1",), "tests", begins, ends)
    return facts(node("pg1", tls=Tls(True, shown), sslmode=sslmode))


def test_one_plain_connection_of_two_is_enough_to_say_so() -> None:
    mixed = (logins()[0], logins(encrypted=False)[1])
    assert troubles(facts(node("pg1", logins=mixed))) == [(WARNING, "tls", "pg1")]
    found = findings(facts(node("pg1", logins=logins(tls_version=None))), "tls")
    assert [each.says for each in found[:2]] == [
        "encrypted: TLS, sslmode=verify-full",
        "encrypted: TLSv1.3, sslmode=verify-full",
    ]


def test_a_certificate_that_cannot_be_read_is_a_warning() -> None:
    unread = facts(node("pg1", tls=Tls(True, failure="EE key too small")))
    assert troubles(unread) == [(WARNING, "certificate", "pg1")]
    assert troubles(facts(node("pg1", tls=Tls(None, failure="timed out")))) == []


def test_what_to_type_to_see_a_certificate() -> None:
    here = Node("pg1", "fd00::1", 5432)
    unread = facts(node("pg1", node=here, tls=Tls(True, failure="EE key too small")))
    assert findings(unread, "certificate")[0].advice.endswith(" -connect [fd00::1]:5432")


def test_certificates_by_their_dates() -> None:
    def verdict(seen: Facts, days: float = 30) -> Verdict:
        return findings(seen, "certificate", Limits(expiry_days=days))[0].verdict

    assert verdict(certified(30)) is Verdict.OK
    assert verdict(certified(99, begun=0)) is Verdict.OK
    soon = findings(certified(2.5), "certificate")[0].says
    assert soon == "the certificate expires in 2.5 days"
    assert verdict(certified(29.9)) is WARNING
    assert verdict(certified(29.9), days=29) is Verdict.OK
    assert verdict(certified(0)) is PROBLEM
    assert verdict(certified(99, begun=-1)) is PROBLEM
    says = findings(certified(-1), "certificate")[0].says
    assert says == "the certificate expired on 2026-05-31 00:00 UTC"


def test_a_certificate_for_another_host_is_as_bad_as_sslmode_makes_it() -> None:
    assert troubles(certified(99, "pg9")) == [(PROBLEM, "certificate", "pg1")]
    says = findings(certified(99, "pg8", "pg9"), "certificate")[1].says
    assert says == "the certificate is for pg8, pg9, not for pg1"
    assert (WARNING, "certificate", "pg1") in troubles(certified(99, "pg9", sslmode="require"))


@pytest.mark.parametrize(
    ("name", "host", "fits"),
    [
        ("pg1", "PG1", True),
        ("pg1", "pg2", False),
        ("*.example.com", "pg1.example.com", True),
        ("*.example.com", "a.pg1.example.com", False),
        ("*.example.com", "example.com", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.2", "10.0.0.1", False),
        ("*.0.0.1", "10.0.0.1", False),
        ("FD00:0:0:0:0:0:0:1", "fd00::1", True),
    ],
)
def test_names_of_certificates(name: str, host: str, fits: bool) -> None:
    assert covers([name], host) is fits


def test_one_name_of_a_certificate_is_enough() -> None:
    names = ["pg9", "pg1", "10.0.0.9", "10.0.0.1"]
    assert covers(names, "pg1")
    assert covers(names, "10.0.0.1")


# Roles


def test_two_writable_servers_on_one_timeline_are_both_named() -> None:
    found = findings(facts(changed("pg2", in_recovery=False)), "roles")
    assert [each.verdict for each in found] == [PROBLEM]
    assert "pg1 and pg2 are both writable" in found[0].says
    assert "which of pg1 and pg2" in found[0].advice


def test_an_old_primary_is_to_be_stopped() -> None:
    old = changed("pg3", in_recovery=False, timeline=1)
    seen = facts(changed("pg1", timeline=2), changed("pg2", timeline=2), old)
    found = findings(seen, "roles")
    assert (found[0].verdict, found[0].node) == (PROBLEM, "pg3")
    assert "pg_rewind" in found[0].advice
    assert found[1].says == "writes go to pg1; replicas: pg2"


def test_no_primary_and_no_replica() -> None:
    assert (PROBLEM, "roles", None) in troubles(facts(node("pg1", server=None)))
    silent = facts(*(node(name, server=None) for name in ("pg1", "pg2", "pg3")))
    assert findings(silent, "roles")[0].advice.startswith("no server was heard")
    alone = facts()
    alone = replace(alone, nodes=alone.nodes[:1])
    assert troubles(alone) == [(WARNING, "roles", None)]


def test_servers_of_two_clusters_and_one_server_twice() -> None:
    found = findings(facts(changed("pg3", system_identifier=8)), "cluster")[0]
    assert found.verdict is PROBLEM
    assert "pg1, pg2: 7; pg3: 8" in found.says
    twice = findings(facts(changed("pg3", started_at="pg2")), "cluster")
    assert [each.says for each in twice if each.verdict is PROBLEM] == [
        "pg2 and pg3 are one and the same server"
    ]


def test_a_replica_that_is_left_behind_on_an_old_timeline() -> None:
    new = changed("pg1", timeline=2), changed("pg3", timeline=2)
    assert troubles(facts(*new, changed("pg2", timeline=2))) == []
    assert troubles(facts(*new, changed("pg2", timeline=1))) == [(WARNING, "timeline", "pg2")]
    old = changed("pg2", timeline=1, in_recovery=False)  # told as a problem of roles
    assert [each.node for each in findings(facts(*new, old), "timeline")] == ["pg1", "pg3"]
    ahead = troubles(facts(*new, changed("pg2", timeline=3)))
    assert ahead == [(PROBLEM, "roles", "pg1"), (PROBLEM, "roles", None)]


def test_versions() -> None:
    assert troubles(facts(changed("pg1", version=130011)))[0] == (PROBLEM, "version", "pg1")
    assert troubles(facts(changed("pg3", version=160000))) == [(WARNING, "version", None)]
    oldest = facts(*(changed(name, version=140000) for name in ("pg1", "pg2", "pg3")))
    assert troubles(oldest) == []
    half = node("pg2", logins=(logins()[0], logins(tells_role=False)[1]))
    assert troubles(facts(half)) == [(PROBLEM, "version", "pg2")]
    mute = node("pg2", logins=logins(tells_role=False))
    assert troubles(facts(mute)) == [(PROBLEM, "version", "pg2")]


# Replication


def test_receivers() -> None:
    gone = troubles(facts(changed("pg2", receiving=False)))
    assert gone == [(PROBLEM, "receiver", "pg2")]
    assert troubles(facts(changed("pg2", receiver_status="stopping"))) == gone
    hidden = findings(facts(changed("pg2", receiver_status=None)), "receiver")
    assert hidden[0].verdict is Verdict.OK
    assert "hidden from this user" in hidden[0].says


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (CatchUp(None, None, 2), "its lag is unknown"),
        (CatchUp(17 << 20, 0.1, 2), "17.0 MiB behind, more than PGROUTE_MAX_LAG_BYTES allows"),
        (CatchUp(1024, None, 2), "1.0 KiB behind, and not caught up within 2 s"),
        (None, "could not be measured"),
    ],
)
def test_lag_that_is_a_problem(found: CatchUp | None, words: str) -> None:
    measured = {"pg3": CatchUp(0, 0.001, 2)} | ({"pg2": found} if found else {})
    seen = facts(catch_up=measured)
    assert troubles(seen) == [(PROBLEM, "lag", "pg2")]
    assert words in findings(seen, "lag")[0].says


def test_lag_is_no_second_problem_where_the_reader_does_not_get_in() -> None:
    refused = (Login("app_ro", Purpose.READ, "no"), logins()[1])
    for name in ("pg1", "pg2"):
        seen = facts(node(name, logins=refused), catch_up={"pg3": CatchUp(0, 0.001, 2)})
        assert troubles(seen) == [(PROBLEM, "login", name)]


def test_lag_within_the_limit_is_told() -> None:
    seen = facts(catch_up={name: CatchUp(16 << 20, 0.25, 2) for name in ("pg2", "pg3")})
    assert findings(seen, "lag")[0].says == "16.0 MiB behind, caught up within 250 ms"
    assert troubles(seen) == []


def test_paused_replay_and_cancelled_reads() -> None:
    assert troubles(facts(changed("pg2", replay_paused=True))) == [(PROBLEM, "replay", "pg2")]
    assert troubles(facts(changed("pg2", conflicts=3))) == [(WARNING, "conflicts", "pg2")]
    patient = findings(facts(changed("pg2", standby_delay=-0.001)), "conflicts")[0]
    assert patient.says == "hot_standby_feedback off, replay waits for reads for ever"
    hasty = findings(facts(changed("pg2", standby_delay=0, hot_standby_feedback=True)), "conflicts")
    assert hasty[0].says == "hot_standby_feedback on, replay waits for reads 0 s"


# Clocks


def test_clocks_count_only_beyond_what_the_round_trip_leaves_open() -> None:
    def clocks(first: Clock, second: Clock) -> list[tuple[Verdict, str, str | None]]:
        return troubles(facts(changed("pg1", clock=first), changed("pg2", clock=second)))

    unsure = Clock(1.4, 0.5)
    assert clocks(unsure, unsure) == []
    assert clocks(Clock(1.4, 0.3), Clock(0, 0)) == [
        (WARNING, "clock", "pg1"),
        (WARNING, "clock", None),  # pg1 and pg2
        (WARNING, "clock", None),  # pg1 and pg3
    ]
    assert clocks(Clock(0.7, 0), Clock(-0.7, 0)) == [(WARNING, "clock", None)]
    assert clocks(Clock(0.7, 0.3), Clock(-0.7, 0.3)) == []
    assert clocks(Clock(1.0, 0), Clock(0, 0)) == []
    assert clocks(Clock(-2, 0), Clock(-2, 0))[0] == (WARNING, "clock", "pg1")


def test_clocks_in_words() -> None:
    def says(clock: Clock) -> list[str]:
        return [each.says for each in findings(facts(changed("pg1", clock=clock)), "clock")]

    assert says(Clock(-0.012, 0.0005))[0] == (
        "its clock is within 12.0 ms (give or take 0.5 ms) of this machine's"
    )
    late = says(Clock(-2, 0.1))
    assert late[0] == "its clock is 2.0 s (give or take 100.0 ms) behind this machine's"
    assert late[-1] == "the clocks of pg1 and pg3 differ by 2.0 s"
    assert "ahead of" in says(Clock(2, 0.1))[0]


# Privileges


def allowed(*rights: Rights, wanted: Mapping[str, Rights | None] | None = None) -> Facts:
    users = logins(rights=rights, wanted=wanted or {})
    return facts(*(node(name, logins=users) for name in ("pg1", "pg2", "pg3")))


def test_tables_that_matter_are_a_problem_and_others_a_warning() -> None:
    full, poor = Rights("public.a"), Rights("public.b", insert=False)
    assert troubles(allowed(full)) == []
    assert troubles(allowed(full, poor)) == [(WARNING, "tables", None)]
    assert troubles(allowed(poor)) == [(PROBLEM, "tables", None)]
    assert troubles(allowed(full, poor, wanted={"a": full})) == []
    assert troubles(allowed(full, poor, wanted={"b": poor})) == [(PROBLEM, "tables", None)]
    assert troubles(allowed(full, wanted={"a": full, "nowhere": None})) == (
        [(PROBLEM, "tables", None)] * 2
    )
    assert troubles(allowed(poor, wanted={"nowhere": None})) == [(PROBLEM, "tables", None)] * 2


def test_nobody_must_write_to_what_takes_no_writes() -> None:
    view = Rights("public.v", insert=False, update=False, delete=False, writable=False)
    seen = findings(allowed(wanted={"v": view, "a": Rights("public.a")}), "tables")
    assert [(each.verdict, each.says) for each in seen] == [
        (Verdict.OK, "app_ro may read all 2 tables"),
        (Verdict.OK, "app_rw may write to all 2 tables, as far as they take writes"),
    ]
    unseen = allowed(wanted={"v": replace(view, select=False)})
    assert troubles(unseen) == [(PROBLEM, "tables", None)] * 2


def test_many_tables_are_counted_and_three_named() -> None:
    seen = allowed(*(Rights(f"public.t{number}", update=False) for number in range(5)))
    found = findings(seen, "tables")[1]
    assert found.says == (
        "app_rw may not write to 5 of 5 tables: public.t0 (no UPDATE), public.t1 (no UPDATE), "
        "public.t2 (no UPDATE) and 2 more"
    )
    assert found.advice.startswith("grant update on public.t0 to app_rw")
    three = allowed(*(Rights(f"public.t{number}", update=False) for number in range(3)))
    assert findings(three, "tables")[1].says.endswith("public.t2 (no UPDATE)")


@pytest.mark.parametrize(
    ("rights", "advice"),
    [
        (Rights("s.t", usage=False), "grant usage on schema s to app_ro"),
        (Rights("s.t", sequences=False), "grant usage on the sequences of s.t to app_rw"),
    ],
)
def test_the_grant_that_is_missing_is_given(rights: Rights, advice: str) -> None:
    found = [each for each in findings(allowed(rights), "tables") if each.advice]
    assert found[0].advice.startswith(advice)


def test_statistics_and_superusers() -> None:
    blind = facts(node("pg2", logins=logins(sees_statistics=False)))
    assert troubles(blind) == [(WARNING, "privileges", None)]
    assert [each.says for each in findings(facts(), "privileges")] == [
        "app_ro: no superuser, sees what it must",
        "app_rw: no superuser, sees what it must",
    ]
    one_user = replace(facts(), settings=settings(read_user="", write_user="app"))
    assert len(findings(one_user, "privileges")) == 1
    mighty = troubles(facts(node("pg2", logins=logins(superuser=True))))
    assert mighty == [(WARNING, "privileges", None)] * 2
    seen = findings(facts(node("pg2", logins=logins(superuser=True))), "privileges")
    assert [each.verdict for each in seen] == [WARNING] * 2  # and not well besides


# Sessions


def test_settings_that_did_not_arrive() -> None:
    kept_back = logins(effective={"statement_timeout": "0"})
    found = findings(facts(node("pg2", logins=kept_back)), "settings")
    assert [(each.verdict, each.node) for each in found] == [(PROBLEM, "pg2")] * 2
    assert found[0].says == (
        "read connections have statement_timeout = 0, though 60000 was asked for"
    )


def test_settings_in_words() -> None:
    seen = facts(node("pg2", logins=(), server=None), settings=settings(lock_timeout_seconds=1.5))
    assert [each.says for each in findings(seen, "settings")] == [
        f"{purpose} connections: statement_timeout 60 s, "
        "idle_in_transaction_session_timeout 60 s, lock_timeout 1.5 s"
        for purpose in ("read", "write")
    ]


def test_tighter_limits_of_a_role_are_told_once() -> None:
    own = {"statement_timeout": "5s", "lock_timeout": "1s"}
    role = dict.fromkeys(own, Origin.ROLE)
    tight = [node(name, logins=logins(own=own, origins=role)) for name in ("pg1", "pg2", "pg3")]
    found = findings(facts(*tight), "settings")
    assert [each.says for each in found] == [
        f"the role {user} has statement_timeout = 5s, and pgroute sets 60 s over it"
        for user in ("app_ro", "app_rw")
    ]
    assert {each.verdict for each in found} == {WARNING}
    assert found[0].advice.startswith("set PGROUTE_STATEMENT_TIMEOUT_SECONDS=5 if")
    database = logins(own=own, origins={"statement_timeout": Origin.DATABASE})
    assert findings(facts(node("pg1", logins=database)), "settings")[0].says == (
        "the database app has statement_timeout = 5s, and pgroute sets 60 s over it"
    )
    for enough in ("60s", "2min", "0"):
        wide = logins(own={"statement_timeout": enough}, origins=role)
        assert troubles(facts(node("pg1", logins=wide))) == []


def test_reads_at_a_level_that_no_standby_has() -> None:
    def found(*names: str, user: str = "app_ro", **changes: object) -> list[Finding]:
        serializable = logins(isolation="serializable", **changes)
        nodes = [node(name, logins=serializable) for name in names]
        return findings(facts(*nodes, settings=settings(read_user=user)), "isolation")

    everywhere = found("pg1", "pg2", "pg3", isolation_origin=Origin.ROLE)
    assert [(each.verdict, each.node) for each in everywhere] == [
        (PROBLEM, "pg2"),
        (PROBLEM, "pg3"),
    ]
    assert everywhere[0].says == (
        "a standby runs no serializable transaction (SQLSTATE 0A000), and the role app_ro sets "
        "default_transaction_isolation = serializable: no read runs here"
    )
    assert everywhere[0].advice == (
        "alter role app_ro set default_transaction_isolation = 'repeatable read', then connect anew"
    )
    (later,) = found("pg1")
    assert (later.verdict, later.node) == (WARNING, "pg1")
    assert later.says.startswith("the server's configuration sets default_transaction_isolation = ")
    assert found("pg1", isolation_origin=Origin.ROLE)[0].verdict is Verdict.OK  # in fact on all


@pytest.mark.parametrize(
    ("origin", "whence", "alone", "shared"),
    [
        (Origin.SERVER, "the server's configuration", "role app_ro", "role app_rw"),
        (Origin.EVERYBODY, "ALTER ROLE ALL", "role app_ro", "role app_rw"),
        (Origin.DATABASE, "the database app", "role app_ro", "database app"),
        (Origin.ROLE, "the role {}", "role app_ro", "role app_rw"),
        (
            Origin.ROLE_IN_DATABASE,
            "the role {} in the database app",
            "role app_ro in database app",
            "role app_rw in database app",
        ),
    ],
)
def test_whose_setting_it_is(origin: Origin, whence: str, alone: str, shared: str) -> None:
    for user, whom in (("app_ro", alone), ("app_rw", shared)):
        replica = node("pg2", logins=logins(isolation="serializable", isolation_origin=origin))
        seen = facts(replica, settings=settings(read_user=user))
        (found,) = findings(seen, "isolation")
        assert f"and {whence.format(user)} sets" in found.says
        assert found.advice.startswith(f"alter {whom} set default_transaction_isolation = 'rep")
        assert ("PGROUTE_READ_USER" in found.advice) == (user == "app_rw")


def test_a_lone_primary_will_be_a_standby() -> None:
    role = logins(isolation="serializable", isolation_origin=Origin.ROLE)
    lone = facts(
        node("pg1", logins=role),
        node("pg2", logins=(), server=None),
        node("pg3", logins=(), server=None),
    )
    (found,) = findings(lone, "isolation")
    assert (found.verdict, found.node) == (WARNING, "pg1")
    assert "once the node is a standby no read will run here" in found.says


def test_levels_in_words() -> None:
    higher = node("pg3", logins=logins(isolation="repeatable read"))
    (found,) = findings(facts(higher), "isolation")
    assert (found.verdict, found.says) == (
        Verdict.OK,
        "reads begin at read committed or repeatable read",
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("60s", 60_000), ("1min", 60_000), ("500", 500), ("1.5h", 5_400_000), ("", None), ("x", None)],
)
def test_durations(text: str, wanted: float | None) -> None:
    assert milliseconds(text) == wanted


def test_preparing() -> None:
    failing = node("pg2", logins=logins(prepare_failure="prepared statement does not exist"))
    assert troubles(facts(failing)) == [(PROBLEM, "prepared", "pg2")]
    half = (logins()[0], logins(direct=False)[1])
    assert troubles(facts(node("pg2", logins=half))) == [(WARNING, "prepared", "pg2")]
    assert troubles(facts(node("pg2", logins=logins(direct=False)))) == [
        (WARNING, "prepared", "pg2")
    ]


# Capacity


def test_connections_of_roles_database_and_server() -> None:
    assert troubles(facts(node("pg2", logins=logins(connection_limit=11)))) == []
    role = findings(facts(node("pg2", logins=logins(connection_limit=9))), "connections")
    says = [each.says for each in role if each.verdict is PROBLEM]
    assert says == [
        "the role app_ro may have 9 connections, full pools want 11",
        "the role app_rw may have 9 connections, full pools want 10",
    ]
    assert troubles(facts(changed("pg2", database_limit=20))) == [(PROBLEM, "connections", "pg2")]
    assert troubles(facts(changed("pg2", database_limit=21))) == []
    assert troubles(facts(changed("pg2", max_connections=23))) == [(PROBLEM, "connections", "pg2")]
    assert troubles(facts(changed("pg2", max_connections=24))) == []
    busy = changed("pg2", used_connections=77)
    assert troubles(facts(busy)) == [(WARNING, "connections", "pg2")]
    assert "20 of 97 connections are free now" in findings(facts(busy), "connections")[1].says
    assert troubles(facts(changed("pg2", used_connections=76))) == []
    assert findings(facts(), "connections")[0].says == (
        "full pools take 21 of 97 connections, 0 are in use"
    )
    assert troubles(facts(changed("pg2", database_limit=0))) == [(PROBLEM, "connections", "pg2")]
    closed = troubles(facts(node("pg2", logins=logins(connection_limit=0))))
    assert closed == [(PROBLEM, "connections", "pg2")] * 2


def test_one_user_for_both_has_both_pools() -> None:
    login = [
        Login("app", purpose, None, 1, session(purpose, connection_limit=20)) for purpose in Purpose
    ]
    seen = facts(node("pg1", logins=tuple(login)))
    seen = replace(seen, settings=settings(write_user="app", read_user=""))
    assert [f.says for f in findings(seen, "connections") if f.verdict is PROBLEM] == [
        "the role app may have 20 connections, full pools want 21"
    ]


def test_processes_multiply_the_pools() -> None:
    assert troubles(facts(), Limits(processes=4)) == []
    assert {check for _, check, _ in troubles(facts(), Limits(processes=5))} == {"connections"}


# Partitions


def test_partitions() -> None:
    good = PartitionedTable("a", 4, 32)
    unknown = PartitionedTable("b", uncomputable="the leaf of b is not computed")
    assert troubles(facts(partitions=(good, unknown))) == []
    assert [each.says for each in findings(facts(partitions=(good, unknown)), "partitions")] == [
        "a: 32 computed keys lie where they should",
        "the leaf of b is not computed; rows go through the parent",
    ]
    wrong = PartitionedTable("c", mismatch="the server does not put 1 into c_1")
    assert troubles(facts(partitions=(good, wrong))) == [(PROBLEM, "partitions", None)]
    strange = PartitionedTable("d", failure="not a partition bound that pgroute can read: x")
    assert troubles(facts(partitions=(strange, good))) == [(WARNING, "partitions", None)]
    empty, unmet = PartitionedTable("e"), PartitionedTable("f", 2, 0)
    assert [each.says for each in findings(facts(partitions=(empty, unmet)), "partitions")] == [
        "e has no partitions yet",
        "f: not one key was found for its 2 leaves, so nothing was compared",
    ]
    assert troubles(facts(partitions=(empty, unmet))) == [(WARNING, "partitions", None)]
    assert troubles(facts(partitions_failure="pg1: gone")) == [(WARNING, "partitions", None)]
