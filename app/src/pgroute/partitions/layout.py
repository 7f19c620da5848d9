"""Reads the layout of a partitioned table from the catalog: its levels, bounds and key types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from pgroute.errors import NotPartitioned, UncomputableKey
from pgroute.partitions import bounds
from pgroute.partitions.routing import LEVELS, KeyColumn, Leaf, Level
from pgroute.partitions.types import key_type

# Bounds are printed by the session's settings; here they are always printed the same way.
SETTINGS = """
select set_config('datestyle', 'ISO, YMD', true), set_config('timezone', 'UTC', true),
       set_config('bytea_output', 'hex', true),
       set_config('standard_conforming_strings', 'on', true)
"""
_TABLES = """
with recursive tree (oid, parent, depth) as (
    select %s::regclass::oid, null::oid, 0
    union all
    select i.inhrelid, i.inhparent, tree.depth + 1
    from tree join pg_inherits as i on i.inhparent = tree.oid and not i.inhdetachpending
    where exists (select from pg_partitioned_table as p where p.partrelid = tree.oid)
)
select c.oid, tree.parent, n.nspname as schema, c.relname as name, c.oid::regclass::text as label,
       c.relkind::text as kind, p.partstrat::text as strategy,
       pg_get_expr(c.relpartbound, c.oid) as bound
from tree
join pg_class as c on c.oid = tree.oid
join pg_namespace as n on n.oid = c.relnamespace
left join pg_partitioned_table as p on p.partrelid = c.oid
order by tree.depth, c.oid
"""
# An operator class is known when it came with PostgreSQL and its family is the type's usual one.
# PostgreSQL 14 has no datlocprovider: every database sorts by libc.
_KEY_COLUMNS = """
select p.partrelid as table_oid, a.attname as name, t.typname as type, a.atttypmod as modifier,
       t.typnamespace = 'pg_catalog'::regnamespace as built_in,
       format_type(a.atttypid, a.atttypmod) as sql_type, o.opcname as operators,
       o.oid < 16384 and exists (
           select from pg_opclass as usual
           where usual.opcfamily = o.opcfamily and usual.opcintype = o.opcintype
             and usual.opcdefault and usual.oid < 16384
       ) as usual_operators,
       l.collname as collation_name, coalesce(l.collisdeterministic, true) as deterministic,
       case l.collprovider
           when 'd' then d.provider = 'b' or d.provider = 'c' and d.datcollate in ('C', 'POSIX')
           when 'c' then l.collcollate in ('C', 'POSIX')
           else l.collprovider = 'b'
       end as sorts_by_bytes
from pg_partitioned_table as p
cross join (
    select datcollate, coalesce(to_jsonb(own) ->> 'datlocprovider', 'c') as provider
    from pg_database as own where datname = current_database()
) as d
cross join unnest(p.partattrs::int2[], p.partclass::oid[], p.partcollation::oid[])
    with ordinality as k (attribute, operator_class, collation_oid, at)
left join pg_attribute as a on a.attrelid = p.partrelid and a.attnum = k.attribute
left join pg_type as t on t.oid = a.atttypid
left join pg_opclass as o on o.oid = k.operator_class
left join pg_collation as l on l.oid = k.collation_oid
where p.partrelid = any(%s)
order by p.partrelid, k.at
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """A partitioned table: its name as regclass prints it, its key columns and its tree.

    ``columns`` are the columns of all levels, each once, in the order of the levels: the order in
    which rows are handed to ``root``.
    """

    table: str
    oid: int
    schema: str
    name: str
    columns: tuple[KeyColumn, ...]
    root: Level


def read_layout(connection: psycopg.Connection[Any], table: str) -> Layout:
    """The layout of ``table``, a name as SQL writes it. Any node of the cluster will do.

    Runs in a transaction of its own, or a savepoint, and leaves no setting behind. Raises
    NotPartitioned, UncomputableKey, and psycopg's errors (UndefinedTable).
    """
    with (
        connection.transaction(force_rollback=True),
        connection.cursor(row_factory=namedtuple_row) as cursor,
    ):
        connection.execute(SETTINGS)
        utf8 = connection.info.parameter_status("server_encoding") == "UTF8"
        tables: list[Any] = cursor.execute(_TABLES, (table,)).fetchall()
        if tables[0].strategy is None:
            raise NotPartitioned(f"{tables[0].label} is not a partitioned table")
        oids = [row.oid for row in tables if row.strategy is not None]
        columns = cursor.execute(_KEY_COLUMNS, (oids,)).fetchall()
    return _build(tables, columns, utf8=utf8)


def _build(tables: Sequence[Any], rows: Sequence[Any], *, utf8: bool) -> Layout:
    names: dict[str, KeyColumn] = {}
    levels: dict[int, Level] = {}
    for table in tables:
        node: Leaf | Level
        if table.strategy is None:
            node = Leaf(
                table.oid, table.schema, table.name, table.label, table.bound, table.kind == "f"
            )
        else:
            keys = [
                _key_column(table.label, table.strategy, row, names, utf8=utf8)
                for row in rows
                if row.table_oid == table.oid
            ]
            node = levels[table.oid] = LEVELS[table.strategy](table.label, keys)
        if table.parent in levels:
            levels[table.parent].add(bounds.parse(table.bound), table.bound, node)
    top = tables[0]
    columns = tuple(names.values())
    return Layout(top.label, top.oid, top.schema, top.name, columns, levels[top.oid])


def _key_column(
    table: str, strategy: str, row: Any, known: dict[str, KeyColumn], *, utf8: bool
) -> KeyColumn:
    if row.name is None:
        raise UncomputableKey(table, "an expression", "unknown", "only plain columns are computed")
    found = key_type(row.type, row.modifier) if row.built_in else None
    reason = None
    if found is None:
        reason = "this type's hash or order is not computed here"
    elif not row.usual_operators:
        reason = f"operator class {row.operators} is not the type's usual one"
    elif not row.deterministic:
        reason = f"collation {row.collation_name} is not deterministic"
    elif strategy == "r" and row.sorts_by_bytes is False:
        reason = f"collation {row.collation_name} does not sort by bytes, as C does"
    elif row.type in ("text", "varchar") and not utf8:
        reason = "the database's encoding is not UTF8"
    if found is None or reason is not None:
        raise UncomputableKey(table, f"column {row.name}", row.sql_type, reason or "")
    if row.name not in known:
        known[row.name] = KeyColumn(row.name, row.sql_type, found, len(known))
    return known[row.name]
