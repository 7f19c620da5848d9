"""Partitioned tables as data: what is added, and what stops with a sentence that says both sides."""

from typing import Any

import pytest

from helpers.plugins import load_plugin

tables = load_plugin("module_utils/partitioned_tables.py")

USERS: dict[str, Any] = {
    "name": "users", "owner": "app_owner", "primary_key": ["id"],
    "columns": [{"name": "id", "type": "uuid", "nullable": False}, {"name": "name", "type": "text", "nullable": True}],
    "partition_by": {"method": "hash", "column": "id", "modulus": 2},
}
SALES: dict[str, Any] = {
    "name": "sales", "owner": "app_owner", "primary_key": [],
    "columns": [{"name": "day", "type": "date", "nullable": True}],
    "partition_by": {"method": "range", "column": "day", "first_year": 2023, "last_year": 2024},
}
USERS_PARTITIONS = {
    "users_p0": "FOR VALUES WITH (modulus 2, remainder 0)", "users_p1": "FOR VALUES WITH (modulus 2, remainder 1)",
}
SALES_PARTITIONS = {
    "sales_2023": "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')", "sales_2024": "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
}


def existing(table: dict[str, Any], partitions: dict[str, str], **differences: Any) -> dict[str, Any]:
    layout = table["partition_by"]
    return {
        "owner": table["owner"], "method": layout["method"], "key": [layout["column"]], "columns": table["columns"],
        "primary_key": table["primary_key"], "partitions": partitions, **differences,
    }


def plan(table: dict[str, Any], present: dict[str, Any] | None, *others: str) -> list[str]:
    taken = {table["name"], *present["partitions"], *others} if present else set(others)
    done: list[str] = tables.plan(table, present, taken)
    return done


def test_a_missing_table_is_made_with_its_partitions() -> None:
    assert plan(USERS, None) == [
        'CREATE TABLE "public"."users" ("id" uuid NOT NULL, "name" text, PRIMARY KEY ("id")) PARTITION BY HASH ("id")',
        'CREATE TABLE "public"."users_p0" PARTITION OF "public"."users" FOR VALUES WITH (modulus 2, remainder 0)',
        'CREATE TABLE "public"."users_p1" PARTITION OF "public"."users" FOR VALUES WITH (modulus 2, remainder 1)',
    ]


@pytest.mark.parametrize(("table", "partitions"), [(USERS, USERS_PARTITIONS), (SALES, SALES_PARTITIONS)])
def test_a_table_as_described_is_left_alone(table: dict[str, Any], partitions: dict[str, str]) -> None:
    assert plan(table, existing(table, partitions)) == []


def test_the_partition_of_a_new_year_is_added() -> None:
    asked = {**SALES, "partition_by": {**SALES["partition_by"], "last_year": 2025}}
    assert plan(asked, existing(SALES, SALES_PARTITIONS)) == [
        """CREATE TABLE "public"."sales_2025" PARTITION OF "public"."sales" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')"""
    ]


def test_older_years_and_a_default_partition_are_left_alone() -> None:
    more = {"sales_old": "FOR VALUES FROM (MINVALUE) TO ('2023-01-01')", "sales_rest": "DEFAULT"}
    assert plan(SALES, existing(SALES, {**SALES_PARTITIONS, **more})) == []


def test_a_hash_partition_that_is_missing_is_added() -> None:
    (done,) = plan(USERS, existing(USERS, {"users_p0": USERS_PARTITIONS["users_p0"]}))
    assert "remainder 1" in done


@pytest.mark.parametrize(("asked", "present", "others", "exists_as", "asks_for"), [
    (USERS, existing(USERS, {"users_p0": "FOR VALUES WITH (modulus 8, remainder 0)"}), (), "modulus 8", "modulus 2"),
    (USERS, existing(USERS, {}, method="range"), (), "partitioned by range (id)", "partitioned by hash (id)"),
    (USERS, existing(USERS, {}, key=["name"]), (), "partitioned by hash (name)", "partitioned by hash (id)"),
    (USERS, existing(USERS, {}, method=None, key=[]), (), "a table without partitions", "partitioned by hash (id)"),
    (USERS, existing(USERS, {}, primary_key=[]), (), "name text)", "primary key (id))"),
    (USERS, existing(USERS, {}, owner="postgres"), (), "a table of postgres", "one of app_owner"),
    (USERS, existing(USERS, {}, columns=[{"name": "id", "type": "bigint", "nullable": False}, USERS["columns"][1]]), (), "id bigint", "id uuid"),
    (USERS, existing(USERS, {}, columns=[USERS["columns"][0], {"name": "name", "type": "text", "nullable": False}]), (),
     "name text not null", "name text, primary"),
    (USERS, existing(USERS, {}, columns=USERS["columns"][:1]), (), "(id uuid not null, primary", "name text"),
    (USERS, existing(USERS, {"other": USERS_PARTITIONS["users_p0"]}), (), "other FOR VALUES WITH (modulus 2, remainder 0)", "users_p0"),
    (SALES, existing(SALES, {"sales_2023": "FOR VALUES FROM ('2023-01-01') TO ('2025-01-01')"}), (), "TO ('2025-01-01')", "TO ('2024-01-01')"),
    (SALES, existing(SALES, {"early": "FOR VALUES FROM (MINVALUE) TO ('2023-06-01')"}), (), "early FOR VALUES", "sales_2023 FOR VALUES"),
    (SALES, existing(SALES, {"late": "FOR VALUES FROM ('2024-06-01') TO (MAXVALUE)"}), (), "late FOR VALUES", "sales_2024 FOR VALUES"),
    (SALES, existing(SALES, {}), ("sales_2023",), "a relation sales_2023", "sales_2023 FOR VALUES"),
    (SALES, None, ("sales",), "not a table", "partitioned by range"),
])
def test_a_table_that_differs_stops_with_both_sides(
    asked: dict[str, Any], present: dict[str, Any] | None, others: tuple[str, ...], exists_as: str, asks_for: str,
) -> None:
    with pytest.raises(tables.Differs) as stopped:
        plan(asked, present, *others)
    exists, _, asks = str(stopped.value).partition("but databases_tables asks for")
    assert exists_as in exists
    assert asks_for in asks


@pytest.mark.parametrize(("one", "other", "answer"), [
    ("('2023-01-01') TO ('2024-01-01')", "('2024-01-01') TO ('2025-01-01')", False),
    ("('2023-01-01') TO ('2024-01-01')", "('2023-12-31') TO ('2025-01-01')", True),
    ("(MINVALUE) TO ('2024-01-01')", "('2023-01-01') TO (MAXVALUE)", True),
    ("(MINVALUE) TO ('2023-01-01')", "('2023-01-01') TO (MAXVALUE)", False),
])
def test_ranges_overlap_when_they_share_a_day(one: str, other: str, answer: bool) -> None:
    assert tables.overlap(f"FOR VALUES FROM {one}", f"FOR VALUES FROM {other}") is answer
