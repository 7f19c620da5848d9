"""The idle connections of one server for one purpose, kept in front of psycopg_pool.

Taking and giving back a connection is a pop and an append on a deque: no lock, no queue. Where the
deque is empty, psycopg_pool makes or finds a connection and lets callers queue; what comes back
goes to it whenever somebody queues, and when it has been idle for long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import pq

from pgroute.config import Settings
from pgroute.routing.connections import UNFIT, AsyncNodeConnection, NodeConnection
from pgroute.routing.probe import one_line

Connection = TypeVar("Connection", NodeConnection, AsyncNodeConnection)

FRESH_SECONDS = 0.01  # handed out so shortly ago: not asked whether it is alive
_IDLE_SECONDS = 2.0  # then it goes back to psycopg_pool, which closes what is not needed
_AUTHENTICATION_FAILED = ("28P01", "28000")


def _is_refusal(error: psycopg.Error) -> bool:
    # libpq gives no SQLSTATE for a failed connect; these words are not translated in C locales.
    return error.sqlstate in _AUTHENTICATION_FAILED or any(
        words in str(error) for words in ("password authentication failed", "no password supplied")
    )


class Front(Generic[Connection]):
    """What the pools of both fronts share. Thread-safe by the atomicity of dict and deque."""

    def __init__(
        self,
        node: str,
        settings: Settings,
        *,
        read_only: bool,
        on_return: Callable[[Connection], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.node = node
        self.on_return: Callable[[Connection], Any] | None = on_return
        self.closed = False
        # Whether something is to be done with every connection that comes back.
        self._thorough = on_return is not None
        self.commit_seconds = float("inf")  # not measured yet
        self.read_only = read_only
        self.epoch = 0
        self.look_at = 0.0  # from then on, see whether the server's role is another one
        self.worked_at = 0.0  # when a connection was handed out that came back well, if known
        self._refusals = 0  # attempts to connect that failed since the last that did not
        self.idle: deque[Connection] = deque()
        # Who holds a connection, and until when: whoever takes the holder out decides its end.
        self.in_flight: dict[Any, float] = {}
        self.waiting: list[None] = []
        self.min_size, self.max_size = settings.pool_sizes(read_only=read_only)
        self.last_error: str | None = None
        self.password_refused = False
        self._passfile = settings.passfile_read
        self._passfile_then: tuple[int, ...] | None = None
        self._lifetime = settings.pool_lifetime_seconds
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing

    def pool_arguments(self, settings: Settings, cursors: dict[str, Any] | None) -> dict[str, Any]:
        """What the psycopg_pool is made with."""
        member = next(member for member in settings.members if member.name == self.node)
        user = settings.reader if self.read_only else settings.writer
        return {
            "kwargs": {
                **settings.connection(member, user=user, read_only=self.read_only),
                **(cursors or {}),
                # A read is one statement: without a transaction round it, it saves a round trip.
                "autocommit": self.read_only,
                "owner": self,
            },
            "min_size": self.min_size,
            "max_size": self.max_size,
            "max_waiting": settings.pool_max_waiting,
            "max_idle": settings.pool_idle_seconds,
            "max_lifetime": settings.pool_lifetime_seconds,
            "name": f"{self.node}-{'read' if self.read_only else 'write'}",
            "reconnect_timeout": 5,
            "open": False,
        }

    # For the connections

    def connected(self, error: psycopg.Error | None) -> None:
        """A connection was made, or could not be made."""
        self.last_error = None if error is None else one_line(error)
        self._refusals = 0 if error is None else self._refusals + 1
        self.password_refused = error is not None and _is_refusal(error)
        if self.password_refused:
            self._passfile_then = self._passfile_now()

    @property
    def hopeless(self) -> bool:
        """Whether somebody waits for a connection that was refused, and none can come back."""
        if self.password_refused or not self._refusals:  # a wrong password is no server's fault
            return False
        return bool(self.waiting and not self.in_flight and not self.idle)

    def begin_anew(self) -> None:
        """What was refused until now says nothing of what is tried from now on."""
        self._refusals = 0

    def password_changed(self) -> bool:
        """True when the password was refused and the passfile has been changed since.

        libpq reads the passfile at every connect; a pool that has failed waits before the next.
        """
        return self.password_refused and self._passfile_now() != self._passfile_then

    def _passfile_now(self) -> tuple[int, ...] | None:
        try:
            found = self._passfile.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns  # mode, too

    def now(self) -> float:
        """The time on the router's clock."""
        return self._clock()

    def expiry(self) -> float:
        """Until when a connection made now is to be used."""
        return self._clock() + self._lifetime * (0.9 + 0.1 * self._random.random())

    def outdate(self) -> None:
        """Use no connection again that was made until now. From any thread."""
        self.epoch += 1

    def shut(self) -> None:
        """Take nothing back any more."""
        self.closed = self._thorough = True

    def retire(self, now: float) -> None:
        """Let connections that are past their time, idle or in use, be handed out no more."""
        connections: list[Connection] = list(self.idle.copy())
        connections += [holder.connection for holder in self.in_flight.copy()]
        for connection in connections:
            if now > connection.expires_at:
                connection.epoch = UNFIT

    # For whoever leases

    def fit(self, connection: Connection, now: float) -> bool:
        """Whether an idle connection may be handed out."""
        return connection.epoch == self.epoch and (
            now - connection.used_at <= FRESH_SECONDS or connection.is_alive()
        )

    def is_past_use(self, connection: Connection, now: float) -> bool:
        """Whether a connection that comes back is to be replaced."""
        return bool(
            connection.epoch != self.epoch
            or now > connection.expires_at
            or connection.closed
            or connection.left_open
        )

    def idle_one(self) -> Connection | None:
        """An idle connection, if there is one."""
        try:
            return self.idle.pop()
        except IndexError:
            return None

    def put_back(self, connection: Connection) -> None:
        """Let an idle connection that was looked at be as it was."""
        self.idle.append(connection)
        if self.waiting or self.closed:
            self.worked_at = connection.used_at
            self.hand_over()

    def keep(self, holder: Any, connection: Connection) -> bool:
        """Take a connection back at once; False when that needs thought, and nothing was done."""
        if (
            self._thorough
            or connection.untidy
            or connection.epoch != self.epoch
            # As left_open and autocommit, which cost a call each.
            or connection._num_transactions
            or connection._pipeline is not None
            or connection._tpc is not None
            or connection.lock.locked()
            or (self.read_only and not connection._autocommit)
            or self.in_flight.pop(holder, None) is None
        ):
            return False
        self.idle.append(connection)
        if self.waiting:
            self.worked_at = connection.used_at
            self.hand_over()
        return True

    def hand_over(self) -> None:
        """Give one idle connection to whoever waits in psycopg_pool."""
        raise NotImplementedError

    def overdue(self, now: float) -> list[Any]:
        """The holders whose time is up, each told once; their connections are theirs no more."""
        if not self.in_flight:
            return []
        late = [holder for holder, until in self.in_flight.copy().items() if until <= now]
        return [holder for holder in late if self.in_flight.pop(holder, None) is not None]

    def everyone(self, why: str, *, busy_only: bool) -> list[Any]:
        """The holders, each told once; their connections are theirs no more, which is ``why``.

        ``busy_only``: those that are waiting for the server.
        """
        found = []
        for holder in self.in_flight.copy():
            status = holder.connection.pgconn.transaction_status
            if busy_only and status != pq.TransactionStatus.ACTIVE:
                continue
            holder.verdict = why  # before it can find out that it was cut
            if self.in_flight.pop(holder, None) is not None:
                found.append(holder)
        return found

    def long_idle(self, now: float) -> list[Connection]:
        """Idle connections that nobody has wanted for a while, taken out."""
        found = []
        while self.idle and self.idle[0].used_at < now - _IDLE_SECONDS:
            try:
                connection = self.idle.popleft()
            except IndexError:
                break
            connection.forget_answer()
            found.append(connection)
        return found

    def all_idle(self) -> list[Connection]:
        """Every idle connection, taken out."""
        found = []
        while True:
            try:
                found.append(self.idle.popleft())
            except IndexError:
                return found

    def why_no_connection(self, limit: float) -> str:
        """One line on why nothing came within ``limit`` seconds."""
        if self.last_error is not None:
            return self.last_error
        return f"no free connection within {limit:g} s ({self.max_size} at most, all in use)"
