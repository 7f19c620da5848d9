"""Plans in short, read from the JSON that a server gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pgroute.errors import NotExplained
from pgroute.explain import Explanation, explain, explain_async
from pgroute.statements import Route, Statements, queries
from tests.unit.test_statements import answer

MIB = 1024 * 1024


def scan(table: str, how: str = "Seq Scan", **more: object) -> dict[str, Any]:
    return {"Node Type": how, "Relation Name": table, "Schema": "public", "Plan Rows": 5} | more


def plan(*children: Mapping[str, Any], **more: object) -> dict[str, Any]:
    root = {"Node Type": "Append", "Total Cost": 12.5, "Plan Rows": 10, "Plans": list(children)}
    return {"Plan": root | more}


def leaf(table: str, size: int | None = 8192, *, root: str | None = "events") -> tuple[Any, ...]:
    return ("public", root or table, root is not None, "public", table, size, 100)


class Server:
    """Gives a plan and the leaves; keeps the questions."""

    def __init__(self, found: Mapping[str, Any], leaves: Sequence[tuple[Any, ...]]) -> None:
        self.answers: list[Any] = [[([found],)], leaves]
        self.asked: list[tuple[str, Any]] = []

    def run(self, sql: str, params: Any) -> Any:
        self.asked.append((sql, params))
        return self.answers.pop(0)

    async def run_async(self, sql: str, params: Any) -> Any:
        return self.run(sql, params)


def known(**change: Any) -> Statements:
    found = Statements()
    relations = [{"name": "events", "kind": "r"}]
    found.refresh(
        lambda sql: (
            [("1",)] if sql == queries.PROBE else [(answer(builtin_relations=relations, **change),)]
        )
    )
    return found


def explained(found: Mapping[str, Any], *leaves: tuple[Any, ...], **options: Any) -> Explanation:
    return explain("select * from events", None, Server(found, leaves).run, **options)


def test_leaves_that_the_plan_does_not_read_are_pruned() -> None:
    found = explained(plan(scan("e1"), scan("e2")), leaf("e1"), leaf("e2"), leaf("e3"))
    (table,) = found.tables
    assert (table.table, table.scanned, table.pruned) == ("events", ("e1", "e2"), ("e3",))
    assert found.warnings == ()


@pytest.mark.parametrize("how", ["Foreign Scan", "Custom Scan"])
def test_a_leaf_that_a_foreign_server_or_an_extension_reads_is_read(how: str) -> None:
    found = explained(plan(scan("e1"), scan("e2", how)), leaf("e1"), leaf("e2", None), leaf("e3"))
    assert (found.tables[0].scanned, found.tables[0].pruned) == (("e1", "e2"), ("e3",))
    assert f"{how} of e2: 5 rows of unknown" in found.text()


def test_leaves_of_a_query_that_a_foreign_server_runs_as_a_whole_are_read() -> None:
    pushed = {
        "Node Type": "Foreign Scan",
        "Plan Rows": 5,
        "Relations": 'Aggregate on ((public.e1 e) INNER JOIN (public."e""(2)" "E"))',
    }
    found = explained(plan(pushed), leaf("e1", None), leaf('e"(2)', None), leaf("e3", None))
    assert (found.tables[0].scanned, found.tables[0].pruned) == (("e1", 'e"(2)'), ("e3",))


def test_leaves_pruned_at_the_start_are_counted() -> None:
    found = explained(plan(scan("e1"), **{"Subplans Removed": 2}), leaf("e1"), leaf("e2"))
    assert found.pruned_at_start == 2
    assert "Pruned when execution began: 2" in found.text()


def test_a_leaf_that_was_never_executed_counts_as_pruned() -> None:
    never = scan("e2") | {"Actual Loops": 0, "Actual Rows": 0}
    found = explained(plan(scan("e1"), never), leaf("e1"), leaf("e2"))
    assert found.tables[0].pruned == ("e2",)
    assert "never executed" in found.text()


def test_nothing_pruned_is_a_warning() -> None:
    found = explained(plan(scan("e1"), scan("e2")), leaf("e1"), leaf("e2"))
    assert [warning.split(",")[0] for warning in found.warnings] == ["no leaf of events is pruned"]


@pytest.mark.parametrize(
    ("how", "size", "warned"),
    [
        ("Seq Scan", 8 * MIB, True),
        ("Seq Scan", 8 * MIB - 1, False),
        ("Index Scan", 80 * MIB, False),
    ],
)
def test_only_a_sequential_scan_of_a_big_leaf_is_a_warning(
    how: str, size: int, warned: bool
) -> None:
    found = explained(plan(scan("e1", how)), leaf("e1", size), leaf("e2"))
    assert (found.warnings == ("sequential scan of e1: 8.0 MiB",)) is warned


def test_the_limit_of_big_is_the_callers() -> None:
    found = explained(plan(scan("e1")), leaf("e1"), leaf("e2"), big_bytes=1)
    assert found.warnings == ("sequential scan of e1: 8.0 KiB",)


def test_the_index_of_a_bitmap_scan_is_named() -> None:
    below = {"Node Type": "Bitmap Index Scan", "Index Name": "e1_at"}
    found = explained(plan(scan("e1", "Bitmap Heap Scan", Plans=[below])), leaf("e1", root=None))
    assert (found.scans[0].index, found.tables) == ("e1_at", ())
    assert "Bitmap Heap Scan of e1 by e1_at: 5 rows of 8.0 KiB" in found.text()


def test_the_route_and_the_node_are_told() -> None:
    found = explained(plan(scan("e1")), leaf("e1"), node="pg2", statements=known())
    assert found.route is Route.REPLICA
    assert found.text().startswith("Goes to the replica (reads only); planned on pg2\nCost 12, ")


def test_the_statement_is_only_planned() -> None:
    server = Server(plan(scan("e1")), [leaf("e1")])
    explain("select * from events where a = %s", [1], server.run)
    sql, params = server.asked[0]
    assert sql == "explain (verbose, format json) select * from events where a = %s"
    assert params == [1]
    assert server.asked[1][1] == (['"events"'], ["public"], ["e1"])


def test_analyze_runs_what_is_known_to_be_harmless() -> None:
    server = Server(plan(scan("e1")) | {"Execution Time": 1.25}, [leaf("e1")])
    found = explain("select * from events", None, server.run, statements=known(), analyze=True)
    assert found.milliseconds == 1.25
    assert "took 1.2 ms" in found.text()
    assert server.asked[0][0].startswith("explain (verbose, analyze, ")


@pytest.mark.parametrize(
    ("sql", "analyze", "why"),
    [
        ("delete from events", True, "ANALYZE would run the statement, and: DELETE is no query"),
        ("select nextval('a')", True, "function nextval is volatile"),
        ("select 1; delete from events", False, "one statement can be explained, not 2"),
        ("", False, "one statement can be explained, not 0"),
        ("explain select 1", False, "give the statement without EXPLAIN"),
        ("select 'a", False, "the statement is not clear"),
    ],
)
def test_what_could_do_harm_is_not_asked(sql: str, analyze: bool, why: str) -> None:
    server = Server(plan(), [])
    with pytest.raises(NotExplained, match=why):
        explain(sql, None, server.run, statements=known(), analyze=analyze)
    assert server.asked == []


HIDDEN = r"select '\' , '; drop table t; --'"


@pytest.mark.parametrize("conforming", [None, False])
def test_a_second_statement_does_not_hide_behind_a_backslash(conforming: bool | None) -> None:
    server = Server(plan(), [])
    statements = Statements() if conforming is None else known(conforming_strings=conforming)
    with pytest.raises(NotExplained, match="a backslash"):
        explain(HIDDEN, None, server.run, statements=statements)
    assert server.asked == []


def test_a_backslash_is_one_where_the_server_takes_it_for_itself() -> None:
    server = Server(plan(scan("e1")), [leaf("e1")])
    explain(HIDDEN, None, server.run, statements=known())
    assert len(server.asked) == 2


def test_a_utility_statement_has_no_plan() -> None:
    with pytest.raises(NotExplained, match="no plan"):
        explain("notify a", None, lambda *_: [(json.dumps(["Utility Statement"]),)])


def test_the_async_front_tells_the_same() -> None:
    def server() -> Server:
        return Server(plan(scan("e1")), [leaf("e1"), leaf("e2")])

    both = asyncio.run(explain_async("select 1", None, server().run_async))
    assert both == explain("select 1", None, server().run)
