"""What a server would do for a statement: leaves read and pruned, scans, and what is costly.

The statement is planned, not run. Only ``analyze=True`` runs it, and only if it is known to be
harmless. Planning itself may call functions that are declared immutable or stable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pgroute.errors import NotExplained
from pgroute.statements import Decision, Route, Statements
from pgroute.statements.lexer import Unsure, tokens
from pgroute.statements.references import Name, References, read, word
from pgroute.statements.references import statements as cut
from pgroute.text import size

Rows = Sequence[Sequence[Any]]
Run = Callable[[str, Any], Rows]
"""Runs one SQL text with psycopg's parameters (or None) on one connection and gives its rows."""

AsyncRun = Callable[[str, Any], Awaitable[Rows]]
"""The same, awaited."""

Steps = Generator[tuple[str, Any], Rows, "Explanation"]

BIG_BYTES = 8 * 1024 * 1024
"""From this size on a sequential scan of a table is worth a warning."""

_SCANS = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Sample Scan",
          "Tid Scan", "Tid Range Scan", "Foreign Scan", "Custom Scan"}  # fmt: skip

# What postgres_fdw has its server do as a whole: Aggregate on ((public.a x) INNER JOIN (public.b))
_NAME = r'((?:"(?:[^"]|"")+"|[^\s"().])+)'
_RELATION = re.compile(rf"\({_NAME}\.{_NAME}[ )]")

# All leaves of the tables that the plan reads or the statement names. What is read may lie in
# schemas that the user may not use, where to_regclass() fails.
_LEAVES = """
with named (id) as (
    select to_regclass(name) from unnest(%s::text[]) as name
    union
    select c.oid from unnest(%s::text[], %s::text[]) as scanned (schema, name)
    join pg_namespace n on n.nspname = scanned.schema
    join pg_class c on c.relnamespace = n.oid and c.relname = scanned.name
),
roots (id) as (
    select distinct coalesce(pg_partition_root(id), id) from named where id is not null
),
leaves (root, id) as (
    select roots.id, tree.relid from roots, pg_partition_tree(roots.id) as tree where tree.isleaf
    union
    select id, id from roots where not exists (select from pg_partition_tree(id))
)
select rn.nspname, r.relname, r.relkind = 'p', cn.nspname, c.relname,
    case when c.relkind <> 'f' then pg_relation_size(c.oid) end, greatest(c.reltuples, 0)::int8
from leaves
join pg_class r on r.oid = root join pg_namespace rn on rn.oid = r.relnamespace
join pg_class c on c.oid = leaves.id join pg_namespace cn on cn.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'f')
order by 1, 2, 4, 5
"""


@dataclass(frozen=True, slots=True)
class Scan:
    """One table that the plan reads. ``bytes`` is None when the size is not known."""

    relation: str
    how: str
    rows: int
    bytes: int | None = None
    index: str | None = None
    executed: bool = True  # False: ANALYZE found that it was never needed


@dataclass(frozen=True, slots=True)
class Pruning:
    """A partitioned table: which leaves the plan reads and which it does not."""

    table: str
    scanned: tuple[str, ...]
    pruned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan in short. Costs are the planner's; milliseconds are there after ANALYZE only.

    ``pruned_at_start``: how many subplans were removed when execution began ("Subplans Removed");
    their leaves are among the pruned ones. ``plan`` is the server's own JSON.
    """

    sql: str
    node: str
    route: Route
    reason: str
    scans: tuple[Scan, ...]
    tables: tuple[Pruning, ...]
    pruned_at_start: int
    cost: float
    rows: int
    milliseconds: float | None
    warnings: tuple[str, ...]
    plan: Mapping[str, Any]

    def text(self) -> str:
        """The same for people, some lines."""
        return "\n".join(_lines(self))


def explain(
    sql: str,
    params: Any,
    run: Run,
    *,
    node: str = "",
    statements: Statements | None = None,
    analyze: bool = False,
    big_bytes: int = BIG_BYTES,
) -> Explanation:
    """Explain one statement on the connection of ``run``, which is to the server ``node``.

    ``statements`` says where the statement would go and whether ``analyze`` may run it. Raises
    NotExplained for several statements, for a text that cannot be cut with certainty, and for
    ``analyze`` of what is not known to be harmless; psycopg's errors for what the server refuses.
    """
    steps = explaining(
        sql, params, node=node, statements=statements, analyze=analyze, big_bytes=big_bytes
    )
    question = next(steps)
    while True:
        try:
            question = steps.send(run(*question))
        except StopIteration as done:
            return _explanation(done)


async def explain_async(
    sql: str,
    params: Any,
    run: AsyncRun,
    *,
    node: str = "",
    statements: Statements | None = None,
    analyze: bool = False,
    big_bytes: int = BIG_BYTES,
) -> Explanation:
    """As :func:`explain`, for a ``run`` that is awaited."""
    steps = explaining(
        sql, params, node=node, statements=statements, analyze=analyze, big_bytes=big_bytes
    )
    question = next(steps)
    while True:
        try:
            question = steps.send(await run(*question))
        except StopIteration as done:
            return _explanation(done)


def _explanation(done: StopIteration) -> Explanation:
    assert isinstance(done.value, Explanation)  # noqa: S101 - what the generator returns
    return done.value


def explaining(
    sql: str,
    params: Any,
    *,
    node: str = "",
    statements: Statements | None = None,
    analyze: bool = False,
    big_bytes: int = BIG_BYTES,
) -> Steps:
    """The questions to the server, one by one, without asking them: for both fronts."""
    known = statements or Statements()
    conforming = known.catalog is not None and known.catalog.conforming_strings
    named = _names_in_one_statement(sql, conforming=conforming)
    decision = known.decide(sql)
    if analyze and decision.route is not Route.REPLICA:
        raise NotExplained(f"ANALYZE would run the statement, and: {decision.reason}")
    options = "analyze, buffers off, format json" if analyze else "format json"
    rows = yield (f"explain (verbose, {options}) {sql}", params)
    plan = _plan(rows)
    scans = tuple(_scans(plan["Plan"]))
    scanned = sorted({scan.relation for scan in scans})
    schemas, names = [schema for schema, _ in scanned], [name for _, name in scanned]
    leaves = yield (_LEAVES, (named, schemas, names))
    return _explained(sql, node, decision, plan, scans, leaves, big_bytes)


# What the statement names


def _names_in_one_statement(sql: str, *, conforming: bool) -> list[str]:
    """The relations that the text names; raises NotExplained unless it is one statement.

    ``conforming``: the server is known to take a backslash in a plain string for itself.
    """
    try:
        found = list(cut(tokens(sql, conforming_strings=conforming)))
    except Unsure as unsure:
        raise NotExplained(f"the statement is not clear: {unsure}") from None
    if len(found) != 1:
        raise NotExplained(f"one statement can be explained, not {len(found)}")
    if word(found[0], 0) == "explain":
        raise NotExplained("give the statement without EXPLAIN")
    references = References()
    read(found[0], references)
    return sorted(_quoted(name) for name in references.relations)


def _quoted(name: Name) -> str:
    parts = [name] if isinstance(name, str) else name
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


# What the plan says


@dataclass(frozen=True, slots=True)
class _Found:
    """A scan as it stands in the plan."""

    relation: tuple[str, str]
    how: str
    rows: int
    index: str | None
    executed: bool


def _plan(rows: Rows) -> Mapping[str, Any]:
    answer = rows[0][0]
    found = json.loads(answer) if isinstance(answer, str | bytes) else answer
    plan: Mapping[str, Any] = found[0]
    if "Plan" not in plan:
        raise NotExplained("the server has no plan for such a statement")
    return plan


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _scans(plan: Mapping[str, Any]) -> Iterator[_Found]:
    for found in _nodes(plan):
        if found["Node Type"] in _SCANS:
            for relation in _relations(found):
                yield _Found(
                    relation=relation,
                    how=found["Node Type"],
                    rows=int(found.get("Actual Rows", found["Plan Rows"])),
                    index=found.get("Index Name") or _index_below(found),
                    executed=found.get("Actual Loops", 1) != 0,
                )


def _relations(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "Relation Name" in plan:
        yield plan.get("Schema", "public"), plan["Relation Name"]
    for schema, name in _RELATION.findall(plan.get("Relations", "")):
        yield _plain(schema), _plain(name)


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _index_below(plan: Mapping[str, Any]) -> str | None:
    """The index of a bitmap scan stands in a node of its own."""
    names = [found["Index Name"] for found in _nodes(plan) if "Index Name" in found]
    return ", ".join(names) or None


def _explained(
    sql: str,
    node: str,
    decision: Decision,
    plan: Mapping[str, Any],
    found: Sequence[_Found],
    leaves: Rows,
    big_bytes: int,
) -> Explanation:
    sizes = {(row[3], row[4]): row[5] for row in leaves}
    scans = tuple(
        Scan(
            relation=_shown(*scan.relation),
            how=scan.how,
            rows=scan.rows,
            bytes=sizes.get(scan.relation),
            index=scan.index,
            executed=scan.executed,
        )
        for scan in found
    )
    explanation = Explanation(
        sql=sql,
        node=node,
        route=decision.route,
        reason=decision.reason,
        scans=scans,
        tables=tuple(_prunings(found, leaves)),
        pruned_at_start=sum(n.get("Subplans Removed", 0) for n in _nodes(plan["Plan"])),
        cost=float(plan["Plan"]["Total Cost"]),
        rows=int(plan["Plan"]["Plan Rows"]),
        milliseconds=plan.get("Execution Time"),
        warnings=(),
        plan=plan,
    )
    return replace(explanation, warnings=tuple(_warnings(explanation, big_bytes)))


def _prunings(found: Sequence[_Found], leaves: Rows) -> Iterator[Pruning]:
    read_leaves = {scan.relation for scan in found if scan.executed}
    tables: dict[str, list[tuple[str, str]]] = {}
    for schema, table, partitioned, leaf_schema, leaf, *_ in leaves:
        if partitioned:
            tables.setdefault(_shown(schema, table), []).append((leaf_schema, leaf))
    for table, members in tables.items():
        yield Pruning(
            table=table,
            scanned=tuple(_shown(*leaf) for leaf in members if leaf in read_leaves),
            pruned=tuple(_shown(*leaf) for leaf in members if leaf not in read_leaves),
        )


def _warnings(explanation: Explanation, big_bytes: int) -> Iterator[str]:
    for scan in explanation.scans:
        if scan.how == "Seq Scan" and scan.executed and (scan.bytes or 0) >= big_bytes:
            yield f"sequential scan of {scan.relation}: {size(scan.bytes)}"
    for table in explanation.tables:
        if len(table.scanned) > 1 and not table.pruned:
            yield (
                f"no leaf of {table.table} is pruned, all {len(table.scanned)} are read: "
                "the statement does not narrow down the partition key"
            )


# For people


def _shown(schema: str, name: str) -> str:
    return name if schema == "public" else f"{schema}.{name}"


def _lines(explanation: Explanation) -> Iterator[str]:
    where = f" on {explanation.node}" if explanation.node else ""
    yield f"Goes to the {explanation.route.value} ({explanation.reason}); planned{where}"
    took = explanation.milliseconds
    took_text = "" if took is None else f", took {took:.1f} ms"
    yield f"Cost {explanation.cost:.0f}, {explanation.rows} rows expected{took_text}"
    for table in explanation.tables:
        total = len(table.scanned) + len(table.pruned)
        yield f"{table.table}: {len(table.scanned)} of {total} leaves read{_listed(table.scanned)}"
        if table.pruned:
            yield f"  pruned{_listed(table.pruned)}"
    if explanation.pruned_at_start:
        yield f"Pruned when execution began: {explanation.pruned_at_start}"
    for scan in explanation.scans:
        by = f" by {scan.index}" if scan.index else ""
        never = "" if scan.executed else ", never executed"
        yield f"{scan.how} of {scan.relation}{by}: {scan.rows} rows of {size(scan.bytes)}{never}"
    for warning in explanation.warnings:
        yield f"Warning: {warning}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f": {', '.join(names[:most])}{more}"
