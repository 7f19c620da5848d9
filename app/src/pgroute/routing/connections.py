"""Connections that know which server they lead to, for both fronts."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol, Self

import psycopg
from psycopg import IsolationLevel, pq

from pgroute.core.topology import Role
from pgroute.observing.observer import Reason
from pgroute.results import Result
from pgroute.routing.commit import SLOW_SECONDS, Commit
from pgroute.routing.cursors import AsyncNodeCursor, NodeCursor
from pgroute.routing.shelter import answered

_FEW_ROWS = 10
_TELLS = hasattr(psycopg.Connection, "_deallocate")  # see there
_RESETS = (b"DISCARD ALL", b"DEALLOCATE ALL")
_COMMIT = b"COMMIT"
_CANCELLED_SECONDS = 5.0  # given to a COMMIT whose task was cancelled, as psycopg gives statements
UNFIT = -1  # the epoch of connections that are not to be used again


class Owner(Protocol):
    """The pool that a connection belongs to."""

    node: str
    epoch: int
    on_return: Callable[[Any], Any] | None
    commit_seconds: float  # what a COMMIT takes lately

    def connected(self, error: psycopg.Error | None) -> None:
        """A connection was made, or could not be made."""
        ...

    def now(self) -> float:
        """The time on the owner's clock."""
        ...

    def expiry(self) -> float:
        """Until when a connection made now is to be used, on the same clock."""
        ...


class OwnCommit(Enum):
    """How far a COMMIT has come that is the caller's: commit(), or the end of transaction()."""

    NONE = "none"
    SENT = "sent"
    DONE = "done"


class _Leased:
    """What a connection carries beside psycopg's own."""

    # In slots: an object's attributes are found slower once it has more than thirty of them.
    __slots__ = (
        "_before",
        "_incoming",
        "_number_prepared",
        "epoch",
        "expires_at",
        "home",
        "node",
        "own_commit",
        "owner",
        "route",
        "spare",
        "untidy",
        "used_at",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.node = ""
        self.home: Any = None  # the psycopg_pool it belongs to
        self.epoch = UNFIT  # of its owner, when it was made
        self.used_at = 0.0  # when it was handed out last; until then, made
        self.expires_at = 0.0  # when it is let go
        # Why it was handed out; None on the fast path.
        self.route: tuple[Role, Reason] | None = None
        # What Commit prepares; None: must not any more.
        self._number_prepared: bool | None = False
        self.own_commit = OwnCommit.NONE  # during this lease
        # How transactions began before somebody changed it for a while; meaningful while untidy.
        self._before: tuple[IsolationLevel | None, bool | None, bool | None] = (None, None, None)
        # The cursor of the last statement, for the next: a new one costs a seventh of a short
        # statement's time. Gone at the end of every block, which may change what cursors make of
        # answers, and within seconds, since it holds the last parameters and answer.
        self.spare: Any = None
        self.untidy = False  # how transactions begin was changed for a while
        self._incoming: select.poll | None = None

    owner: Owner
    pgconn: pq.abc.PGconn
    lock: Any
    # psycopg's own
    isolation_level: Any
    read_only: Any
    deferrable: Any
    _num_transactions: int
    _pipeline: Any
    _tpc: Any
    prepare_threshold: int | None

    @property
    def is_standby(self) -> bool:
        """What the server reported last about itself on this connection. No round trip."""
        return self.pgconn.parameter_status(b"in_hot_standby") == b"on"

    @property
    def was_promoted(self) -> bool:
        """Whether a connection to a replica leads to a primary by now. No round trip."""
        try:
            return self.pgconn.parameter_status(b"in_hot_standby") == b"off"
        except psycopg.OperationalError:  # whoever had it has closed it
            return False

    def is_alive(self) -> bool:
        """False when the server has spoken on this idle connection. No round trip.

        That is its goodbye, or its end of the socket closing. It may also be a reloaded setting:
        then a good connection is replaced, which costs little.
        """
        if self.pgconn.transaction_status == pq.TransactionStatus.UNKNOWN:
            return False  # closed
        incoming = self._incoming
        if incoming is None:
            incoming = self._incoming = select.poll()
            incoming.register(self.pgconn.socket, select.POLLIN)
        return not incoming.poll(0)

    def cut(self) -> None:
        """Shut the socket down, from any thread: whoever waits on it gets an error at once."""
        with suppress(psycopg.Error, OSError):
            number = self.pgconn.socket
            with socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as duplicate:
                # Else it was closed meanwhile, and by then the number may have been another's.
                if self.pgconn.socket == number:
                    duplicate.shutdown(socket.SHUT_RDWR)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed ones included."""
        return self.pgconn.transaction_status != pq.TransactionStatus.IDLE

    @property
    def left_open(self) -> str:
        """What of a block goes on when the block has ended; then nobody else can have it."""
        if self._num_transactions:
            return "a transaction() block"
        if self._pipeline is not None:
            return "a pipeline() block"
        if self._tpc is not None:
            return "a two-phase transaction"
        return "a statement" if self.lock.locked() else ""

    def forget_answer(self) -> None:
        """Free what the last statement's cursor holds."""
        self.spare = None

    def _committing(self, commit: Commit) -> Generator[Any, Any, None]:
        """Steps of a COMMIT."""
        owner = self.owner
        began = time.monotonic()
        # Whoever resets sessions, or wants nothing prepared, may drop what is prepared here.
        may = _TELLS and owner.on_return is None and self.prepare_threshold is not None
        try:
            yield from commit.run(
                self.pgconn,
                prepared=self._number_prepared if may else None,
                early=owner.commit_seconds > SLOW_SECONDS,
            )
        finally:
            if commit.prepared:
                self._number_prepared = True
        took = time.monotonic() - began
        before = owner.commit_seconds  # falls at once, rises bit by bit: one slow one is chance
        owner.commit_seconds = took if took < before else before + (took - before) * 0.1

    def _exec_command(
        self, command: Any, *arguments: Any, **options: Any
    ) -> Generator[Any, Any, Any]:
        """As psycopg's own, for BEGIN, COMMIT and the like."""
        if command != _COMMIT:
            return (yield from super()._exec_command(command, *arguments, **options))  # type: ignore[misc]
        before, self.own_commit = self.own_commit, OwnCommit.SENT
        try:
            result = yield from super()._exec_command(command, *arguments, **options)  # type: ignore[misc]
        except psycopg.Error as error:
            lost = self.pgconn.transaction_status == pq.TransactionStatus.UNKNOWN
            if error.sqlstate is not None and not lost:
                self.own_commit = before  # refused: surely rolled back
            raise
        if self._pipeline is None:  # else the answer is yet to come
            self.own_commit = OwnCommit.DONE
        return result

    def _deallocate(self, name: bytes | None) -> Generator[Any, Any, None]:
        """As psycopg's own, which drops every prepared statement after a rollback, among others."""
        if name is None:  # in a pipeline it may be skipped
            self._number_prepared = False if self._pipeline is None else None
        yield from super()._deallocate(name)  # type: ignore[misc]

    def _about_to_change(self) -> None:
        """Keep how transactions begin, for :meth:`tidy`: first of all, since what follows may be
        interrupted. Before the first lease it is ``after_connect`` that changes it, for good."""
        if not self.untidy and self.home is not None:
            self._before = (self.isolation_level, self.read_only, self.deferrable)
            self.untidy = True

    # What psycopg's setters and ``set_...`` run. Were they gone, the changes of begin_as would
    # still be undone.

    def _set_isolation_level_gen(self, value: Any) -> Generator[Any, Any, None]:
        if value != self.isolation_level:
            self._about_to_change()
        yield from super()._set_isolation_level_gen(value)  # type: ignore[misc]

    def _set_read_only_gen(self, value: Any) -> Generator[Any, Any, None]:
        if value != self.read_only:
            self._about_to_change()
        yield from super()._set_read_only_gen(value)  # type: ignore[misc]

    def _set_deferrable_gen(self, value: Any) -> Generator[Any, Any, None]:
        if value != self.deferrable:
            self._about_to_change()
        yield from super()._set_deferrable_gen(value)  # type: ignore[misc]

    def _ran(self, cursor: Any) -> None:
        """A statement may have dropped what psycopg does not know to be prepared."""
        if self._number_prepared and cursor.pgresult.command_status in _RESETS:
            self._number_prepared = False

    def _require_whole(self) -> None:
        if left := self.left_open:
            raise psycopg.ProgrammingError(f"{left} is still open: nothing was committed")

    def _belongs_to(self, owner: Owner, epoch: int) -> None:
        self.owner = owner
        self.node = owner.node
        self.epoch = epoch
        self.used_at = owner.now()
        self.expires_at = owner.expiry()
        owner.connected(None)


class NodeConnection(_Leased, psycopg.Connection[Any]):
    """A psycopg connection that knows which server it leads to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = NodeCursor

    @classmethod
    def connect(cls, conninfo: str = "", **parameters: Any) -> Self:
        """As psycopg's; ``owner`` is told of it."""
        owner: Owner = parameters.pop("owner")
        server_cursors = parameters.pop("server_cursor_factory", None)
        epoch = owner.epoch
        try:
            connection = super().connect(conninfo, **parameters)
        except psycopg.Error as error:
            owner.connected(error)
            raise
        if server_cursors is not None:  # psycopg takes this one as an attribute only
            connection.server_cursor_factory = server_cursors
        connection._belongs_to(owner, epoch)
        return connection

    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool = False
    ) -> psycopg.Cursor[Any]:
        """As psycopg's, with fewer calls on the way of a text: a hundredth of a short read."""
        if query.__class__ is not str or binary:
            return super().execute(query, params, prepare=prepare, binary=binary)
        return self._new_cursor().execute(query, params, prepare=prepare)

    def _new_cursor(self) -> psycopg.Cursor[Any]:
        factory = self.cursor_factory
        if factory is NodeCursor and self._autocommit:
            factory = psycopg.Cursor  # quicker by a microsecond, and no statement begins anything
        return factory(self, row_factory=self.row_factory)

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """As psycopg's, which calls it for whoever is interrupted and then drops its error."""
        try:
            super().cancel_safe(timeout=timeout)
        except BaseException:  # it may yet be heard: by another's statement, were it kept
            self.epoch = UNFIT
            raise

    def ask(self, sql: Any, params: Any = None, prepare: bool | None = None) -> Result:
        """Run one statement, to its last row."""
        cursor, self.spare = self.spare or self._new_cursor(), None
        cursor.execute(sql, params, prepare=prepare)
        self._ran(cursor)
        rows = [] if cursor.rownumber is None else cursor.fetchall()
        result = Result(cursor, rows, self.node)
        if len(rows) <= _FEW_ROWS:
            self.spare = cursor
        return result

    def begin_as(self, isolation: IsolationLevel | None, *, explicit: bool) -> None:
        """Let the next statement begin a transaction at this isolation level."""
        if isolation is not None:
            self._about_to_change()
            self.isolation_level = isolation
        if explicit:
            self.commit_each(False)

    def commit_each(self, wanted: bool) -> None:
        """Whether every statement commits by itself."""
        if self.autocommit != wanted:
            self.autocommit = wanted

    def tidy(self, autocommit: bool) -> None:
        """Undo what :meth:`begin_as` or a caller has set. No round trip."""
        if self.untidy:
            self.isolation_level, self.read_only, self.deferrable = self._before
        self.untidy = False
        self.autocommit = autocommit

    def end(self, commit: Commit) -> None:
        """Commit, and note in ``commit`` what is known should the answer be lost."""
        self._require_whole()
        with self.lock:
            self.wait(self._committing(commit))


class AsyncNodeConnection(_Leased, psycopg.AsyncConnection[Any]):
    """The same for asyncio."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = AsyncNodeCursor

    @classmethod
    async def connect(cls, conninfo: str = "", **parameters: Any) -> Self:
        """As psycopg's; ``owner`` is told of it."""
        owner: Owner = parameters.pop("owner")
        server_cursors = parameters.pop("server_cursor_factory", None)
        epoch = owner.epoch
        try:
            connection = await super().connect(conninfo, **parameters)
        except psycopg.Error as error:
            owner.connected(error)
            raise
        if server_cursors is not None:  # psycopg takes this one as an attribute only
            connection.server_cursor_factory = server_cursors
        connection._belongs_to(owner, epoch)
        return connection

    async def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool = False
    ) -> psycopg.AsyncCursor[Any]:
        """As :meth:`NodeConnection.execute`."""
        if query.__class__ is not str or binary:
            return await super().execute(query, params, prepare=prepare, binary=binary)
        return await self._new_cursor().execute(query, params, prepare=prepare)

    def _new_cursor(self) -> psycopg.AsyncCursor[Any]:
        factory = self.cursor_factory
        if factory is AsyncNodeCursor and self._autocommit:
            factory = psycopg.AsyncCursor
        return factory(self, row_factory=self.row_factory)

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """As psycopg's, which calls it for every cancelled task and then drops its error."""
        try:
            await super().cancel_safe(timeout=timeout)
        except BaseException:  # it may yet be heard: by another's statement, were it kept
            self.epoch = UNFIT
            raise

    async def ask(self, sql: Any, params: Any = None, prepare: bool | None = None) -> Result:
        """Run one statement, to its last row."""
        cursor, self.spare = self.spare or self._new_cursor(), None
        await cursor.execute(sql, params, prepare=prepare)
        self._ran(cursor)
        rows = [] if cursor.rownumber is None else await cursor.fetchall()
        result = Result(cursor, rows, self.node)
        if len(rows) <= _FEW_ROWS:
            self.spare = cursor
        return result

    async def begin_as(self, isolation: IsolationLevel | None, *, explicit: bool) -> None:
        """Let the next statement begin a transaction at this isolation level."""
        if isolation is not None:
            self._about_to_change()
            await self.set_isolation_level(isolation)
        if explicit:
            await self.commit_each(False)

    async def commit_each(self, wanted: bool) -> None:
        """Whether every statement commits by itself."""
        if self.autocommit != wanted:
            await self.set_autocommit(wanted)

    async def tidy(self, autocommit: bool) -> None:
        """Undo what :meth:`begin_as` or a caller has set. No round trip."""
        if self.untidy:
            isolation, read_only, deferrable = self._before
            await self.set_isolation_level(isolation)
            await self.set_read_only(read_only)
            await self.set_deferrable(deferrable)
        self.untidy = False
        await self.set_autocommit(autocommit)

    async def end(self, commit: Commit) -> None:
        """As :meth:`NodeConnection.end`, to its end: a cancelled task is so afterwards."""
        self._require_whole()
        async with self.lock:
            steps = self._committing(commit)
            await answered(steps, self.pgconn.socket, self.cut, _CANCELLED_SECONDS)
