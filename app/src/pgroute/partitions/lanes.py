"""Connections of a bulk load, each with its thread and its one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from queue import Full, Queue
from typing import Any, TypeAlias

import psycopg

from pgroute.errors import CommitUnknown
from pgroute.partitions.copying import (
    BadRow,
    Block,
    Shape,
    Stream,
    Target,
    copy_without_rejects,
    rejected,
)
from pgroute.partitions.reports import Outcome, Part, Reject

Connect: TypeAlias = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]

Confirm: TypeAlias = Callable[[psycopg.Connection[Any], Collection[str]], None]
"""Raises when one of these tables (labels) is not where the rows written into it belong."""

_WAITING_BLOCKS = 2
_COPY_ROWS = 50_000  # in one COPY: the server works on while the next block is made


class Rejects:
    """The refused rows of all lanes, and how many may be left out. Thread-safe."""

    def __init__(self, allowed: int | None) -> None:
        self.allowed = allowed
        self.rows: list[Reject] = []
        self._lock = threading.Lock()

    @property
    def tolerant(self) -> bool:
        """True when a refused row does not stop the load."""
        return self.allowed is None or self.allowed > 0

    def add(self, reject: Reject) -> None:
        """Take note of a refused row. Raises TooManyRejects."""
        with self._lock:
            self.rows.append(reject)
            if self.allowed is not None and len(self.rows) > self.allowed:
                raise TooManyRejects(reject)


class TooManyRejects(Exception):
    """More rows are refused than may be left out."""

    def __init__(self, reject: Reject) -> None:
        super().__init__(f"row {reject.row}, for {reject.table}: {reject.reason}")


class _Abandoned(Exception):
    """Leaves the transaction's block without a commit."""


def _transaction_on(connection: psycopg.Connection[Any]) -> AbstractContextManager[object]:
    """One transaction for all blocks, ended by whoever gave the connection where that is so.

    Without an open one, ``connection.transaction()`` round a block would be that, and commit it.
    """
    if connection.autocommit:
        return connection.transaction()
    connection.execute("select 1")
    return nullcontext()


class Lane:
    """One connection: copies the blocks it is given, then commits or rolls back as it is told."""

    def __init__(
        self, connect: Connect, shape: Shape, rejects: Rejects, confirm: Confirm, *, callers: bool
    ) -> None:
        self.error: Exception | None = None
        self.written: dict[str, int] = {}
        self.node = ""
        self._stream: Stream | None = None  # the COPY that is under way
        self._connect = connect
        self._shape = shape
        self._rejects = rejects
        self._confirm = confirm
        self._outcome: Outcome | None = None
        self._callers = callers
        self._blocks: Queue[Block | None] = Queue(_WAITING_BLOCKS)
        self._copied = threading.Event()
        self._told = threading.Event()
        self._over = threading.Event()
        self._commit = False
        self._ended = False
        threading.Thread(target=self._work, name="pgroute-load", daemon=True).start()

    def put(self, block: Block) -> None:
        """Hand over a block; waits while ``_WAITING_BLOCKS`` are waiting."""
        self._blocks.put(block)

    def end(self) -> None:
        """No more blocks will come."""
        self._blocks.put(None)

    def wait(self) -> None:
        """Until every block is with the server, or the lane has failed."""
        self._copied.wait()

    def tell(self, *, commit: bool) -> None:
        """Let the lane commit, or roll back at once. What it was told first holds."""
        if not self._told.is_set():
            self._commit = commit
            self._told.set()
            if not commit:
                with suppress(Full):  # it waits for no block then
                    self._blocks.put_nowait(None)

    def join(self) -> None:
        """Wait until the lane has done as it was told."""
        self._over.wait()

    def part(self) -> Part:
        """What this lane did. Without :meth:`join`: what is known by now."""
        waiting = Outcome.UNKNOWN if self._commit else Outcome.ROLLED_BACK
        return Part(dict(self.written), self.node, self._outcome or waiting)

    def _work(self) -> None:
        try:
            self._load()
        finally:
            self._over.set()

    def _load(self) -> None:
        try:
            with self._connect() as connection, _transaction_on(connection):
                self.node = getattr(connection, "node", "")
                while (block := self._next_block()) is not None:
                    self._copy(connection, block)
                self._finish_stream()
                # Now that COPY has locked them, nobody else can change what is found.
                self._confirm(connection, self.written)
                self._copied.set()
                self._told.wait()
                if not self._commit:
                    raise _Abandoned
            self._outcome = Outcome.CALLERS if self._callers else Outcome.COMMITTED
        except _Abandoned:
            self._outcome = Outcome.ROLLED_BACK
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            self._fail(error)

    def _next_block(self) -> Block | None:
        """The next block, None from when there will be no more, or they are not wanted."""
        if self._ended:
            return None
        block = self._blocks.get()
        if self._told.is_set():
            block = None
        self._ended = block is None
        return block

    def _copy(self, connection: psycopg.Connection[Any], block: Block) -> None:
        if self._rejects.tolerant:
            count = copy_without_rejects(connection, self._shape, block, self._rejects.add)
            self._count(block.target, count)
            return
        self._count(block.target, len(block.rows))
        stream = self._stream_into(connection, block.target)
        try:
            stream.write(block)
        except BadRow as bad:
            self._rejects.add(rejected(stream, bad))

    def _count(self, target: Target, rows: int) -> None:
        self.written[target.label] = self.written.get(target.label, 0) + rows

    def _stream_into(self, connection: psycopg.Connection[Any], target: Target) -> Stream:
        stream = self._stream
        if stream is None or stream.target != target or len(stream.numbers) >= _COPY_ROWS:
            self._finish_stream()
            stream = self._stream = Stream(connection, self._shape, target)
        return stream

    def _finish_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            try:
                self._count(stream.target, stream.finish() - len(stream.numbers))
            except BadRow as bad:
                self._rejects.add(rejected(stream, bad))

    def _fail(self, error: Exception) -> None:
        self.error = error
        lost = isinstance(error, CommitUnknown) or (
            isinstance(error, psycopg.OperationalError) and error.sqlstate is None
        )
        self._outcome = Outcome.UNKNOWN if self._commit and lost else Outcome.ROLLED_BACK
        if not self._copied.is_set():
            # Whoever hands over blocks must not wait for ever; they are dropped.
            self._copied.set()
            while self._next_block() is not None:
                pass
