"""The router's choices and deadlines: its servers, pools and clock are played by the test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg.errors import ReadOnlySqlTransaction, UniqueViolation
from psycopg_pool import PoolTimeout

from pgroute import (
    Fault,
    ForeignToken,
    NodeConnection,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    Reason,
    Role,
    Router,
    RouterClosed,
    Settings,
    SplitBrain,
    Token,
    TokenNotReached,
)
from pgroute.observer import Silent
from pgroute.pool import NodePool
from pgroute.topology import Answer, Observation, Silence, Topology, decide

PRIMARY = Answer("pg1", False, 1, 7, 1000, False)
REPLICA_2 = Answer("pg2", True, 1, 7, 1000, True)
REPLICA_3 = Answer("pg3", True, 1, 7, 1000, True)
ALL_WELL: tuple[Observation, ...] = (PRIMARY, REPLICA_2, REPLICA_3)
TOKEN = Token(7, 1, 1000)


@dataclass
class Clock:
    """Time that passes only while somebody sleeps."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += max(seconds, 0.001)


@dataclass
class Connection:
    """What the router uses of a connection."""

    node: str
    is_standby: bool = False
    closed: bool = False
    in_recovery: bool = True
    replayed: list[str] = field(default_factory=lambda: ["0/3E8"])
    done: list[str] = field(default_factory=list)
    pgconn: Any = field(default_factory=lambda: SimpleNamespace(transaction_status=2))

    def commit(self) -> None:
        self.done.append("commit")

    def rollback(self) -> None:
        self.done.append("rollback")

    def cut(self) -> None:
        self.done.append("cut")

    def execute(self, _: str) -> Any:
        position = self.replayed.pop(0) if len(self.replayed) > 1 else self.replayed[0]
        return SimpleNamespace(fetchone=lambda: (self.in_recovery, position))


@dataclass
class Pool:
    """A pool of one connection, or of none."""

    node: str
    read_only: bool
    connection: Connection | None
    returned: list[Connection] = field(default_factory=list)

    def take(self, timeout: float) -> Connection:
        assert timeout >= 0
        if self.connection is None:
            raise PoolTimeout
        return self.connection

    def give_back(self, connection: Connection) -> None:
        self.returned.append(connection)

    discard = give_back

    def why_no_connection(self, timeout: float) -> str:
        return f"nothing within {timeout:g} s"


@dataclass
class Noted(Silent):
    """An observer that remembers."""

    routes: list[tuple[str, Role, Reason]] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        self.routes.append((node, role, reason))

    def failed(self, node: str, fault: Fault) -> None:
        self.faults.append((node, fault))


class Staged(Router):
    """A router whose servers answer what is next on the list; the last answer stays."""

    def __init__(self, *rounds: tuple[Observation, ...]) -> None:
        self.clock = Clock()
        self.noted = Noted()
        super().__init__(
            Settings.make(nodes="pg1=h:1,pg2=h:2,pg3=h:3", database="app", write_user="app"),
            observer=self.noted,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.rounds = list(rounds)
        self.asked = 0
        self.played = {
            (name, read_only): Pool(name, read_only, Connection(name))
            for name in ("pg1", "pg2", "pg3")
            for read_only in (False, True)
        }
        self.refresh()

    def refresh(self) -> Topology:
        self.asked += 1
        self._suspicious = False
        seen = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        self._topology = decide(seen, fence=self._topology.fence, max_lag_bytes=100)
        return self._topology

    def _require_open(self) -> None:
        return

    def _pool(self, name: str, read_only: bool) -> NodePool:
        return cast(NodePool, self.played[name, read_only])

    def watch_once(self) -> None:
        self._cut_overdue()


def node_of(lease: AbstractContextManager[NodeConnection]) -> str:
    with lease as connection:
        return connection.node


def test_a_router_that_is_not_open_says_so() -> None:
    router = Router(Settings.make(nodes="h", database="app", write_user="app"))
    for call in (router.write, router.read):
        with pytest.raises(RouterClosed):
            node_of(call())


def test_write_commits_and_gives_the_connection_back() -> None:
    router = Staged(ALL_WELL)
    assert node_of(router.write()) == "pg1"
    pool = router.played["pg1", False]
    assert pool.connection is not None
    assert (pool.connection.done, pool.returned) == (["commit"], [pool.connection])
    assert router.noted.routes == [("pg1", Role.PRIMARY, Reason.WRITE)]


def test_write_waits_for_a_primary() -> None:
    nobody = (Silence("pg1", "gone"), REPLICA_2, REPLICA_3)
    router = Staged(nobody, nobody, nobody, ALL_WELL)
    assert node_of(router.write()) == "pg1"
    assert router.asked == 4


def test_write_without_a_primary_ends_at_its_deadline() -> None:
    router = Staged((Silence("pg1", "gone"), REPLICA_2))
    started = router.clock.now
    with pytest.raises(NoPrimary, match=r"pg1: gone.*\(waited 5 s\)"):
        node_of(router.write())
    assert 5.0 <= router.clock.now - started < 5.1


def test_split_brain_is_refused_at_once() -> None:
    router = Staged((PRIMARY, Answer("pg2", False, 1, 7, 900, False)))
    started = router.clock.now
    with pytest.raises(SplitBrain, match="pg1 and pg2 are both writable"):
        node_of(router.write())
    assert router.clock.now == started


def test_write_connection_to_a_standby_is_not_used() -> None:
    promoted = (Answer("pg1", True, 1, 7, 1, True), Answer("pg2", False, 2, 7, 1000, False))
    router = Staged(ALL_WELL, promoted)
    router.played["pg1", False].connection = Connection("pg1", is_standby=True)
    assert node_of(router.write()) == "pg2"
    assert router.noted.faults == [("pg1", Fault.READ_ONLY)]


def test_read_tries_the_next_replica_then_the_primary() -> None:
    router = Staged(ALL_WELL)
    router.played["pg2", True].connection = None
    assert {node_of(router.read()) for _ in range(4)} == {"pg3"}
    router.played["pg3", True].connection = None
    assert node_of(router.read()) == "pg1"
    assert router.noted.routes[-1] == ("pg1", Role.PRIMARY, Reason.NO_HEALTHY_REPLICA)


def test_read_with_nobody_left_says_why() -> None:
    router = Staged(tuple(Silence(node, "gone") for node in ("pg1", "pg2", "pg3")))
    with pytest.raises(NoReadableNode, match=r"no healthy replica, and no primary: .*pg2: gone"):
        node_of(router.read())


def test_read_after_a_token_waits_for_replay() -> None:
    router = Staged((PRIMARY, REPLICA_2))
    router.played["pg2", True].connection = Connection("pg2", replayed=["0/1", "0/3E7", "0/3E8"])
    assert node_of(router.read(after=TOKEN)) == "pg2"
    assert router.noted.routes == [("pg2", Role.REPLICA, Reason.AFTER_TOKEN)]


def test_read_after_a_token_goes_to_the_primary_at_its_deadline() -> None:
    router = Staged(ALL_WELL)
    for node in ("pg2", "pg3"):
        router.played[node, True].connection = Connection(node, replayed=["0/3E7"])
    started = router.clock.now
    assert node_of(router.read(after=TOKEN, token_timeout=0.5)) == "pg1"
    assert 0.5 <= router.clock.now - started < 0.55
    assert router.noted.routes[-1] == ("pg1", Role.PRIMARY, Reason.TOKEN_NOT_REACHED)
    assert router.played["pg2", True].returned


def test_a_replica_that_was_promoted_meanwhile_does_not_answer_for_a_token() -> None:
    router = Staged((PRIMARY, REPLICA_2))
    router.played["pg2", True].connection = Connection("pg2", in_recovery=False)
    assert node_of(router.read(after=TOKEN)) == "pg1"
    with pytest.raises(TokenNotReached, match="pg2 is no replica any more"):
        node_of(router.read(node="pg2", after=TOKEN))


def test_token_of_a_newer_timeline_is_not_read_from_an_older_one() -> None:
    router = Staged(ALL_WELL)
    with pytest.raises(TokenNotReached, match="not known to follow timeline 2"):
        node_of(router.read(node="pg2", after=Token(7, 2, 1)))
    assert node_of(router.read(after=Token(7, 2, 1))) == "pg1"


def test_token_of_another_cluster_is_refused() -> None:
    with pytest.raises(ForeignToken, match="cluster 8, this one is 7"):
        node_of(Staged(ALL_WELL).read(after=Token(8, 1, 1)))


@pytest.mark.parametrize(
    ("make", "lost", "fault"),
    [
        (ReadOnlySqlTransaction, False, Fault.READ_ONLY),
        (psycopg.OperationalError, True, Fault.CONNECTION_LOST),
    ],
)
def test_a_telling_error_makes_the_router_ask_again(
    make: Callable[[str], Exception], lost: bool, fault: Fault
) -> None:
    router = Staged(ALL_WELL)
    connection = router.played["pg1", False].connection
    assert connection is not None
    with pytest.raises(psycopg.Error) as raised, router.write():  # noqa: PT012
        connection.closed = lost
        raise make("refused")
    assert raised.value.__notes__ == ["pgroute: on node pg1"]
    assert connection.done == ["rollback"]
    assert router.noted.faults == [("pg1", fault)]
    asked = router.asked
    connection.closed = False
    node_of(router.write())
    assert router.asked == asked + 1


def test_an_error_of_the_statement_itself_changes_nothing() -> None:
    router = Staged(ALL_WELL)
    with pytest.raises(UniqueViolation), router.write():
        raise UniqueViolation("twice")
    node_of(router.write())
    assert (router.asked, router.noted.faults) == (1, [])


def test_a_block_that_outlives_its_timeout_is_cut_once() -> None:
    router = Staged(ALL_WELL)
    connection = router.played["pg1", False].connection
    assert connection is not None
    with router.write(timeout=2):
        router.clock.sleep(1.9)
        router.watch_once()
        assert connection.done == []
        router.clock.sleep(0.2)
        router.watch_once()
        router.watch_once()
        assert connection.done == ["cut"]
    assert router.noted.faults == [("pg1", Fault.OVERDUE)]


def test_a_named_node_that_gives_nothing_is_no_reason_to_ask_another() -> None:
    router = Staged(ALL_WELL)
    router.played["pg2", True].connection = None
    with pytest.raises(NodeUnavailable, match="pg2: nothing within 3 s"):
        node_of(router.read(node="pg2"))
