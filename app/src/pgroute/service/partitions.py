"""The partitions and how full they are, for the page: estimates that cost nothing to ask."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from pgroute.examples.shop.queries import Query


@dataclass(frozen=True, slots=True)
class Partition:
    """One leaf. ``rows`` is the planner's estimate, None before the first ANALYZE; ``bytes`` is
    None when the leaf was dropped while it was looked at."""

    table: str
    name: str
    bound: str
    rows: int | None
    bytes: int | None


PARTITIONS = Query(
    sql.SQL("""
select parent.oid::regclass::text as table, leaf.oid::regclass::text as name,
       pg_get_expr(leaf.relpartbound, leaf.oid) as bound,
       case when leaf.reltuples >= 0 then leaf.reltuples::bigint end as rows,
       pg_table_size(leaf.oid) as bytes
from pg_class as parent
join lateral pg_partition_tree(parent.oid) as tree on tree.isleaf
join pg_class as leaf on leaf.oid = tree.relid
where parent.relkind = 'p' and not parent.relispartition
order by 1, 2
"""),
    Partition,
)
