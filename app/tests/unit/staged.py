"""A router without servers: a test says what they answer, and time passes when somebody waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import Random
from threading import Lock
from types import SimpleNamespace
from typing import Any, cast

from psycopg_pool import PoolTimeout

from pgroute import Role, Router, Settings
from pgroute.core.topology import Answer, Observation, Silence
from pgroute.observing.observer import Doubt, Fault, Purpose, Reason, Silent
from pgroute.routing.commit import Commit
from pgroute.routing.connections import OwnCommit
from pgroute.routing.lease import Front
from pgroute.routing.pool import NodePool

IDLE, ACTIVE, IN_TRANSACTION, FAILED, LOST = range(5)

PRIMARY = Answer("pg1", False, 1, 7, 1000, False)
REPLICA_2 = Answer("pg2", True, 1, 7, 1000, True)
REPLICA_3 = Answer("pg3", True, 1, 7, 1000, True)
ALL_WELL: tuple[Observation, ...] = (PRIMARY, REPLICA_2, REPLICA_3)


@dataclass
class Clock:
    """Time that passes only while somebody waits."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += max(seconds, 0.001)


class Settled:
    """What psycopg keeps of whatever is open on a connection: nothing here."""

    _num_transactions = 0
    _pipeline: Any = None
    _tpc: Any = None
    lock = Lock()  # of nobody
    autocommit: bool

    @property
    def _autocommit(self) -> bool:
        return self.autocommit


@dataclass(eq=False)
class Connection(Settled):
    """What the router uses of a connection. ``answers``: results or errors of its statements."""

    node: str
    is_standby: bool = False
    was_promoted: bool = False
    own_commit: OwnCommit = OwnCommit.NONE
    answers: deque[Any] = field(default_factory=deque)
    on_commit: Callable[[Commit], None] | None = None
    done: list[str] = field(default_factory=list)
    pgconn: Any = field(default_factory=lambda: SimpleNamespace(transaction_status=IDLE))
    route: Any = None
    autocommit: bool = False
    untidy: bool = False
    left_open: str = ""
    epoch: int = 0
    used_at: float = 0.0
    expires_at: float = float("inf")
    closed: bool = False

    def status(self, status: int) -> None:
        self.pgconn.transaction_status = status

    def forget_answer(self) -> None:
        self.done.append("forget")

    def is_alive(self) -> bool:
        return True

    def end(self, commit: Commit) -> None:
        self.done.append("commit")
        commit.sent = True
        if self.on_commit is not None:
            self.on_commit(commit)
        self.status(IDLE)

    def rollback(self) -> None:
        self.done.append("rollback")
        self.status(IDLE)

    def cut(self) -> None:
        self.done.append("cut")

    def begin_as(self, isolation: Any, *, explicit: bool) -> None:
        self.done.append("begin")
        self.status(IN_TRANSACTION)

    def commit_each(self, wanted: bool) -> None:
        self.autocommit = wanted

    def execute(self, sql: str, params: Any = None, *, prepare: bool | None = None) -> Any:
        self.done.append(sql)
        answer = self.answers.popleft() if self.answers else [(self.node,)]
        if isinstance(answer, BaseException):
            raise answer
        return SimpleNamespace(fetchall=lambda: answer, rowcount=len(answer))

    def ask(self, sql: str, params: Any = None, prepare: bool | None = None) -> Any:
        rows = self.execute(sql, params, prepare=prepare).fetchall()
        return SimpleNamespace(rows=rows, node=self.node, text=lambda: rows[0][0])


class Pool(Front[Any]):
    """A pool of one connection, or of none."""

    connection: Connection | None
    trouble: Exception | None = None

    def play(self) -> Pool:
        self.connection = Connection(self.node)
        self.returned: list[Connection] = []
        self.discarded: list[Connection] = []
        self.renewed = 0
        return self

    def take(self, limit: float) -> Connection:
        assert limit >= 0
        if self.trouble is not None:
            raise self.trouble
        if self.connection is None:
            self.last_error = "refused"
            raise PoolTimeout
        return self.connection

    def give_back(self, connection: Connection) -> None:
        self.returned.append(connection)

    def discard(self, connection: Connection) -> None:
        self.discarded.append(connection)
        self.connection = Connection(self.node, answers=connection.answers)

    def renew(self) -> None:
        self.renewed += 1

    def warm_up(self, limit: float) -> None:
        return

    def close(self, limit: float) -> None:
        self.closed = True

    def statistics(self) -> dict[str, int]:
        return {}


class Noted(Silent):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.routes: list[tuple[str, Role, Reason]] = []
        self.faults: list[tuple[str, Fault]] = []
        self.retries: list[tuple[str, str]] = []
        self.doubts: list[Doubt] = []
        self.spills: list[tuple[Reason, bool]] = []
        self.misroutes: list[str] = []
        self.refusals: list[tuple[Purpose, str]] = []

    def refused(self, purpose: Purpose, error: Exception) -> None:
        self.refusals.append((purpose, type(error).__name__))

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        self.routes.append((node, role, reason))

    def failed(self, node: str, fault: Fault) -> None:
        self.faults.append((node, fault))

    def retried(self, node: str, action: str, sqlstate: str | None) -> None:
        self.retries.append((node, action))

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        self.doubts.append(outcome)

    def spilled(self, reason: Reason, allowed: bool) -> None:
        self.spills.append((reason, allowed))

    def misrouted(self, node: str, statement: str) -> None:
        self.misroutes.append(node)


class Staged(Router):
    """A router whose servers answer what is next on the list, a round per wait."""

    def __init__(self, *rounds: tuple[Observation, ...], **options: Any) -> None:
        self.time = Clock()
        self.noted = Noted()
        settings = {"nodes": "pg1=h:1,pg2=h:2,pg3=h:3", "database": "app", "write_user": "app"}
        super().__init__(
            Settings.make(**(settings | {"max_lag_bytes": 100} | options)),
            observer=self.noted,
            clock=self.time,
            random=Random(1),
        )
        self.rounds = list(rounds)
        self.asked = 0
        self.opened = True
        self.fleet.in_background = lambda act: act()  # type: ignore[assignment, method-assign]
        self.fleet._trial = self._trial  # type: ignore[method-assign]
        self.fleet.wake = self._count_question  # type: ignore[method-assign]
        self.play()
        self.routes_changed()

    def play(self) -> None:
        """One round of answers; the last round stays."""
        if not self.rounds:
            return
        for seen in self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]:
            if isinstance(seen, Silence):
                self.fleet.fell_silent(seen, lost=False)
            else:
                self.fleet.answered(seen, started_at=self.time.now)
        self.fleet.tick(self.time.now)
        self.fleet.tick(self.time.now)

    def pool(self, name: str, *, writes: bool = False) -> Pool:
        return cast(Pool, self.pools_by_key[name, not writes])

    def connection(self, name: str, *, writes: bool = False) -> Connection:
        connection = self.pool(name, writes=writes).connection
        assert connection is not None
        return connection

    def make_idle(self, name: str, *, autocommit: bool) -> None:
        """Let the pool for writes have an idle connection, last used in this mode."""
        connection = self.connection(name, writes=True)
        connection.autocommit = autocommit
        connection.used_at = self.time.now
        self.pool(name, writes=True).idle.append(connection)

    def _make_pool(self, name: str, read_only: bool) -> NodePool:
        pool = Pool(name, self.settings, read_only=read_only, clock=self.clock)
        return cast(NodePool, pool.play())

    def _trial(self, name: str) -> None:
        self.fleet.breakers[name].trial_succeeded(self.time.now)

    def sweep(self, now: float) -> None:
        return

    def _count_question(self) -> None:
        self.asked += 1

    def do_wait(self, future: Future[None], limit: float) -> bool:
        until = self.time.now + limit
        while not future.done() and self.time.now < until:
            self.time.sleep(min(0.01, until - self.time.now))
            self.play()
        if not future.done():
            future.cancel()
            return False
        future.result()
        return True

    def do_pause(self, seconds: float) -> None:
        self.time.sleep(seconds)
        self.play()


def node_of(lease: AbstractContextManager[Any]) -> str:
    """Where a lease leads."""
    with lease as connection:
        return str(connection.node)
