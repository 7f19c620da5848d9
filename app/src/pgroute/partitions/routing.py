"""Finds the leaf of a row in a tree of partitions. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import Any, TypeAlias

from pgroute.partitions.bounds import Bound, DefaultBound, Edge, HashBound, ListBound, RangeBound
from pgroute.partitions.hashing import combine, combine_many
from pgroute.partitions.types import KeyType, Stored

Row: TypeAlias = Sequence[Any]
# Edges sort before and after every value.
Place: TypeAlias = tuple[int, Stored]
Places: TypeAlias = tuple[Place, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A table that holds rows. ``label`` is its name as ``oid::regclass`` prints it.

    Compared by identity: a Leaf is looked up once per row.
    """

    oid: int
    schema: str
    name: str
    label: str
    bound: str
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column that a level is partitioned by; ``at`` is its place in the rows to be routed."""

    name: str
    sql_type: str
    type: KeyType
    at: int


class Level(ABC):
    """A partitioned table: which of its partitions takes a row."""

    strategy: str

    def __init__(self, label: str, columns: Sequence[KeyColumn]) -> None:
        self.label = label
        self.columns = tuple(columns)
        self.children: list[tuple[Bound, str, Leaf | Level]] = []
        self.default: Leaf | Level | None = None

    def add(self, bound: Bound, text: str, child: Leaf | Level) -> None:
        """Take in a partition with its bound, parsed and as PostgreSQL prints it."""
        self.children.append((bound, text, child))
        if isinstance(bound, DefaultBound):
            self.default = child

    def leaves(self) -> list[Leaf]:
        """All leaves below, in the order of the catalog."""
        found: list[Leaf] = []
        for _, _, child in self.children:
            found += [child] if isinstance(child, Leaf) else child.leaves()
        return found

    @abstractmethod
    def child(self, row: Row) -> Leaf | Level | None:
        """The partition of one row, None when no partition takes it."""

    def children_of(self, rows: Sequence[Row]) -> list[Leaf | Level | None]:
        """child() of each row, in order."""
        return [self.child(row) for row in rows]

    def leaf(self, row: Row) -> Leaf | None:
        """The leaf of one row, None when no partition takes it."""
        found = self.child(row)
        while isinstance(found, Level):
            found = found.child(row)
        return found

    def leaves_of(self, rows: Sequence[Row]) -> list[Leaf | None]:
        """leaf() of each row, in order; cheaper than one by one."""
        found = self.children_of(rows)
        if self._flat:
            return found  # type: ignore[return-value]
        return [
            child.leaf(row) if isinstance(child, Level) else child
            for child, row in zip(found, rows, strict=True)
        ]

    @cached_property
    def _flat(self) -> bool:
        return all(isinstance(child, Leaf) for _, _, child in self.children)


class HashLevel(Level):
    """Partitioned by hash; moduli may differ, each a factor of the next."""

    strategy = "hash"

    @cached_property
    def _tables(self) -> list[tuple[int, dict[int, Leaf | Level]]]:
        tables: dict[int, dict[int, Leaf | Level]] = {}
        for bound, _, child in self.children:
            assert isinstance(bound, HashBound)  # noqa: S101 - PostgreSQL has no others here
            tables.setdefault(bound.modulus, {})[bound.remainder] = child
        return sorted(tables.items(), key=lambda item: item[0])

    def child(self, row: Row) -> Leaf | Level | None:
        row_hash = 0
        for column in self.columns:
            value = row[column.at]
            if value is not None:
                row_hash = combine(row_hash, column.type.hash(value))
        return self._take(row_hash)

    def children_of(self, rows: Sequence[Row]) -> list[Leaf | Level | None]:
        row_hashes = [0] * len(rows)
        for column in self.columns:
            values = [row[column.at] for row in rows]
            row_hashes = _combined(row_hashes, column.type, values)
        if len(self._tables) == 1:
            ((modulus, by_remainder),) = self._tables
            take = by_remainder.get
            return [take(row_hash % modulus) for row_hash in row_hashes]
        return [self._take(row_hash) for row_hash in row_hashes]

    def _take(self, row_hash: int) -> Leaf | Level | None:
        for modulus, by_remainder in self._tables:
            found = by_remainder.get(row_hash % modulus)
            if found is not None:
                return found
        return None


class RangeLevel(Level):
    """Partitioned by range: lower bounds belong to a partition, upper bounds do not."""

    strategy = "range"

    @cached_property
    def _ranges(self) -> tuple[list[Places], list[Places], list[Leaf | Level]]:
        ranges = sorted(
            (
                (self._places(bound.lower), self._places(bound.upper), child)
                for bound, _, child in self.children
                if isinstance(bound, RangeBound)
            ),
            key=lambda item: item[0],
        )
        return [r[0] for r in ranges], [r[1] for r in ranges], [r[2] for r in ranges]

    def _places(self, ends: Sequence[str | Edge]) -> Places:
        return tuple(_place(column, end) for column, end in zip(self.columns, ends, strict=True))

    def child(self, row: Row) -> Leaf | Level | None:
        places: list[Place] = []
        for column in self.columns:
            value = row[column.at]
            if value is None:
                return self.default
            places.append((0, column.type.stored(value)))
        here = tuple(places)
        lowers, uppers, children = self._ranges
        at = bisect_right(lowers, here) - 1
        return children[at] if at >= 0 and here < uppers[at] else self.default


class ListLevel(Level):
    """Partitioned by a list of values; NULL may be one of them."""

    strategy = "list"

    @cached_property
    def _by_value(self) -> dict[Stored | None, Leaf | Level]:
        parse = self.columns[0].type.parse
        return {
            None if literal is None else parse(literal): child
            for bound, _, child in self.children
            if isinstance(bound, ListBound)
            for literal in bound.values
        }

    def child(self, row: Row) -> Leaf | Level | None:
        column = self.columns[0]
        value = row[column.at]
        stored = None if value is None else column.type.stored(value)
        return self._by_value.get(stored, self.default)


LEVELS: dict[str, type[Level]] = {"h": HashLevel, "r": RangeLevel, "l": ListLevel}


def _place(column: KeyColumn, end: str | Edge) -> Place:
    if end is Edge.MINVALUE:
        return (-1, 0)
    if end is Edge.MAXVALUE:
        return (1, 0)
    return (0, column.type.parse(end))


def _combined(row_hashes: list[int], key: KeyType, values: list[Any]) -> list[int]:
    """The rows' hashes with one more column's values. NULL changes nothing."""
    if NoneType not in set(map(type, values)):
        return combine_many(row_hashes, _hashes(key, values))
    present = [at for at, value in enumerate(values) if value is not None]
    hashes = _hashes(key, [values[at] for at in present])
    for at, value_hash in zip(present, hashes, strict=True):
        row_hashes[at] = combine(row_hashes[at], value_hash)
    return row_hashes


def _hashes(key: KeyType, values: list[Any]) -> list[int]:
    return key.hash_many(values) if key.hash_many else [key.hash(value) for value in values]
