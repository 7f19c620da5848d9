"""COPY of blocks of rows, and which of their rows the server refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from pgroute.partitions.reports import Reject
from pgroute.partitions.types import key_type

# Types whose binary form psycopg makes from the plain Python value; other tables go as text.
_BINARY = frozenset(
    {"bool", "bytea", "date", "float8", "int2", "int4", "int8", "numeric", "text", "timestamp",
     "timestamptz", "uuid", "varchar"}
)  # fmt: skip
# psycopg's binary form of these drops what does not fit: 2**40 in an int4 becomes 0.
_GUARDED = ("bool", "date", "int2", "int4")
# Raised before a value is sent: it does not fit, or has no form for the server.
_OF_THE_CLIENT = (psycopg.DataError, psycopg.ProgrammingError)
_TYPES = """
select a.attname, t.typname
from pg_attribute as a
join pg_type as t on t.oid = a.atttypid
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A table to COPY into; ``label`` is its name in reports, ``name`` in the server's words."""

    label: str
    schema: str
    name: str


@dataclass(slots=True)
class Block:
    """Rows for one table with their numbers in the order given."""

    target: Target
    numbers: list[int]
    rows: list[Sequence[Any]]


class BadRow(Exception):
    """One row of a block cannot be written; ``at`` is None when the server did not say which."""

    def __init__(self, at: int | None, cause: Exception) -> None:
        super().__init__(str(cause))
        self.at = at
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of a load, and their types when the binary form can be used."""

    columns: tuple[str, ...]
    types: tuple[str, ...] | None


def shape_of(connection: psycopg.Connection[Any], table: str, columns: Sequence[str]) -> Shape:
    """The form in which ``columns`` are sent. An unknown column is left for COPY to refuse."""
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        known: dict[str, str] = dict(cursor.execute(_TYPES, (table,)).fetchall())
    types = tuple(known.get(column, "") for column in columns)
    return Shape(tuple(columns), types if set(types) <= _BINARY else None)


class Stream:
    """One COPY into ``target``, block after block; ``numbers`` are those of the rows so far.

    Raises BadRow, whose place counts from the first row of all, when a row is at fault, and
    psycopg's errors when not; the COPY has ended then. A row may be refused later than in
    :meth:`write`, at the latest in :meth:`finish`.
    """

    def __init__(self, connection: psycopg.Connection[Any], shape: Shape, target: Target) -> None:
        self.target = target
        self.numbers: list[int] = []
        self._written = 0
        self._shape = shape
        statement = sql.SQL("copy {}.{} ({}) from stdin{}").format(
            sql.Identifier(target.schema),
            sql.Identifier(target.name),
            sql.SQL(", ").join(map(sql.Identifier, shape.columns)),
            sql.SQL(" (format binary)" if shape.types else ""),
        )
        with ExitStack() as opening:
            cursor = opening.enter_context(connection.cursor())
            opening.callback(lambda: self._told(cursor.rowcount))  # before it is closed
            copying = opening.enter_context(cursor.copy(statement))
            if shape.types:
                copying.set_types(shape.types)
            self._write_row = copying.write_row
            self._open = opening.pop_all()

    def write(self, block: Block) -> None:
        """Send a block."""
        before, at = len(self.numbers), -1
        self.numbers += block.numbers
        write_row = self._write_row
        try:
            with self._open as ending:
                _guard(self._shape, block)
                for at, row in enumerate(block.rows):  # noqa: B007 - the failing row's place
                    write_row(row)
                self._open = ending.pop_all()
        except BadRow as bad:
            raise BadRow(None if bad.at is None else before + bad.at, bad.cause) from bad.cause
        except psycopg.Error as error:
            if at >= 0 and error.sqlstate is None and isinstance(error, _OF_THE_CLIENT):
                raise BadRow(before + at, error) from error
            self._blame(error)
            raise
        except Exception as error:
            if at < 0:
                raise
            raise BadRow(before + at, error) from error

    def finish(self) -> int:
        """End the COPY: how many rows the server has written, or BadRow for one it refuses.

        A trigger may have passed over some without an error.
        """
        try:
            self._open.close()
        except psycopg.Error as error:
            self._blame(error)
            raise
        return self._written

    def _told(self, rows: int) -> None:
        self._written = rows

    def _blame(self, error: psycopg.Error) -> None:
        """BadRow when the server speaks of a row."""
        if _speaks_of_a_row(error):
            words = error.diag.context or ""
            name = re.escape(self.target.name)
            found = re.search(rf"^COPY {name}, line (\d+)", words, re.MULTILINE)
            at = int(found[1]) - 1 if found else -1
            raise BadRow(at if 0 <= at < len(self.numbers) else None, error) from error


def copy_without_rejects(
    connection: psycopg.Connection[Any],
    shape: Shape,
    block: Block,
    reject: Callable[[Reject], None],
) -> int:
    """Write a block but for the rows that cannot be; how many were written.

    Each refused row is tried alone before ``reject`` hears of it, so that none is blamed for
    another; all others are written. Costs about twice a block for its first refused row.
    """
    written = 0
    pending = [block]
    while pending:
        some = pending.pop()
        try:
            with connection.transaction():
                stream = Stream(connection, shape, some.target)
                stream.write(some)
                count = stream.finish()
            written += count
        except BadRow as bad:
            if len(some.rows) == 1:
                reject(_reject(some.target, some.numbers[0], bad))
            else:
                pending += reversed(_split(some, bad.at))
    return written


def rejected(stream: Stream, bad: BadRow) -> Reject:
    """What to say of the row that stopped a stream."""
    numbers = stream.numbers
    at = bad.at if bad.at is not None else 0
    found = _reject(stream.target, numbers[at], bad)
    if bad.at is None and len(numbers) > 1:
        return Reject(
            found.row, found.table, f"{found.reason} (or up to row {numbers[-1]})", found.sqlstate
        )
    return found


def _guard(shape: Shape, block: Block) -> None:
    for column, name in enumerate(shape.types or ()):
        kind = key_type(name) if name in _GUARDED else None
        if kind is None:
            continue
        fits = kind.stored
        for at, row in enumerate(block.rows):
            value = row[column]
            if value is not None:
                try:
                    fits(value)
                except (TypeError, ValueError) as error:
                    raise BadRow(at, error) from error


def _reject(target: Target, number: int, bad: BadRow) -> Reject:
    state = getattr(bad.cause, "sqlstate", None)
    return Reject(number, target.label, one_line(bad.cause), state)


def one_line(error: BaseException) -> str:
    """What was wrong with a row, without the row."""
    lines = str(error).strip().splitlines()
    words = lines[0] if lines else "no reason given"
    return words if isinstance(error, psycopg.Error) else f"{type(error).__name__}: {words}"


def _speaks_of_a_row(error: psycopg.Error) -> bool:
    """Wrong values, broken constraints, what a trigger raises, what an index has no room for."""
    state = error.sqlstate or ""
    return state[:2] in ("22", "23", "44") or state in ("P0001", "P0004", "54000")


def _split(block: Block, at: int | None) -> list[Block]:
    """Before, at and after the row that is blamed; halves when none is."""
    middle = len(block.rows) // 2
    cuts = [0, middle, len(block.rows)] if at is None else [0, at, at + 1, len(block.rows)]
    return [
        Block(block.target, block.numbers[low:high], block.rows[low:high])
        for low, high in pairwise(cuts)
        if low < high
    ]
