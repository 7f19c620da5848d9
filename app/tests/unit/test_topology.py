"""The routing decision: no server, only what servers might say."""

from __future__ import annotations

import pytest

from pgroute.core.topology import Answer, Fence, Observation, Role, Silence, Topology, decide

MIB = 1024 * 1024
NOTHING_SEEN = Fence()
CLUSTER = 7_000_000_000_000_000_001


def writable(node: str, *, timeline: int = 1, cluster: int = CLUSTER, at: int = 1000) -> Answer:
    return Answer(node, False, timeline, cluster, at, False)


def standby(
    node: str,
    *,
    timeline: int = 1,
    cluster: int = CLUSTER,
    at: int | None = 1000,
    receiving: bool = True,
) -> Answer:
    return Answer(node, True, timeline, cluster, at, receiving)


def topology(*seen: Observation, fence: Fence = NOTHING_SEEN, max_lag_bytes: int = MIB) -> Topology:
    return decide(seen, fence=fence, max_lag_bytes=max_lag_bytes)


def test_the_writable_server_is_the_primary() -> None:
    found = topology(standby("pg1"), writable("pg2"), standby("pg3"))
    assert (found.primary, found.replicas, found.problem) == ("pg2", ("pg1", "pg3"), None)
    assert found.fence == Fence(CLUSTER, 1)


def test_of_two_writable_servers_the_higher_timeline_wins() -> None:
    found = topology(writable("pg1", timeline=1, at=9_000_000), writable("pg2", timeline=2))
    assert found.primary == "pg2"
    old = found.node("pg1")
    assert old is not None
    assert (old.role, old.healthy) == (Role.FENCED, False)


def test_two_writable_servers_on_one_timeline_are_refused_by_name() -> None:
    found = topology(writable("pg1", timeline=3), writable("pg2", timeline=3), standby("pg3"))
    assert (found.primary, found.replicas) == (None, ())
    assert found.split == ("pg1", "pg2")
    assert found.problem is not None
    assert "pg1 and pg2" in found.problem


def test_two_writable_servers_of_different_clusters_are_refused() -> None:
    found = topology(writable("pg1", cluster=1), writable("pg2", cluster=2, timeline=9))
    assert found.primary is None
    assert found.split == ("pg1", "pg2")


def test_a_known_cluster_shuts_out_a_foreign_primary() -> None:
    found = topology(writable("pg1"), writable("pg2", cluster=2, timeline=9), fence=Fence(CLUSTER))
    assert found.primary == "pg1"
    foreign = found.node("pg2")
    assert foreign is not None
    assert foreign.role is Role.FOREIGN


def test_an_old_primary_alone_is_not_written_to() -> None:
    found = topology(writable("pg1", timeline=1), Silence("pg2", "gone"), fence=Fence(CLUSTER, 2))
    assert found.primary is None
    assert found.fence == Fence(CLUSTER, 2)


def test_a_standby_of_a_newer_timeline_fences_the_old_primary() -> None:
    assert topology(writable("pg1", timeline=1), standby("pg2", timeline=2)).primary is None


def test_a_foreign_standby_raises_no_fence() -> None:
    found = topology(writable("pg1"), standby("pg2", timeline=9, cluster=2))
    assert (found.primary, found.fence) == ("pg1", Fence(CLUSTER, 1))
    assert found.replicas == ()


@pytest.mark.parametrize(
    ("replica", "state"),
    [
        (standby("pg2", receiving=False), "not streaming"),
        (standby("pg2", at=None), "streaming, lag unknown"),
        (standby("pg2", at=0), "lags more than 500 bytes"),
        (Silence("pg2", "connection refused"), "connection refused"),
    ],
)
def test_what_is_not_known_to_be_well_is_not_healthy(replica: Observation, state: str) -> None:
    found = topology(writable("pg1"), replica, max_lag_bytes=500)
    seen = found.node("pg2")
    assert seen is not None
    assert (found.replicas, seen.healthy, seen.state) == ((), False, state)


def test_a_replica_at_the_limit_is_healthy() -> None:
    found = topology(writable("pg1", at=1000), standby("pg2", at=500), max_lag_bytes=500)
    seen = found.node("pg2")
    assert seen is not None
    assert (seen.healthy, seen.lag_bytes) == (True, 500)


def test_a_replica_asked_after_the_primary_has_no_negative_lag() -> None:
    seen = topology(writable("pg1", at=1000), standby("pg2", at=1500)).node("pg2")
    assert seen is not None
    assert seen.lag_bytes == 0


def test_without_a_primary_lag_is_unknown_and_nothing_is_healthy() -> None:
    found = topology(Silence("pg1", "frozen"), standby("pg2"), fence=Fence(CLUSTER, 1))
    assert (found.primary, found.replicas) == (None, ())
    assert found.problem == (
        "no writable server: pg1: frozen; pg2 is a replica (streaming, lag unknown)"
    )


def test_a_replica_that_may_follow_the_old_primary_is_not_read() -> None:
    found = topology(writable("pg1", timeline=1), writable("pg2", timeline=2), standby("pg3"))
    assert found.replicas == ()


def test_standbys_alone_pin_no_cluster() -> None:
    assert topology(standby("pg1", cluster=2, timeline=5)).fence == NOTHING_SEEN
