"""What ``pgroute partitions`` says of a table: its layout, the self-test, its skew."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import scalar_row

from pgroute.partitions.layout import Layout
from pgroute.partitions.routing import Leaf, Level
from pgroute.partitions.skew import skew
from pgroute.partitions.table import Partitions

_TABLES = """
select c.oid::regclass::text
from pg_class as c
where c.relkind = 'p' and not c.relispartition
  and has_schema_privilege(c.relnamespace, 'usage') and has_table_privilege(c.oid, 'select')
order by 1
"""


def tables(connection: psycopg.Connection[Any]) -> list[str]:
    """The partitioned tables that this role may read, without those that are partitions."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return list(cursor.execute(_TABLES).fetchall())


def report(connection: psycopg.Connection[Any], table: str, *, exact: bool = False) -> str:
    """Layout, self-test and skew of ``table`` as text. Any node will do; nothing is written.

    ``exact`` counts all rows instead of taking the planner's estimates. Raises what
    Partitions.read() raises: a mismatch, or a key that cannot be computed, is no report.
    """
    partitions = Partitions.read(connection, table)
    found = skew(connection, partitions, exact=exact)
    return "\n".join(
        [
            describe(partitions.layout),
            "",
            _self_test(partitions.checked_keys),
            "",
            found.text(),
        ]
    )


def _self_test(keys: int) -> str:
    if keys == 0:
        return "Self-test: no key was found to ask the server about."
    return f"Self-test: the server agrees on the leaf of {keys} made-up keys."


def describe(layout: Layout) -> str:
    """The tree of partitions, indented, with bounds. Pure."""
    return "\n".join(_lines(layout.root, layout.table, 0))


def _lines(node: Leaf | Level, label: str, depth: int, bound: str = "") -> list[str]:
    start = f"{'  ' * depth}{label}{': ' if bound else ''}{bound.removeprefix('FOR VALUES ')}"
    if isinstance(node, Leaf):
        return [f"{start} (foreign)" if node.foreign else start]
    keys = ", ".join(f"{column.name} {column.sql_type}" for column in node.columns)
    lines = [f"{start}, by {node.strategy} of {keys}"]
    for _, text, child in node.children:
        lines += _lines(child, child.label, depth + 1, text)
    return lines
