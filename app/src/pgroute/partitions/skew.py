"""How evenly the rows of a table lie over its leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgroute.partitions.bounds import HashBound
from pgroute.partitions.layout import Layout
from pgroute.partitions.routing import HashLevel, Leaf, Level
from pgroute.partitions.table import Partitions
from pgroute.text import size, table

# A leaf is skewed when it is that much off its share, and chance would not do it.
TOLERATED_DEVIATION = 0.10
_LEAST_PROBABILITY = 0.001

# Leaves whose rows together should be that share of their group.
_Unit: TypeAlias = tuple[tuple[Leaf, ...], float]


@dataclass(frozen=True, slots=True)
class LeafSize:
    """One leaf. ``share`` and ``expected`` are parts of its group (see Group), ``expected`` only
    where a hash deals the rows out. ``rows`` is None when PostgreSQL has no estimate yet, and
    then no leaf of the group has a share."""

    leaf: Leaf
    rows: int | None
    size_bytes: int
    share: float | None
    expected: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The leaves below one hash level, and how likely chance deals rows out no more evenly.

    ``worst`` is the largest distance from an expected share, relative to it: 0.1 is 10 % off.
    """

    level: str
    rows: int
    chi_square: float
    degrees: int
    probability: float
    worst: float

    @property
    def skewed(self) -> bool:
        """True when a leaf is more off its share than chance and 10 % explain."""
        return self.worst > TOLERATED_DEVIATION and self.probability < _LEAST_PROBABILITY


@dataclass(frozen=True, slots=True)
class Skew:
    """A table's leaves and hash groups. ``exact``: rows were counted, else they are estimates."""

    table: str
    exact: bool
    leaves: tuple[LeafSize, ...]
    groups: tuple[Group, ...]

    @property
    def skewed(self) -> bool:
        """True when a group is."""
        return any(group.skewed for group in self.groups)

    def text(self) -> str:
        """The report as a table and one sentence per hash level."""
        rows = [
            (at.leaf.label, at.rows, size(at.size_bytes), _percent(at.share), _percent(at.expected))
            for at in self.leaves
        ]
        counted = "rows" if self.exact else "rows (estimated)"
        header = ("leaf", counted, "size", "share in %", "expected in %")
        return "\n".join([table(header, rows, indent=0), *map(_sentence, self.groups)])


def skew(
    connection: psycopg.Connection[Any], partitions: Partitions, *, exact: bool = False
) -> Skew:
    """Rows and bytes per leaf (indexes and TOAST included), against what the hash promises.

    ``exact`` counts every row, which reads the whole table; else the planner's estimates are
    used, as good as the last ANALYZE. Any node will do. Raises psycopg's errors.
    """
    leaves = partitions.leaves
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "select c.oid, nullif(c.reltuples, -1)::int8, pg_total_relation_size(c.oid) "
            "from pg_class as c where c.oid = any(%s)",
            ([leaf.oid for leaf in leaves],),
        )
        known = {oid: (rows, size_bytes) for oid, rows, size_bytes in cursor}
        gone = (None, 0)  # dropped since the layout was read
        rows = {leaf: known.get(leaf.oid, gone)[0] for leaf in leaves}
        if exact:
            counted = _counted(cursor, partitions.layout)
            rows = {leaf: counted.get(leaf.oid, 0) for leaf in leaves}
    return weigh(
        partitions.layout,
        rows,
        {leaf: known.get(leaf.oid, gone)[1] for leaf in leaves},
        exact=exact,
    )


def weigh(
    layout: Layout,
    rows: Mapping[Leaf, int | None],
    sizes: Mapping[Leaf, int],
    *,
    exact: bool,
) -> Skew:
    """The report for known rows and sizes in bytes. Pure."""
    groups: list[Group] = []
    expected: dict[Leaf, float] = {}
    share: dict[Leaf, float] = {}
    for level, units in _groups(layout.root):
        counts = [_sum([rows[leaf] for leaf in leaves]) for leaves, _ in units]
        known = [count for count in counts if count is not None]
        # The share of what is known would be no share of the whole.
        total = sum(known) if len(known) == len(counts) else 0
        whole = sum(part for _, part in units)
        shares = [part / whole for _, part in units]
        for (leaves, _), count, part in zip(units, counts, shares, strict=True):
            if len(leaves) == 1:
                expected[leaves[0]] = part
                if count is not None and total:
                    share[leaves[0]] = count / total
        if total and len(units) > 1:
            groups.append(_group(level.label, known, shares))
    return Skew(
        layout.table,
        exact,
        tuple(
            LeafSize(leaf, rows[leaf], sizes[leaf], share.get(leaf), expected.get(leaf))
            for leaf in layout.root.leaves()
        ),
        tuple(groups),
    )


def _counted(cursor: psycopg.Cursor[Any], layout: Layout) -> dict[int, int]:
    """Rows by the oid of their leaf. Asked of the parent: leaves have privileges of their own."""
    name = sql.Identifier(layout.schema, layout.name)
    question = sql.SQL("select tableoid, count(*) from {} group by tableoid").format(name)
    return dict(cursor.execute(question).fetchall())


def _groups(level: Level) -> Iterator[tuple[Level, list[_Unit]]]:
    """Every topmost hash level with its units; what lies below a range or list is apart."""
    if isinstance(level, HashLevel):
        yield level, list(_units(level, 1.0))
    for below in _apart(level):
        yield from _groups(below)


def _apart(level: Level) -> Iterator[Level]:
    """The levels below that start groups of their own."""
    for _, _, child in level.children:
        if not isinstance(child, Level):
            continue
        if isinstance(level, HashLevel) and isinstance(child, HashLevel):
            yield from _apart(child)
        else:
            yield child


def _units(level: Level, share: float) -> Iterator[_Unit]:
    for bound, _, child in level.children:
        part = share / bound.modulus if isinstance(bound, HashBound) else share
        if isinstance(child, Leaf):
            yield (child,), part
        elif isinstance(child, HashLevel):
            yield from _units(child, part)
        else:
            yield tuple(child.leaves()), part


def _group(level: str, counts: Sequence[int], shares: Sequence[float]) -> Group:
    total = sum(counts)
    wanted = [share * total for share in shares]
    chi_square = sum((n - e) ** 2 / e for n, e in zip(counts, wanted, strict=True))
    worst = max(abs(n - e) / e for n, e in zip(counts, wanted, strict=True))
    degrees = len(counts) - 1
    return Group(level, total, chi_square, degrees, _chance(chi_square, degrees), worst)


def _chance(chi_square: float, degrees: int) -> float:
    """The probability of a chi-square at least this large (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * degrees)
    deviation = ((chi_square / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(deviation / math.sqrt(2)) / 2


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _sentence(group: Group) -> str:
    verdict = "skewed" if group.skewed else "even"
    return (
        f"{group.level}: {verdict}: the furthest leaf is {100 * group.worst:.1f} % off its share; "
        f"chi-square {group.chi_square:.1f} with {group.degrees} degrees of freedom, "
        f"p = {group.probability:.3f}"
    )
