"""Routing over real servers that are all well."""

from __future__ import annotations

import threading
import time
from collections import Counter

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import ReadOnlySqlTransaction

from pgroute import (
    ForeignToken,
    NodeUnavailable,
    Role,
    Router,
    Settings,
    Token,
    TokenNotReached,
    new_key,
)
from tests.servers import Servers, eventually, port, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration


def count(connection: psycopg.Connection[tuple[int]], name: str) -> int:
    row = connection.execute(
        "select count(*) from tbl_users where first_name = %s", (name,)
    ).fetchone()
    assert row is not None
    return row[0]


def write(router: Router, name: str) -> None:
    with router.write() as connection:
        connection.execute("insert into tbl_users values (%s, %s)", (new_key(), name))


def test_topology_is_what_the_servers_say(router: Router) -> None:
    assert router.topology.primary == "pg1"
    assert router.topology.replicas == ("pg2", "pg3")
    assert {state.timeline for state in router.topology.nodes} == {1}
    assert all(state.lag_bytes is not None for state in router.topology.nodes)


def test_write_goes_to_the_primary_and_commits(router: Router) -> None:
    with router.write() as connection:
        assert connection.node == "pg1"
        connection.execute("insert into tbl_users values (%s, 'routing')", (new_key(),))
    with router.read(node="pg1") as connection:
        assert count(connection, "routing") == 1


def test_write_is_rolled_back_when_the_block_raises(router: Router) -> None:
    with pytest.raises(ZeroDivisionError), router.write() as connection:  # noqa: PT012
        connection.execute("insert into tbl_users values (%s, 'undone')", (new_key(),))
        raise ZeroDivisionError
    with router.read(node="pg1") as connection:
        assert count(connection, "undone") == 0


@pytest.mark.parametrize("front", FRONTS)
def test_a_block_is_one_transaction_on_a_connection_that_served_single_statements(
    servers: Servers, front: str
) -> None:
    insert = "insert into tbl_users values (%s, %s)"
    with opened(front, servers.settings(pool_max_size=1)) as router:
        pids = set()
        for turn in range(2):
            for _ in range(2):  # first the connection is looked for, then it is at hand
                router.execute(insert, (new_key(), f"{front} single {turn}"))
            for _ in range(2):
                with pytest.raises(ZeroDivisionError), router.write() as connection:  # noqa: PT012
                    connection.execute(insert, (new_key(), f"{front} undone {turn}"))
                    raise ZeroDivisionError
                with router.write() as connection:
                    pids.add(connection.execute("select pg_backend_pid()").fetchone()[0])
                    connection.execute(insert, (new_key(), f"{front} block {turn}"))
        assert len(pids) == 1
    with Router(servers.settings()) as router, router.read(node="pg1") as connection:
        for turn in range(2):
            kinds = ("single", "undone", "block")
            assert [count(connection, f"{front} {what} {turn}") for what in kinds] == [2, 0, 2]


def test_reads_take_turns_over_the_replicas(router: Router) -> None:
    def nodes() -> list[str]:
        seen = []
        for _ in range(4):
            with router.read() as connection:
                seen.append(connection.node)
        return sorted(seen)

    # One that was too slow at first warms up, and has a smaller share for some seconds.
    eventually(lambda: nodes() == ["pg2", "pg2", "pg3", "pg3"], what="each has its turn")


def test_reads_and_writes_use_their_own_roles(router: Router) -> None:
    with router.read() as connection:
        assert connection.execute("select current_user").fetchone() == ("app_ro",)
    with router.write() as connection:
        assert connection.execute("select current_user").fetchone() == ("app_rw",)


def test_read_connection_refuses_writes_even_on_the_primary(servers: Servers) -> None:
    with (
        Router(servers.settings(read_user="app_rw")) as router,
        router.read(node="pg1") as connection,
        pytest.raises(ReadOnlySqlTransaction) as raised,
    ):
        connection.execute("insert into tbl_users values (%s, 'no')", (new_key(),))
    assert connection.node == "pg1"
    assert "25006" in str(raised.value.sqlstate)


def test_reads_your_writes_with_a_token(router: Router) -> None:
    stale = 0
    for turn in range(200):
        write(router, f"token {turn}")
        token = Token.parse(str(router.token()))
        with router.read(after=token, token_timeout=60) as connection:
            assert connection.node != "pg1"
            stale += count(connection, f"token {turn}") != 1
    assert stale == 0


def test_token_beyond_the_deadline_goes_to_the_primary(servers: Servers, router: Router) -> None:
    for name in ("pg2", "pg3"):
        servers.sql(name, "select pg_wal_replay_pause()")
    try:
        write(router, "late")
        token = router.settle(router.token())
        with router.read(after=token, token_timeout=0.1) as connection:
            assert connection.node == "pg1"
            assert count(connection, "late") == 1
        with (
            pytest.raises(TokenNotReached, match="pg2 has replayed"),
            router.read(node="pg2", after=token, token_timeout=0.1),
        ):
            pass
    finally:
        for name in ("pg2", "pg3"):
            servers.sql(name, "select pg_wal_replay_resume()")


def test_token_of_another_cluster_is_refused(router: Router) -> None:
    with pytest.raises(ForeignToken), router.read(after=Token(1, 1, 0)):
        pass


def test_replica_behind_the_limit_is_not_read(servers: Servers) -> None:
    with Router(servers.settings(max_lag_bytes=100_000)) as router:
        eventually(lambda: whole(router), what="two healthy replicas")
        servers.sql("pg2", "select pg_wal_replay_pause()")
        try:
            servers.sql("pg1", "select pg_logical_emit_message(false, 'x', repeat('x', 200000))")
            eventually(lambda: router.topology.replicas == ("pg3",), what="pg2 found lagging")
        finally:
            servers.sql("pg2", "select pg_wal_replay_resume()")
        eventually(lambda: whole(router), what="pg2 caught up")


def test_dsn_with_several_hosts_finds_the_primary(servers: Servers) -> None:
    ports = ",".join(str(port(name)) for name in ("pg3", "pg2", "pg1"))
    settings = Settings.from_dsn(
        f"postgresql://app_rw@127.0.0.1,127.0.0.1,127.0.0.1:{port('pg1')}/app".replace(
            f":{port('pg1')}", ""
        )
        + f"?port={ports}",
        passfile=servers.passfile,
    )
    with Router(settings) as router, router.write() as connection:
        assert connection.node == f"127.0.0.1:{port('pg1')}"


def test_unknown_node_is_refused(router: Router) -> None:
    with pytest.raises(NodeUnavailable, match="there is no node pg9"), router.read(node="pg9"):
        pass


def test_wrong_password_is_said_in_one_line(servers: Servers) -> None:
    passfile = servers.passfile.with_name("wrong")
    passfile.touch(mode=0o600)
    passfile.write_text("*:*:app:app_rw:wrong\n*:*:app:app_ro:ro-for-tests\n")
    settings = servers.settings(passfile=passfile, checkout_timeout_seconds=5)
    with (
        Router(settings) as router,
        pytest.raises(NodeUnavailable, match=r"pg1: .*password authentication failed"),
        router.write(),
    ):
        pass


def test_exhausted_pool_is_said_with_its_limit(servers: Servers) -> None:
    settings = servers.settings(pool_max_size=1, checkout_timeout_seconds=5)
    with (
        Router(settings) as router,
        router.write(),
        pytest.raises(NodeUnavailable, match=r"pg1: no free connection within .*1 at most"),
        router.write(),
    ):
        pass


def test_close_gives_every_connection_back(servers: Servers) -> None:
    with Router(servers.settings(application_name="closing")) as router:
        write(router, "closing")
        with router.read():
            pass
    query = "select count(*) from pg_stat_activity where application_name = 'closing'"
    for name in ("pg1", "pg2", "pg3"):
        eventually(lambda name=name: servers.sql(name, query) == "0", what=f"{name} is let go")


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("purpose", ["read", "write"])
def test_a_connection_that_never_rests_is_replaced_at_the_end_of_its_life(
    servers: Servers, front: str, purpose: str
) -> None:
    with opened(front, servers.settings(pool_lifetime_seconds=2)) as router:
        sessions: set[tuple[str, int]] = set()

        def replaced() -> bool:
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                statement = "select pg_backend_pid()" + (" for update" * (purpose == "write"))
                found = router.execute(statement)
                sessions.add((found.node, found.scalar()))
            return any(Counter(node for node, _ in sessions)[node] > 1 for node in ("pg1", "pg2"))

        eventually(replaced, what="another session serves the same node")


@pytest.mark.parametrize("front", FRONTS)
def test_statements_that_are_no_str_find_their_server(front: str, servers: Servers) -> None:
    table = sql.Identifier("tbl_users")
    with opened(front, servers.settings()) as router:
        eventually(lambda: whole(router), what="a whole fleet")
        eventually(lambda: not router.statements.due(), what="the catalogue is read")
        for read in (
            b"select count(*) from tbl_users",
            sql.SQL("select count(*) from {}").format(table),
            sql.SQL("select {}, {}").format(sql.Literal("it's \\"), sql.Literal(1)),
        ):
            assert router.execute(read).node in ("pg2", "pg3")
        for write in (b"delete from tbl_users where false", sql.SQL("select txid_current()")):
            assert router.execute(write).node == "pg1"


def test_no_role_is_foreign_or_fenced_here(router: Router) -> None:
    assert {state.role for state in router.topology.nodes} == {Role.PRIMARY, Role.REPLICA}


def test_threads_that_ask_at_once_share_one_round(servers: Servers) -> None:
    silence: dict[str, float] = {"eject_after_seconds": 2, "probe_timeout_seconds": 2}
    with Router(servers.settings(refresh_interval_seconds=30, **silence)) as router:
        servers.signal("pg3", "STOP")
        try:
            started = time.monotonic()
            threads = [threading.Thread(target=router.refresh) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert time.monotonic() - started < 20  # twenty rounds would take 40 s
        finally:
            servers.signal("pg3", "CONT")
        eventually(lambda: router.refresh().primary == "pg1", what="pg1 answers")
