"""psycopg's connections as the pools lend them: over a libpq that a test makes up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg import IsolationLevel, pq

from pgroute import Settings
from pgroute.routing.async_pool import AsyncNodePool
from pgroute.routing.commit import Commit
from pgroute.routing.connections import AsyncNodeConnection, NodeConnection
from pgroute.routing.pool import NodePool

from .staged import Clock

SETTINGS = Settings.make(
    nodes="h=127.0.0.1:1", database="app", write_user="app", pool_min_size=3, pool_max_size=3
)


class Libpq(SimpleNamespace):
    """A connection of libpq's that is idle until it is ended."""

    def __init__(self) -> None:
        super().__init__(
            status=pq.ConnStatus.OK, transaction_status=pq.TransactionStatus.IDLE, socket=0
        )

    def finish(self) -> None:
        self.status = pq.ConnStatus.BAD
        self.transaction_status = pq.TransactionStatus.UNKNOWN


class Home:
    """The psycopg_pool: notes what comes back to it."""

    def __init__(self) -> None:
        self.returned: list[Any] = []

    def putconn(self, connection: Any) -> None:
        self.returned.append(connection)


class AsyncHome(Home):
    """The same for asyncio."""

    async def putconn(self, connection: Any) -> None:  # type: ignore[override]
        self.returned.append(connection)


def lent_by(pool: Any, count: int = 1) -> list[Any]:
    """Idle connections of ``pool``, used a moment ago and alive."""
    kind: Any = NodeConnection if isinstance(pool, NodePool) else AsyncNodeConnection
    home = Home() if isinstance(pool, NodePool) else AsyncHome()
    made = []
    for _ in range(count):
        connection = kind(Libpq())
        connection._pool = None  # as psycopg_pool says that it is not to warn of it
        connection._autocommit = pool.read_only
        connection._belongs_to(pool, pool.epoch)
        connection.home = home
        connection.is_alive = lambda: True
        made.append(connection)
    pool.idle.extend(made)
    return made


async def cancelled(work: Awaitable[object]) -> None:
    """Let ``work`` come to where it waits, and cancel it there."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_task_cancelled_while_its_connection_is_made_ready_loses_none() -> None:
    async def main() -> None:
        pool = AsyncNodePool("h", SETTINGS, read_only=False)
        (connection,) = lent_by(pool)
        connection._autocommit = True
        async with connection.lock:
            await cancelled(pool.take(1.0))
        assert (connection.closed, connection.home.returned) == (True, [connection])

    asyncio.run(main())


def test_a_task_cancelled_while_it_gives_back_loses_no_connection() -> None:
    async def main() -> None:
        pool = AsyncNodePool("h", SETTINGS, read_only=True)
        (connection,) = lent_by(pool)
        pool.idle.clear()
        connection.untidy = True
        connection.tidy = lambda _: asyncio.sleep(60)
        await cancelled(pool.give_back(connection))
        assert (connection.closed, connection.home.returned) == (True, [connection])

    asyncio.run(main())


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["is_alive", "commit_each"])
def test_a_thread_interrupted_while_it_takes_loses_no_connection(step: str) -> None:
    pool = NodePool("h", SETTINGS, read_only=False)
    (connection,) = lent_by(pool)
    connection.used_at = 0.0
    setattr(connection, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.take(1.0)
    assert (connection.closed, connection.home.returned) == (True, [connection])


def test_a_thread_interrupted_while_it_gives_back_loses_no_connection() -> None:
    pool = NodePool("h", SETTINGS, read_only=True)
    (connection,) = lent_by(pool)
    pool.idle.clear()
    connection.untidy = True
    connection.tidy = interrupt
    with pytest.raises(KeyboardInterrupt):
        pool.give_back(connection)
    assert (connection.closed, connection.home.returned) == (True, [connection])


class Hook:
    """Fails when it is called for the second time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            raise KeyError("mine")

    async def later(self, connection: Any) -> None:
        self(connection)


def test_a_hook_that_fails_while_a_pool_warms_up_loses_no_connection() -> None:
    hook = Hook()
    pool = NodePool("h", SETTINGS, read_only=True, on_return=hook)
    connections = lent_by(pool, 3)
    with pytest.raises(KeyError):
        pool.warm_up(1.0)
    assert (hook.calls, len(pool.idle)) == (3, 2)
    assert [one.closed for one in connections].count(True) == 1


def test_a_hook_that_fails_while_an_asyncio_pool_warms_up_loses_no_connection() -> None:
    hook = Hook()

    async def main() -> None:
        pool = AsyncNodePool("h", SETTINGS, read_only=True, on_return=hook.later)
        connections = lent_by(pool, 3)
        with pytest.raises(KeyError):
            await pool.warm_up(1.0)
        assert (hook.calls, len(pool.idle)) == (3, 2)
        assert [one.closed for one in connections].count(True) == 1

    asyncio.run(main())


def begins(connection: Any) -> tuple[Any, ...]:
    """How the next transaction begins."""
    return connection.isolation_level, connection.read_only, connection.deferrable


CHANGES = [
    ("isolation_level", IsolationLevel.SERIALIZABLE),
    ("read_only", False),
    ("deferrable", False),
]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_how_a_caller_lets_transactions_begin_is_no_other_s(name: str, value: Any) -> None:
    pool = NodePool("h", SETTINGS, read_only=False)
    (connection,) = lent_by(pool)
    holder: Any = object()
    connection.home, home = None, connection.home
    connection.read_only = connection.deferrable = True  # by after_connect: it is to stay
    connection.home = home
    before = begins(connection)
    for _ in range(2):
        pool.idle.clear()
        pool.in_flight[holder] = 1.0
        setattr(connection, name, value)
        assert not pool.keep(holder, connection)
        pool.give_back(connection)
        assert begins(connection) == before == (None, True, True)
    pool.idle.clear()
    setattr(connection, name, getattr(connection, name))  # as it was: nothing to undo
    assert pool.keep(holder, connection)


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_how_a_task_lets_transactions_begin_is_no_other_s(name: str, value: Any) -> None:
    async def main() -> None:
        pool = AsyncNodePool("h", SETTINGS, read_only=False)
        (connection,) = lent_by(pool)
        holder: Any = object()
        pool.idle.clear()
        pool.in_flight[holder] = 1.0
        await getattr(connection, f"set_{name}")(value)
        assert not pool.keep(holder, connection)
        await pool.give_back(connection)
        assert begins(connection) == (None, None, None)
        assert list(pool.idle) == [connection]

    asyncio.run(main())


def test_a_transaction_cancelled_before_it_begins_leaves_its_isolation_to_nobody() -> None:
    async def main() -> None:
        pool = AsyncNodePool("h", SETTINGS, read_only=False)
        (connection,) = lent_by(pool)
        pool.idle.clear()
        change = connection.set_isolation_level

        async def slow(level: Any) -> None:
            await change(level)
            await asyncio.sleep(60)

        connection.set_isolation_level = slow
        await cancelled(connection.begin_as(IsolationLevel.SERIALIZABLE, explicit=False))
        connection.set_isolation_level = change
        await pool.give_back(connection)
        assert connection.isolation_level is None
        assert list(pool.idle) == [connection]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [NodePool, AsyncNodePool])
def test_a_connection_that_was_never_used_is_looked_at_before_it_is(kind: Any) -> None:
    """Its server may have ended it since it was made: a first write would be in doubt."""
    time = Clock()
    pool = kind("h", SETTINGS, read_only=False, clock=time)
    dead, alive = lent_by(pool, 2)
    pool.idle.clear()
    dead.is_alive = lambda: False
    made = [dead, alive]
    time.sleep(1.0)

    def get(**_: Any) -> Any:
        return made.pop(0)

    async def get_later(**_: Any) -> Any:
        return get()

    async def take() -> None:
        getconn = get if kind is NodePool else get_later
        pool._pool = SimpleNamespace(getconn=getconn, putconn=dead.home.putconn)
        taken = pool.take(1.0)
        assert (taken if kind is NodePool else await taken) is alive

    asyncio.run(take())
    assert dead.closed


def test_whoever_got_the_number_of_a_socket_that_was_closed_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = NodePool("h", SETTINGS, read_only=True)
    (connection,) = lent_by(pool)
    ours, server = socket.socketpair()
    connection.pgconn.socket = ours.fileno()
    others: list[socket.socket] = []
    duplicate = socket.dup

    def late(number: int) -> int:  # the owner closes it first, and somebody opens another
        ours.close()
        others.extend(socket.socketpair())
        connection.pgconn.socket = -1
        return duplicate(number)

    monkeypatch.setattr(socket, "dup", late)
    monkeypatch.setattr(os, "dup", late)
    number = ours.fileno()
    with server:
        connection.cut()
        assert number in [other.fileno() for other in others]
        with others[0], others[1]:
            others[0].send(b"well")
            assert others[1].recv(4) == b"well"


def test_whoever_waits_on_a_connection_that_is_cut_gets_its_end() -> None:
    pool = NodePool("h", SETTINGS, read_only=True)
    (connection,) = lent_by(pool)
    ours, server = socket.socketpair()
    with ours, server:
        connection.pgconn.socket = ours.fileno()
        connection.cut()
        assert (ours.recv(1), server.recv(1)) == (b"", b"")


class Wire(Libpq):
    """Takes what a COMMIT is made of, up to a step that fails."""

    def __init__(self, fails: str) -> None:
        super().__init__()
        self._fails = fails

    def step(self, name: str) -> None:
        if name == self._fails:
            raise psycopg.OperationalError(f"{name} failed")

    def enter_pipeline_mode(self) -> None:
        self.step("enter")

    def send_query_params(self, sql: bytes, values: Any) -> None:
        self.step("commit" if sql == b"commit" else "number")

    def pipeline_sync(self) -> None:
        self.step("sync")


@pytest.mark.parametrize(
    ("fails", "sent"), [("enter", False), ("number", False), ("commit", False), ("sync", True)]
)
def test_a_commit_may_have_been_sent_once_libpq_was_told_to(fails: str, sent: bool) -> None:
    commit, wire = Commit(), Wire(fails)
    with pytest.raises(psycopg.OperationalError, match=fails):
        list(commit.run(cast(Any, wire), prepared=None, early=False))
    assert commit.sent is sent
