"""The partitions of one table: which leaf a key goes to, computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random, SystemRandom
from typing import Any, Self

import psycopg

from pgroute.errors import NoLeaf, PartitionMismatch
from pgroute.partitions.check import check
from pgroute.partitions.layout import Layout, read_layout
from pgroute.partitions.routing import Leaf, Level, Row

_COMPOSED = frozenset({tuple, list, dict})


class Partitions:
    """A partitioned table as it was when it was read. Make one with :meth:`read`.

    A partition attached or detached later is not seen: read again then. A row written to a leaf
    where it does not belong is refused by the server (SQLSTATE 23514), never misplaced; but a leaf
    that was detached takes any. :func:`pgroute.partitions.load` makes sure that none was.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.leaves: tuple[Leaf, ...] = tuple(layout.root.leaves())
        self.checked_keys = 0
        self._columns = self.columns
        self._single = len(self._columns) == 1
        self._root: Level = layout.root
        self._refused: str | None = None

    @classmethod
    def read(
        cls, connection: psycopg.Connection[Any], table: str, *, random: Random | None = None
    ) -> Self:
        """The partitions of ``table`` (as SQL writes its name), checked against the server.

        Any node will do; nothing is written. Raises NotPartitioned; UncomputableKey for a key
        whose leaf is not computed here; PartitionMismatch when the server disagrees; psycopg's
        errors.
        """
        found = cls(read_layout(connection, table))
        found.check(connection, random=random)
        return found

    def check(self, connection: psycopg.Connection[Any], *, random: Random | None = None) -> int:
        """Ask the server about made-up keys: how many agreed (some per leaf).

        Raises PartitionMismatch when one does not; from then on every question here raises it.
        """
        try:
            self.checked_keys = check(connection, self.layout, random or SystemRandom())
        except PartitionMismatch as mismatch:
            self._refused = str(mismatch)
            raise
        return self.checked_keys

    @property
    def table(self) -> str:
        """The table's name as ``oid::regclass`` prints it."""
        return self.layout.table

    @property
    def columns(self) -> tuple[str, ...]:
        """The key columns of all levels, each once, from the top down."""
        return tuple(column.name for column in self.layout.columns)

    def leaf(self, key: Any) -> str:
        """The name of the leaf that takes ``key``, as ``tableoid::regclass`` prints it.

        ``key`` is a value when there is one key column, else a sequence in the order of
        ``columns``, or a mapping from column to value. NULL is None. Raises NoLeaf; TypeError and
        ValueError for a value that the column's type cannot hold; KeyError for a missing column.
        """
        row = (key,) if self._single and type(key) not in _COMPOSED else self._row(key)
        if self._refused is not None:
            raise PartitionMismatch(self._refused)
        found = self._root.leaf(row)
        if found is None:
            raise NoLeaf(f"no partition of {self.table} takes {self._columns} = {tuple(row)!r}")
        return found.label

    def leaves_of(self, rows: Sequence[Row]) -> list[Leaf | None]:
        """The leaf of each row of key values, in order; None where no partition takes it.

        A batch of some hundred costs a fraction of leaf() per key. Errors as leaf().
        """
        if self._refused is not None:
            raise PartitionMismatch(self._refused)
        return self._root.leaves_of(rows)

    def _row(self, key: Any) -> Row:
        if isinstance(key, Mapping):
            return [key[name] for name in self._columns]
        if self._single and not isinstance(key, tuple | list):
            return (key,)
        if len(key) != len(self._columns):
            raise ValueError(f"{self.table} has key columns {self._columns}, not {key!r}")
        return tuple(key)
