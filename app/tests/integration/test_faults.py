"""Both routers while servers are frozen, killed, promoted and brought back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgroute import (
    DeadlineExceeded,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    Role,
    SplitBrain,
    new_key,
)
from tests.patience import PATIENT, WATCHFUL
from tests.servers import NAMES, Servers, eventually, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def router(servers: Servers, front: str) -> Iterator[Any]:
    with opened(front, servers.settings()) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


@pytest.fixture
def watchful(servers: Servers, front: str) -> Iterator[Any]:
    """A router that misses a frozen server in a moment."""
    with opened(front, servers.settings(**WATCHFUL)) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


def write(router: Any, name: str) -> str:
    with router.write() as connection:
        connection.execute("insert into tbl_users values (%s, %s)", (new_key(), name))
        return str(connection.node)


def read(router: Any) -> str:
    with router.read() as connection:
        connection.execute("select 1")
        return str(connection.node)


def test_frozen_replica_is_left_out(servers: Servers, watchful: Any) -> None:
    servers.signal("pg2", "STOP")
    try:
        eventually(lambda: watchful.topology.replicas == ("pg3",), what="pg2 left out")
        assert "pg2" not in {read(watchful) for _ in range(4)}
    finally:
        servers.signal("pg2", "CONT")
    eventually(lambda: whole(watchful), what="pg2 back")


def test_query_on_a_frozen_server_ends_at_its_deadline(servers: Servers, router: Any) -> None:
    with router.read(node="pg2"):
        pass
    started = time.monotonic()
    try:
        with (  # noqa: PT012
            pytest.raises(DeadlineExceeded, match=r"pg2: not done within 2 s"),
            router.read(node="pg2", timeout=2) as connection,
        ):
            servers.signal("pg2", "STOP")
            connection.execute("select 1")
    finally:
        servers.signal("pg2", "CONT")
    assert time.monotonic() - started < PATIENT["eject_after_seconds"]  # nothing else ended it
    eventually(lambda: whole(router), what="pg2 back")


def test_reads_fall_back_to_the_primary(servers: Servers, router: Any) -> None:
    for name in NAMES[1:]:
        servers.stop(name)
    try:
        eventually(lambda: not router.topology.replicas, what="both replicas gone")
        assert read(router) == "pg1"
    finally:
        for name in NAMES[1:]:
            servers.start(name)
    eventually(lambda: whole(router), what="both replicas back")


def test_replica_that_no_longer_streams_is_not_healthy(servers: Servers, router: Any) -> None:
    conninfo = servers.sql("pg2", "show primary_conninfo").replace("'", "''")
    change = "alter system set primary_conninfo = '{}'; "
    servers.sql("pg2", change.format(""))
    servers.sql("pg2", "select pg_reload_conf()")
    try:
        eventually(lambda: router.topology.replicas == ("pg3",), what="pg2 left out")
        state = router.topology.node("pg2")
        assert state is not None
        assert state.state == "not streaming"
    finally:
        servers.sql("pg2", change.format(conninfo))
        servers.sql("pg2", "select pg_reload_conf()")
    eventually(lambda: whole(router), what="pg2 streaming again")


def test_dead_idle_connections_are_not_handed_out(servers: Servers, router: Any) -> None:
    write(router, "before the restart")
    read(router)
    servers.stop("pg1")
    servers.start("pg1")
    assert write(router, "after the restart") == "pg1"
    eventually(lambda: whole(router), what="replicas stream again")


def test_no_primary_is_said_within_the_deadline(servers: Servers, front: str) -> None:
    with opened(front, servers.settings(checkout_timeout_seconds=2)) as router:
        eventually(lambda: whole(router), what="all well")
        servers.stop("pg1")
        try:
            # At once, either is true: the deadline may pass before the probes miss the server.
            with pytest.raises((NoPrimary, NodeUnavailable), match="pg1"):
                write(router, "nobody")
            eventually(lambda: router.topology.primary is None, what="the primary is missed")
            with pytest.raises(NoPrimary, match="pg1") as raised:
                write(router, "nobody")
            eventually(lambda: not router.topology.replicas, what="lag is unknown")
            assert read(router) in ("pg2", "pg3")  # eventual says nothing of lag
            with pytest.raises(NoReadableNode), router.read("strong"):
                pass
            with pytest.raises(NoReadableNode), router.read(max_lag="1us"):
                pass
        finally:
            servers.start("pg1")
        assert "pg2 is a replica" in str(raised.value)
        eventually(lambda: whole(router), what="all well again")


def test_writes_follow_a_promotion_and_never_return(expendable: Servers, front: str) -> None:
    servers = expendable
    with opened(front, servers.settings()) as router:
        eventually(lambda: whole(router), what="all well")
        assert write(router, "timeline 1") == "pg1"
        servers.stop("pg1")
        servers.sql("pg2", "select pg_promote()")
        assert write(router, "timeline 2") == "pg2"

        servers.start("pg1")  # the old primary is back, and writable
        eventually(
            lambda: any(s.role is Role.FENCED for s in router.topology.nodes), what="pg1 fenced"
        )
        assert {write(router, "fenced") for _ in range(20)} == {"pg2"}

        servers.stop("pg2")  # even alone it is not the primary
        eventually(lambda: router.topology.primary is None, what="nobody to write to")
        state = router.topology.node("pg1")
        assert state is not None
        assert state.role is Role.FENCED
        assert (
            servers.sql(
                "pg1", "select count(*) from tbl_users where first_name = 'fenced'", database="app"
            )
            == "0"
        )


def test_two_primaries_on_one_timeline_refuse_writes(expendable: Servers, front: str) -> None:
    servers = expendable
    with opened(front, servers.settings()) as router:
        eventually(lambda: whole(router), what="all well")
        servers.stop("pg1")
        servers.sql("pg2", "select pg_promote()")
        servers.sql("pg3", "select pg_promote()")
        eventually(lambda: bool(router.topology.split), what="the split is seen")
        with pytest.raises(SplitBrain, match="pg2 and pg3 are both writable"):
            write(router, "which one")


def test_stale_write_connection_is_refused_by_its_server_once(
    expendable: Servers, front: str
) -> None:
    """The primary becomes a replica between two polls: the router asks again by itself."""
    servers = expendable
    with opened(front, servers.settings(refresh_interval_seconds=30)) as router:
        eventually(lambda: router.refresh().primary == "pg1", what="all well")
        assert write(router, "before") == "pg1"
        servers.stop("pg1")
        servers.sql("pg2", "select pg_promote()")
        servers.clone("pg1", upstream="pg2")
        assert write(router, "after") == "pg2"


def test_read_outlasts_a_moment_in_which_nobody_answers(servers: Servers, front: str) -> None:
    settings = servers.settings(token_timeout_seconds=120, checkout_timeout_seconds=120, **WATCHFUL)
    with opened(front, settings) as router:
        eventually(lambda: whole(router), what="all well")
        with ThreadPoolExecutor(1) as helper:
            for name in NAMES:
                servers.signal(name, "STOP")
            try:
                eventually(lambda: router.topology.primary is None, what="the primary is missed")
                reading = helper.submit(read, router)
                eventually(lambda: reading.running() or reading.done(), what="the read begins")
            finally:
                for name in NAMES:
                    servers.signal(name, "CONT")
            assert reading.result(120) in NAMES
        eventually(lambda: whole(router), what="all well again")
