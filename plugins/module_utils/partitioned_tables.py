# Partitioned tables as data: compare what is asked with what exists, and decide. Talks to nobody.
"""From a table's description and what the server has to statements, or to a sentence that says how they differ."""

from __future__ import annotations

import re
from typing import Any, NoReturn

_HASH = re.compile(r"^FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)$", re.IGNORECASE)
_RANGE = re.compile(r"^FOR VALUES FROM \((.+)\) TO \((.+)\)$", re.IGNORECASE)


class Differs(Exception):
    """What exists is not what is asked, and making it so could lose data."""


def quote(name: str) -> str:
    """An identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'


def wanted_partitions(table: dict[str, Any]) -> list[tuple[str, str]]:
    """[(name, bound)] of a description, in the server's own words for bounds."""
    name, layout = table["name"], table["partition_by"]
    if layout["method"] == "hash":
        return [
            (f"{name}_p{remainder}", f"FOR VALUES WITH (modulus {layout['modulus']}, remainder {remainder})")
            for remainder in range(layout["modulus"])
        ]
    return [
        (f"{name}_{year}", f"FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')")
        for year in range(layout["first_year"], layout["last_year"] + 1)
    ]


def described(columns: list[dict[str, Any]], primary_key: list[str]) -> str:
    """Columns and key in words."""
    parts = ["{} {}{}".format(column["name"], column["type"], "" if column["nullable"] else " not null") for column in columns]
    return ", ".join(parts) + (", primary key ({})".format(", ".join(primary_key)) if primary_key else "")


def layout_of(table: dict[str, Any]) -> str:
    layout = table["partition_by"]
    return "partitioned by {} ({})".format(layout["method"], layout["column"])


def differ(name: str, exists: str, asked: str) -> NoReturn:
    raise Differs(f"table {name} exists as {exists}, but databases_tables asks for {asked}")


def overlap(one: str, other: str) -> bool:
    """Whether two range bounds share a value. MINVALUE and MAXVALUE are the ends; dates compare as text."""
    def ends(bound: str) -> list[str]:
        values = _RANGE.match(bound)
        assert values, bound
        return [{"MINVALUE": "", "MAXVALUE": "\uffff"}.get(text.upper(), text.strip("'")) for text in values.groups()]

    (low, high), (other_low, other_high) = ends(one), ends(other)
    return low < other_high and other_low < high


def check_partitions(table: dict[str, Any], partitions: dict[str, str], relations: set[str]) -> list[tuple[str, str]]:
    """Stop where partitions that exist cannot stand beside those asked for; give those to add."""
    name, method = table["name"], table["partition_by"]["method"]
    asked = wanted_partitions(table)
    by_bound = {bound.lower(): partition for partition, bound in partitions.items()}
    if method == "hash":
        moduli = sorted({int(found.group(1)) for found in map(_HASH.match, partitions.values()) if found})
        if moduli and moduli != [table["partition_by"]["modulus"]]:
            differ(name, "{} with modulus {}".format(layout_of(table), " and ".join(map(str, moduli))),
                   f"modulus {table['partition_by']['modulus']}")
    missing = []
    for partition, bound in asked:
        present = partitions.get(partition)
        if present is not None and present.lower() == bound.lower():
            continue
        if present is not None:
            differ(name, f"{layout_of(table)} with {partition} {present}", f"{partition} {bound}")
        if bound.lower() in by_bound:
            differ(name, f"{layout_of(table)} with {by_bound[bound.lower()]} {bound}", f"the name {partition} for it")
        if partition in relations:
            differ(name, f"{layout_of(table)} while a relation {partition} exists that is not its partition",
                   f"{partition} {bound}")
        if method == "range":
            for other, other_bound in sorted(partitions.items()):
                if _RANGE.match(other_bound) and overlap(bound, other_bound):
                    differ(name, f"{layout_of(table)} with {other} {other_bound}",
                           f"{partition} {bound}, which overlaps it")
        missing.append((partition, bound))
    return missing


def plan(table: dict[str, Any], present: dict[str, Any] | None, relations: set[str], schema: str = "public") -> list[str]:
    """Statements that add what is missing of one table.

    `table` is a description with types in the server's words. `present` is None or what the server has: kind,
    owner, columns, primary_key, method, key (columns) and partitions ({name: bound}). `relations` are all names
    taken in the schema. Raises Differs.
    """
    name = table["name"]
    layout = table["partition_by"]
    statements = []
    if present is None:
        if name in relations:
            differ(name, "something that is not a table", layout_of(table))
        columns = ["{} {}{}".format(quote(column["name"]), column["type"], "" if column["nullable"] else " NOT NULL")
                   for column in table["columns"]]
        if table["primary_key"]:
            columns.append("PRIMARY KEY ({})".format(", ".join(map(quote, table["primary_key"]))))
        statements.append("CREATE TABLE {}.{} ({}) PARTITION BY {} ({})".format(
            quote(schema), quote(name), ", ".join(columns), layout["method"].upper(), quote(layout["column"])))
        partitions = {}
    else:
        if present["method"] is None:
            differ(name, "a table without partitions", "one " + layout_of(table))
        if (present["method"], present["key"]) != (layout["method"], [layout["column"]]):
            differ(name, "partitioned by {} ({})".format(present["method"], ", ".join(present["key"])), layout_of(table))
        exists = described(present["columns"], present["primary_key"])
        asked = described(table["columns"], table["primary_key"])
        if exists != asked:
            differ(name, f"({exists})", f"({asked})")
        if present["owner"] != table["owner"]:
            differ(name, "a table of {}".format(present["owner"]), "one of {}".format(table["owner"]))
        partitions = present["partitions"]
    for partition, bound in check_partitions(table, partitions, relations):
        statements.append(f"CREATE TABLE {quote(schema)}.{quote(partition)} PARTITION OF {quote(schema)}.{quote(name)} {bound}")
    return statements
