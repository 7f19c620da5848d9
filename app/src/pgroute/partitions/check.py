"""Asks the server whether it agrees with the leaves that were computed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgroute.errors import PartitionMismatch
from pgroute.partitions.bounds import ListBound, RangeBound
from pgroute.partitions.copying import Target
from pgroute.partitions.layout import SETTINGS, Layout
from pgroute.partitions.routing import KeyColumn, Leaf, Level, Row

KEYS_PER_LEAF = 8
_TRIES_PER_LEAF = 64
_LEAVES_PER_QUERY = 64
_NULL_SHARE = 0.05
_BOUND_SHARE = 0.7
# Which names lead to no such leaf of the table any more. Ancestors and names are looked up as they
# are now, by any isolation level; a leaf whose detaching has begun has no ancestors.
_CHANGED = """
select leaf.label
from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) as leaf (schema, name, label, bound)
cross join lateral to_regclass(format('%%I.%%I', leaf.schema, leaf.name)) as found (oid)
where not exists (
    select from pg_class as c
    cross join pg_partition_ancestors(found.oid) as above (oid)
    where c.oid = found.oid and pg_get_expr(c.relpartbound, c.oid) = leaf.bound
      and above.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))
)
limit 1
"""


def check(
    connection: psycopg.Connection[Any],
    layout: Layout,
    random: Random,
    *,
    keys_per_leaf: int = KEYS_PER_LEAF,
) -> int:
    """Compare made-up keys with the server, up to ``keys_per_leaf`` each: how many agreed.

    The server evaluates each leaf's own partition constraint (for hash that is
    ``satisfies_hash_partition``) on the keys that were computed to lie there. Raises
    PartitionMismatch naming the first key that does not, and psycopg's errors.
    """
    samples = draw(layout, random, keys_per_leaf=keys_per_leaf)
    leaves = list(samples)
    with connection.transaction(force_rollback=True):
        connection.execute("select set_config('timezone', 'UTC', true)")
        for start in range(0, len(leaves), _LEAVES_PER_QUERY):
            some = {leaf: samples[leaf] for leaf in leaves[start : start + _LEAVES_PER_QUERY]}
            _compare(connection, layout, some)
    return sum(map(len, samples.values()))


def require_unchanged(
    connection: psycopg.Connection[Any], table: Target, leaves: Sequence[Leaf]
) -> None:
    """Raise PartitionMismatch when one of ``leaves`` is not, with its bounds, in ``table`` now.

    What this transaction has written into stays as it is found until the transaction ends.
    """
    columns = [
        [getattr(leaf, name) for leaf in leaves] for name in ("schema", "name", "label", "bound")
    ]
    with (
        connection.transaction(force_rollback=True),
        connection.cursor(row_factory=tuple_row) as cursor,
    ):
        cursor.execute(SETTINGS)
        changed = cursor.execute(_CHANGED, (*columns, table.schema, table.name)).fetchone()
    if changed is not None:
        raise PartitionMismatch(
            f"{changed[0]} is not the partition of {table.label} that it was when the partitions "
            f"were read: read them again, then load again"
        )


def draw(layout: Layout, random: Random, *, keys_per_leaf: int) -> dict[Leaf, list[Row]]:
    """Keys for every leaf that chance finds, near the bounds as well as anywhere. Pure."""
    leaves = layout.root.leaves()
    samples: dict[Leaf, list[Row]] = {leaf: [] for leaf in leaves}
    wanting = len(leaves)
    near = [_near_bounds(layout.root, column) for column in layout.columns]
    for _ in range(_TRIES_PER_LEAF * keys_per_leaf * len(leaves)):
        if wanting == 0:
            break
        row = [_value(*pair, random) for pair in zip(layout.columns, near, strict=True)]
        leaf = layout.root.leaf(row)
        if leaf is not None and len(samples[leaf]) < keys_per_leaf:
            samples[leaf].append(row)
            wanting -= len(samples[leaf]) == keys_per_leaf
    return {leaf: rows for leaf, rows in samples.items() if rows}


def _value(column: KeyColumn, near: Sequence[Any], random: Random) -> Any:
    if random.random() < _NULL_SHARE:
        return None
    if near and random.random() < _BOUND_SHARE:
        return random.choice(near)
    return column.type.sample(random)


def _near_bounds(level: Level, column: KeyColumn) -> list[Any]:
    """Every value that bounds name for the column, with its neighbours."""
    return list(dict.fromkeys(_values_near_bounds(level, column)))


def _values_near_bounds(level: Level, column: KeyColumn) -> Iterator[Any]:
    at = next((at for at, own in enumerate(level.columns) if own is column), None)
    for bound, _, child in level.children:
        if isinstance(child, Level):
            yield from _values_near_bounds(child, column)
        if at is None:
            continue
        literals: tuple[object, ...] = ()
        if isinstance(bound, RangeBound):
            literals = (bound.lower[at], bound.upper[at])
        elif isinstance(bound, ListBound):
            literals = bound.values
        for literal in literals:
            if isinstance(literal, str):
                yield from _neighbours(column, literal)


def _neighbours(column: KeyColumn, literal: str) -> Iterator[Any]:
    stored = column.type.parse(literal)
    if isinstance(stored, bytes):
        around: list[Any] = [stored, stored + b" ", stored[:-1]]
    else:
        around = [stored - 1, stored, stored + 1]
    for neighbour in around:
        # Some bounds have no neighbour, or none that Python can hold.
        with suppress(ValueError, OverflowError):
            value = column.type.restore(neighbour)
            column.type.stored(value)
            yield value


def _compare(
    connection: psycopg.Connection[Any], layout: Layout, samples: Mapping[Leaf, Sequence[Row]]
) -> None:
    with connection.cursor(row_factory=tuple_row) as cursor:
        constraints: dict[int, Any] = dict(
            cursor.execute(
                "select oid, pg_get_partition_constraintdef(oid) "
                "from unnest(%s::oid[]) as leaf (oid)",
                ([leaf.oid for leaf in samples],),
            )
        )
        queries: list[sql.Composable] = []
        values: list[Any] = []
        asked = [leaf for leaf in samples if constraints[leaf.oid] is not None]
        for at, leaf in enumerate(asked):
            queries.append(_query(at, layout, constraints[leaf.oid]))
            values += [[row[column.at] for row in samples[leaf]] for column in layout.columns]
        wrong = None
        if queries:
            wrong = cursor.execute(sql.SQL(" union all ").join(queries), values).fetchone()
    if wrong is not None:
        leaf = asked[wrong[0]]
        names = ", ".join(column.name for column in layout.columns)
        raise PartitionMismatch(
            f"{layout.table}: the server does not put ({names}) = {wrong[1]} into {leaf.label}, "
            f"as computed: nothing is computed for this table any more"
        )


def _query(at: int, layout: Layout, constraint: str) -> sql.Composable:
    """Rows (at, key) for the keys that the constraint refuses."""
    names = [_verbatim(sql.Identifier(column.name).as_string()) for column in layout.columns]
    arrays = [sql.SQL("%s::" + column.sql_type + "[]") for column in layout.columns]
    # The constraint is the catalog's own words, made of bounds and column names.
    return sql.SQL(
        "(select {at}, row({names})::text from unnest({arrays}) as key ({names}) "
        "where ({constraint}) is false)"
    ).format(
        at=sql.Literal(at),
        names=sql.SQL(", ").join(names),
        arrays=sql.SQL(", ").join(arrays),
        constraint=_verbatim(constraint),
    )


def _verbatim(text: str) -> sql.SQL:
    """SQL in which % is no placeholder of psycopg's."""
    return sql.SQL(text.replace("%", "%%"))
