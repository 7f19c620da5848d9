"""What each read is promised, over real servers, by both routers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgroute import (
    ContractNotMet,
    ForeignToken,
    Token,
    TokenNotReached,
    TokenUnproven,
    UnknownContract,
    new_key,
)
from tests.servers import Servers, eventually, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration

INSERT = "insert into tbl_users values (%s, %s)"
COUNT = "select count(*) from tbl_users where id = %s"


@pytest.fixture(params=FRONTS)
def router(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Any]:
    with opened(request.param, servers.settings()) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


@contextmanager
def paused(servers: Servers, *nodes: str) -> Iterator[None]:
    """Replicas that receive the log and do not replay it."""
    for node in nodes:
        servers.sql(node, "select pg_wal_replay_pause()")
        eventually(
            lambda node=node: (
                servers.sql(node, "select pg_get_wal_replay_pause_state()") == "paused"
            ),
            what=f"{node} paused",
        )
    try:
        yield
    finally:
        for node in nodes:
            servers.sql(node, "select pg_wal_replay_resume()")


def write(router: Any) -> Any:
    key = new_key()
    with router.write() as connection:
        connection.execute(INSERT, (key, "somebody"))
    return key


def found(connection: Any, key: Any) -> bool:
    return bool(connection.execute(COUNT, (key,)).fetchone()[0])


def reads_are_known(router: Any) -> None:
    eventually(lambda: router.execute(COUNT, (new_key(),)).node != "pg1", what="reads are known")


def nodes_of(read: Any, *arguments: Any, **options: Any) -> set[str]:
    """Where four reads go."""
    nodes = set()
    for _ in range(4):
        found = read(*arguments, **options)
        if hasattr(found, "__enter__"):
            with found as connection:
                nodes.add(connection.node)
        else:
            nodes.add(found.node)
    return nodes


def test_a_read_after_a_token_is_never_stale(router: Any) -> None:
    stale = elsewhere = 0
    for turn in range(1500):
        key = write(router)
        token = router.token()
        if turn % 3 == 0:
            time.sleep(0.02)  # as between two requests of one user
        with router.read(after=token, wait=turn % 3 == 1) as connection:
            stale += not found(connection, key)
            elsewhere += connection.node != "pg1"
    assert stale == 0
    assert elsewhere > 50  # it is not the primary that makes it so


def test_a_token_travels_as_text(router: Any) -> None:
    key = write(router)
    text = router.settle(router.token()).text
    with router.read(after=Token.parse(text), wait=True, token_timeout=60) as connection:
        assert connection.node != "pg1"
        assert found(connection, key)


def test_a_statement_may_follow_a_token_too(router: Any) -> None:
    reads_are_known(router)
    nodes = Counter[str]()
    for turn in range(600):
        key = write(router)
        token = router.token()
        if turn % 3 == 0:
            time.sleep(0.02)  # as between two requests of one user
        otherwise = "wait" if turn % 3 == 1 else "primary"
        result = router.execute(COUNT, (key,), after=token, otherwise=otherwise)
        assert result.scalar() == 1
        nodes[result.node] += 1
    assert nodes["pg2"] + nodes["pg3"] > 50


def test_nobody_who_lags_serves_a_token(servers: Servers, router: Any) -> None:
    early = router.settle(router.token())
    reads_are_known(router)
    assert nodes_of(router.read) == {"pg2", "pg3"}  # both have idle connections
    with paused(servers, "pg2", "pg3"):
        assert nodes_of(router.read, after=early) == {"pg2", "pg3"}
        key = write(router)
        token = router.settle(router.token())
        with router.read(after=token, wait=True, token_timeout=0.2) as connection:
            assert connection.node == "pg1"
            assert found(connection, key)
        assert nodes_of(router.read, after=token) == {"pg1"}
        assert nodes_of(router.execute, COUNT, (key,), after=token) == {"pg1"}
        with (
            pytest.raises(ContractNotMet),
            router.read(after=token, otherwise="raise", token_timeout=0.2),
        ):
            pass
        with (
            pytest.raises(TokenNotReached, match="pg2 has replayed"),
            router.read(node="pg2", after=token, token_timeout=0.2),
        ):
            pass


def test_data_that_may_be_older_are_not_read(servers: Servers, router: Any) -> None:
    def from_a_replica() -> bool:
        with router.read(max_lag="30s") as connection:
            return bool(connection.node != "pg1")

    eventually(from_a_replica, what="a replica is known to be that fresh")
    with paused(servers, "pg2", "pg3"):
        key = write(router)
        time.sleep(0.3)
        with router.read(max_lag="200ms") as connection:
            assert connection.node == "pg1"
            assert found(connection, key)
        with router.read(max_lag=0) as connection:
            assert connection.node == "pg1"
    eventually(
        lambda: router.execute("select 1", max_lag="200ms").rows == [(1,)], what="reads go on"
    )


def test_a_session_reads_its_writes_and_never_goes_back(servers: Servers, router: Any) -> None:
    with paused(servers, "pg2"), router.session() as session:
        seen = 0
        for turn in range(60):
            with session.write() as connection:
                connection.execute(INSERT, (new_key(), "session"))
            for _ in range(3):
                with session.read() as connection:
                    (count,) = connection.execute(
                        "select count(*) from tbl_users where first_name = 'session'"
                    ).fetchone()
                assert count >= seen, f"{connection.node} went back"
                seen = count
            if turn % 2:
                time.sleep(0.01)


def test_a_session_stays_where_it_has_read(servers: Servers, router: Any) -> None:
    """One that only reads does not see another's write and then lose it."""
    with paused(servers, "pg2"):
        key = write(router)
        eventually(
            lambda: servers.sql(
                "pg3", f"select 1 from tbl_users where id = '{key}'", database="app"
            ),
            what="pg3 has it",
        )
        for _ in range(50):
            with router.session() as session:
                seen = False
                for _ in range(6):
                    with session.read() as connection:
                        now = found(connection, key)
                    assert now or not seen, f"{connection.node} went back"
                    seen = now


def test_a_session_goes_on_elsewhere(router: Any) -> None:
    with router.session() as session:
        with session.write() as connection:
            key = new_key()
            connection.execute(INSERT, (key, "moved"))
        text = str(session.token())
    with (
        router.session(Token.parse(text)) as session,
        session.read(wait=True, token_timeout=60) as connection,
    ):
        assert found(connection, key)


def test_strong_is_the_primary(router: Any) -> None:
    with router.read("strong") as connection:
        assert connection.node == "pg1"
        assert connection.execute("show transaction_read_only").fetchone() == ("on",)
    assert router.execute("select 1", contract="strong").node == "pg1"


def test_bad_words_are_refused_before_anything_is_asked(router: Any) -> None:
    with pytest.raises(UnknownContract):
        router.read("fresh")
    with pytest.raises(UnknownContract):
        router.read(max_lag="-1s")
    with pytest.raises(ForeignToken), router.read(after=Token(1, 1, 1)):
        pass


@pytest.mark.parametrize("front", FRONTS)
def test_a_token_that_a_failover_may_have_lost_is_not_proven(
    expendable: Servers, front: str
) -> None:
    servers = expendable
    with opened(front, servers.settings()) as router:
        eventually(lambda: whole(router), what="all well")
        before = router.settle(router.token())
        eventually(
            lambda: all(router.fleet.ledger.holds(name, before) for name in ("pg2", "pg3")),
            what="the replicas are known to have it",
        )
        with paused(servers, "pg2", "pg3"):
            write(router)
            lost = router.settle(router.token())
            servers.stop("pg1")
        # Resumed without a primary to receive from: what pg2 has received it replays.
        servers.sql("pg2", "select pg_promote()")
        eventually(lambda: router.topology.primary == "pg2", what="pg2 is the primary")
        beyond = Token(lost.system_identifier, lost.timeline, lost.position + (1 << 30))
        with pytest.raises(TokenUnproven), router.read(after=beyond):
            pass
        with router.read(after=before, wait=True) as connection:
            assert connection.node in ("pg2", "pg3")
