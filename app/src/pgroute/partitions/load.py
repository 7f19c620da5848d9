"""Bulk load: COPY, grouped per leaf and per connection, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

import psycopg
from psycopg.rows import tuple_row

from pgroute.errors import LoadFailed, NotPartitioned, PartitionMismatch, UncomputableKey
from pgroute.partitions.check import require_unchanged
from pgroute.partitions.copying import Block, Shape, Target, one_line, shape_of
from pgroute.partitions.lanes import Connect, Lane, Rejects, TooManyRejects
from pgroute.partitions.reports import Loaded, Reject
from pgroute.partitions.routing import Leaf
from pgroute.partitions.table import Partitions

BLOCK_ROWS = 5_000
_CHUNK_ROWS = 1_000
_BLOCKS_HELD = 8
_ROWS_HELD_PER_LEAF = 200
_A_DAY = 86_400.0
_REFUSED = Leaf(0, "", "", "no leaf", "")

# What a row meets on its way through the parent only, or straight into a leaf only. Then the leaves
# are left to the server.
_OBSTACLE = """
select why || c.oid::regclass
from unnest(%(parent)s::regclass::oid || %(leaves)s::oid[]) as asked (oid)
join pg_class as c on c.oid = asked.oid,
lateral (select case
    when row_security_active(c.oid) then 'row security is active on '
    when exists (select from pg_trigger as t
                 where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D'
                   and t.tgtype & 5 = 4) then 'a statement trigger fires on '
    when exists (select from pg_constraint as f
                 where f.contype = 'f' and f.conrelid = c.oid
                   and coalesce(pg_partition_root(f.conrelid), f.conrelid)
                     = coalesce(pg_partition_root(f.confrelid), f.confrelid))
        then 'a row may refer to one of another leaf in '
    when exists (select from pg_attribute as a
                 join pg_attribute as p on p.attname = a.attname
                 where p.attrelid = %(parent)s::regclass and p.attidentity <> ''
                   and a.attrelid = c.oid and a.attidentity = ''
                   and a.attname <> all(%(columns)s))
        then 'an identity column makes no numbers in '
    when not has_schema_privilege(c.relnamespace, 'usage') then 'no privilege on the schema of '
    when not has_table_privilege(c.oid, 'insert') then 'no privilege to insert into '
end) as found (why)
where why is not null limit 1
"""
_LIMITS = """
select set_config('statement_timeout', %(limit)s, true),
       set_config('idle_in_transaction_session_timeout', %(limit)s, true)
"""
_MOST_MILLISECONDS = 2**31 - 1  # that the server takes


class Writes(Protocol):
    """A Router, as far as a load needs one."""

    def write(self, *, timeout: float | None = None) -> AbstractContextManager[Any]:
        """A transaction on the primary."""


Where: TypeAlias = Writes | psycopg.Connection[Any] | Connect


def load(
    where: Where,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    partitions: Partitions | None = None,
    by_leaf: bool | None = None,
    connections: int = 1,
    single_transaction: bool = False,
    max_rejects: int | None = 0,
    block_rows: int = BLOCK_ROWS,
    timeout: float = _A_DAY,
    progress: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Loaded:
    """Write ``rows`` (sequences in the order of ``columns``) into ``table`` with COPY.

    ``where``: a Router; a function that gives a connection whose block commits; or a connection,
    on which the load is part of the caller's transaction (of its own with ``autocommit`` and no
    open one).

    *Leaves.* On one connection rows go through ``table``: the server checks a row's leaf at the
    price of choosing it, so that choosing here saves nothing. On several, each takes the rows of
    its own leaves, by the key computed here; that pays when the server's work per row (indexes,
    triggers) outweighs the client's. Where a leaf cannot be computed or written to, or refuses what
    the parent takes, all rows go
    through ``table`` on one connection (``Loaded.why_not_by_leaf``). ``by_leaf`` decides
    otherwise; ``partitions`` are the table's, when already read. A leaf that is no longer what
    it was then stops the load: with PartitionMismatch, or LoadFailed when rows were sent already.

    *Atomicity.* Each connection is one transaction and a leaf belongs to one connection, so that
    a leaf gets all of its rows or none; with as many connections as leaves, each leaf is its own
    transaction. Nothing is committed before every row is with the server. Then one transaction
    commits after the other: only an error or an interrupt there can leave some leaves written and
    others not.
    One connection, or ``single_transaction``, leaves nothing to that chance. Equal keys lie in
    one leaf, so that connections do not wait for each other's; but a trigger that locks the same
    row for every leaf would make them, until ``timeout``: use one connection then.

    *Rejects.* A row that cannot be written stops the load, or is left out while there are at most
    ``max_rejects`` (None: any number); each is reported with its number, from 1.

    *Defaults.* A column that is not loaded gets its leaf's default, should that differ.

    *Memory.* At most 8 * block_rows rows, or 200 per leaf if that is more, wait for their block
    to fill; each connection holds at most three blocks, and a block at most 1,000 rows too many.

    ``progress`` hears, from the caller's thread, how many rows were sent so far; they are not
    committed yet. ``timeout``: seconds for each transaction, with a Router. Raises
    LoadFailed with a report, PartitionMismatch, what ``rows`` raises (nothing is written then),
    and psycopg's and the router's errors from before the first row. A KeyboardInterrupt waits for
    the COMMIT that is under way, rolls the others back, and has LoadFailed as its ``__cause__``.
    ValueError for numbers that mean nothing.
    """
    for what, number, least in (
        ("block_rows", block_rows, 1),
        ("connections", connections, 1),
        ("max_rejects", max_rejects or 0, 0),
    ):
        if number < least:
            raise ValueError(f"{what} is {number}: it must be {least} at least")
    started = clock()
    connect, callers = _connect(where, timeout)
    with connect() as connection:
        shape = shape_of(connection, table, columns)
        alone = single_transaction or isinstance(where, psycopg.Connection)
        most = 1 if alone else connections
        why_not = None
        if by_leaf is False:
            why_not = "not wanted"
        elif by_leaf is None and most == 1:
            why_not = "one connection gains nothing by it"
        plan = _plan(connection, table, columns, partitions, why_not)
    most = min(most, plan.leaf_count)
    rejects = Rejects(max_rejects)
    loading = _Loading(plan, shape, rejects, block_rows, progress)

    def report() -> Loaded:
        return Loaded(
            plan.table,
            tuple(lane.part() for lane in loading.lanes),
            tuple(sorted(rejects.rows, key=lambda reject: reject.row)),
            loading.rows_read,
            clock() - started,
            plan.why_not,
        )

    try:
        for _ in range(most):
            loading.lanes.append(Lane(connect, shape, rejects, plan.confirm, callers=callers))
        loading.take(rows)
        loading.wait()
        error = loading.finish()
    except BaseException as interrupt:
        with suppress(KeyboardInterrupt):  # again: whoever does that will not wait
            loading.abandon()
        if isinstance(interrupt, Exception) and not loading.committing:
            raise  # by rows or progress
        found = report()
        raise interrupt from LoadFailed(
            f"the load of {plan.table} was interrupted: {found.words()}", found
        )
    found = report()
    if error is not None:
        plain = isinstance(error, TooManyRejects | PartitionMismatch)
        words = str(error) if plain else one_line(error)
        raise LoadFailed(
            f"the load of {plan.table} stopped: {words}; {found.words()}", found
        ) from error
    return found


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where rows go. Without ``partitions`` all go to ``parent``."""

    table: str
    parent: Target
    partitions: Partitions | None
    key_at: tuple[int, ...]
    why_not: str | None

    @property
    def by_leaf(self) -> bool:
        return self.partitions is not None

    @property
    def leaf_count(self) -> int:
        return len(self.partitions.leaves) if self.partitions else 1

    def confirm(self, connection: psycopg.Connection[Any], written: Collection[str]) -> None:
        """Raise PartitionMismatch when a leaf that was written has changed since it was chosen."""
        if self.partitions is not None:
            leaves = [leaf for leaf in self.partitions.leaves if leaf.label in written]
            require_unchanged(connection, self.parent, leaves)


def _plan(
    connection: psycopg.Connection[Any],
    table: str,
    columns: Sequence[str],
    partitions: Partitions | None,
    why_not: str | None,
) -> _Plan:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "select c.oid::regclass::text, n.nspname, c.relname from pg_class as c "
            "join pg_namespace as n on n.oid = c.relnamespace where c.oid = %s::regclass",
            (table,),
        )
        label, schema, name = cursor.fetchone() or (table, "", table)
    parent = Target(label, schema, name)

    def through_the_parent(why: str) -> _Plan:
        return _Plan(label, parent, None, (), why)

    if why_not is not None:
        return through_the_parent(why_not)
    try:
        if partitions is None:
            partitions = Partitions.read(connection, table)
        else:
            require_unchanged(connection, parent, partitions.leaves)
    except (NotPartitioned, UncomputableKey) as reason:
        return through_the_parent(str(reason))
    missing = [column for column in partitions.columns if column not in columns]
    if missing:
        return through_the_parent(f"key column {missing[0]} is not among the columns loaded")
    with connection.cursor(row_factory=tuple_row) as cursor:
        oids = [leaf.oid for leaf in partitions.leaves]
        asked = {"parent": table, "leaves": oids, "columns": list(columns)}
        (obstacle,) = cursor.execute(_OBSTACLE, asked).fetchone() or (None,)
    if obstacle is not None:
        return through_the_parent(obstacle)
    at = tuple(list(columns).index(column) for column in partitions.columns)
    return _Plan(label, parent, partitions, at, None)


@dataclass(slots=True)
class _Loading:
    """The caller's side of a load: groups rows into blocks and hands them to lanes."""

    plan: _Plan
    shape: Shape
    rejects: Rejects
    block_rows: int
    progress: Callable[[int], None] | None
    lanes: list[Lane] = field(default_factory=list)
    rows_read: int = 0
    error: Exception | None = None
    committing: bool = False
    _blocks: dict[Leaf | None, Block] = field(default_factory=dict)
    _lane_of: dict[Leaf | None, int] = field(default_factory=dict)
    _held: int = 0
    _complete: bool = False

    def take(self, rows: Iterable[Sequence[Any]]) -> None:
        """Group all rows. Stops early when a lane fails."""
        given = iter(rows)
        most_held = max(_BLOCKS_HELD * self.block_rows, _ROWS_HELD_PER_LEAF * self.plan.leaf_count)
        try:
            while chunk := list(islice(given, min(_CHUNK_ROWS, self.block_rows))):
                self._group(chunk)
                self.rows_read += len(chunk)
                while self._held > most_held:
                    fullest = max(self._blocks, key=lambda leaf: len(self._blocks[leaf].rows))
                    self._hand_over(fullest)
                if any(lane.error for lane in self.lanes):
                    return
            for leaf in list(self._blocks):
                self._hand_over(leaf)
        except TooManyRejects as error:
            self.error = error
            return
        self._complete = True

    def wait(self) -> None:
        """Until all rows are with the server."""
        for lane in self.lanes:
            lane.end()
        for lane in self.lanes:
            lane.wait()
        self._tell()

    def abandon(self) -> None:
        """Roll back whatever is not committing."""
        for lane in self.lanes:
            lane.tell(commit=False)
        for lane in self.lanes:
            lane.join()

    def finish(self) -> Exception | None:
        """Commit one lane after the other, or none; the error that stopped the load."""
        for lane in self.lanes:
            self.error = self.error or lane.error
        self.committing = self._complete and self.error is None
        for lane in self.lanes:
            lane.tell(commit=self._complete and self.error is None)
            lane.join()
            self.error = self.error or lane.error
        return self.error

    def _group(self, chunk: list[Sequence[Any]]) -> None:
        leaves = self._leaves_of(chunk)
        appends = {leaf: self._appends(leaf) for leaf in dict.fromkeys(leaves)}
        for number, (row, leaf) in enumerate(zip(chunk, leaves, strict=True), self.rows_read + 1):
            append_row, append_number = appends[leaf]
            append_row(row)
            append_number(number)
        self._held += len(chunk) - leaves.count(_REFUSED)
        for leaf in appends:
            block = self._blocks.get(leaf)
            if block is not None and len(block.rows) >= self.block_rows:
                self._hand_over(leaf)

    def _appends(self, leaf: Leaf | None) -> tuple[Callable[[Any], None], Callable[[int], None]]:
        """Where rows of ``leaf`` and their numbers are collected; None is the parent."""
        if leaf is _REFUSED:
            nowhere: list[Any] = []
            return nowhere.append, nowhere.append
        block = self._blocks.get(leaf)
        if block is None:
            target = self.plan.parent
            if leaf is not None:
                target = Target(leaf.label, leaf.schema, leaf.name)
            block = self._blocks[leaf] = Block(target, [], [])
        return block.rows.append, block.numbers.append

    def _hand_over(self, leaf: Leaf | None) -> None:
        block = self._blocks.pop(leaf)
        self._held -= len(block.rows)
        turn = self._lane_of.setdefault(leaf, len(self._lane_of))
        self.lanes[turn % len(self.lanes)].put(block)
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(sum(sum(lane.written.copy().values()) for lane in self.lanes))

    def _leaves_of(self, chunk: list[Sequence[Any]]) -> list[Leaf | None]:
        """Where each row goes: a leaf, None for the parent, _REFUSED for nowhere."""
        try:
            if set(map(len, chunk)) == {len(self.shape.columns)}:
                if self.plan.partitions is None:
                    return [None] * len(chunk)
                keys = list(
                    zip(*(map(itemgetter(at), chunk) for at in self.plan.key_at), strict=True)
                )
                leaves = self.plan.partitions.leaves_of(keys)
                if None not in leaves:
                    return leaves
        except (TypeError, ValueError):
            pass  # one row at a time tells which
        return [self._leaf_of(row, number) for number, row in enumerate(chunk, self.rows_read + 1)]

    def _leaf_of(self, row: Sequence[Any], number: int) -> Leaf | None:
        partitions = self.plan.partitions
        try:
            if len(row) != len(self.shape.columns):
                raise ValueError(f"{len(row)} values for {len(self.shape.columns)} columns")
            if partitions is None:
                return None
            key = [row[at] for at in self.plan.key_at]
            (leaf,) = partitions.leaves_of([key])
            if leaf is not None:
                return leaf
            reason = f"no partition takes the key {key}"
        except (TypeError, ValueError) as error:
            reason = one_line(error)
        self.rejects.add(Reject(number, self.plan.table, reason))
        return _REFUSED


def _connect(where: Where, timeout: float) -> tuple[Connect, bool]:
    """How a lane gets its connection, and whether the caller's transaction decides."""
    if isinstance(where, psycopg.Connection):
        if not where.autocommit:  # as its first statement does, and its block or caller commits
            where.execute("select 1")
        open_already = where.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE
        return lambda: _transaction_on(where), open_already
    if callable(where):
        return where, False
    return lambda: _transaction_of(where, timeout), False


@contextmanager
def _transaction_of(router: Writes, timeout: float) -> Iterator[psycopg.Connection[Any]]:
    """One that may take as long as the load, not as one of the application's."""
    limit = str(int(min(timeout * 1000 + 1, _MOST_MILLISECONDS)))
    with router.write(timeout=timeout) as connection:
        connection.execute(_LIMITS, {"limit": limit})
        yield connection


@contextmanager
def _transaction_on(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    with connection.transaction():
        yield connection
