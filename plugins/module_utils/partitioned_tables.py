# Partitioned tables as data: compare what is asked with what exists, and decide. Talks to nobody.
"""From a table's description and what the server has to statements, or to a sentence that says how they differ."""

from __future__ import annotations

import re

_HASH = re.compile(r"^FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)$", re.IGNORECASE)
_RANGE = re.compile(r"^FOR VALUES FROM \((.+)\) TO \((.+)\)$", re.IGNORECASE)


class Differs(Exception):
    """What exists is not what is asked, and making it so could lose data."""


def quote(name):
    """An identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'


def wanted_partitions(table):
    """[(name, bound)] of a description, in the server's own words for bounds."""
    layout = table["partition_by"]
    if layout["method"] == "hash":
        return [
            ("%s_p%d" % (table["name"], remainder), "FOR VALUES WITH (modulus %d, remainder %d)" % (layout["modulus"], remainder))
            for remainder in range(layout["modulus"])
        ]
    return [
        ("%s_%d" % (table["name"], year), "FOR VALUES FROM ('%d-01-01') TO ('%d-01-01')" % (year, year + 1))
        for year in range(layout["first_year"], layout["last_year"] + 1)
    ]


def described(columns, primary_key):
    """Columns and key in words."""
    parts = ["%s %s%s" % (column["name"], column["type"], "" if column["nullable"] else " not null") for column in columns]
    return ", ".join(parts) + (", primary key (%s)" % ", ".join(primary_key) if primary_key else "")


def layout_of(table):
    layout = table["partition_by"]
    return "partitioned by %s (%s)" % (layout["method"], layout["column"])


def differ(name, exists, asked):
    raise Differs("table %s exists as %s, but databases_tables asks for %s" % (name, exists, asked))


def overlap(one, other):
    """Whether two range bounds share a value. MINVALUE and MAXVALUE are the ends; dates compare as text."""
    def ends(bound):
        values = []
        for text in _RANGE.match(bound).groups():
            values.append({"MINVALUE": "", "MAXVALUE": "\uffff"}.get(text.upper(), text.strip("'")))
        return values

    (low, high), (other_low, other_high) = ends(one), ends(other)
    return low < other_high and other_low < high


def check_partitions(table, partitions, relations):
    """Stop where partitions that exist cannot stand beside those asked for; give those to add."""
    name, method = table["name"], table["partition_by"]["method"]
    asked = wanted_partitions(table)
    by_bound = {bound.lower(): partition for partition, bound in partitions.items()}
    if method == "hash":
        moduli = sorted({int(_HASH.match(bound).group(1)) for bound in partitions.values() if _HASH.match(bound)})
        if moduli and moduli != [table["partition_by"]["modulus"]]:
            differ(name, "%s with modulus %s" % (layout_of(table), " and ".join(map(str, moduli))),
                   "modulus %d" % table["partition_by"]["modulus"])
    missing = []
    for partition, bound in asked:
        present = partitions.get(partition)
        if present is not None and present.lower() == bound.lower():
            continue
        if present is not None:
            differ(name, "%s with %s %s" % (layout_of(table), partition, present), "%s %s" % (partition, bound))
        if bound.lower() in by_bound:
            differ(name, "%s with %s %s" % (layout_of(table), by_bound[bound.lower()], bound), "the name %s for it" % partition)
        if partition in relations:
            differ(name, "%s while a relation %s exists that is not its partition" % (layout_of(table), partition),
                   "%s %s" % (partition, bound))
        if method == "range":
            for other, other_bound in sorted(partitions.items()):
                if _RANGE.match(other_bound) and overlap(bound, other_bound):
                    differ(name, "%s with %s %s" % (layout_of(table), other, other_bound),
                           "%s %s, which overlaps it" % (partition, bound))
        missing.append((partition, bound))
    return missing


def plan(table, present, relations, schema="public"):
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
        columns = ["%s %s%s" % (quote(column["name"]), column["type"], "" if column["nullable"] else " NOT NULL")
                   for column in table["columns"]]
        if table["primary_key"]:
            columns.append("PRIMARY KEY (%s)" % ", ".join(map(quote, table["primary_key"])))
        statements.append("CREATE TABLE %s.%s (%s) PARTITION BY %s (%s)" % (
            quote(schema), quote(name), ", ".join(columns), layout["method"].upper(), quote(layout["column"])))
        partitions = {}
    else:
        if present["method"] is None:
            differ(name, "a table without partitions", "one " + layout_of(table))
        if (present["method"], present["key"]) != (layout["method"], [layout["column"]]):
            differ(name, "partitioned by %s (%s)" % (present["method"], ", ".join(present["key"])), layout_of(table))
        exists = described(present["columns"], present["primary_key"])
        asked = described(table["columns"], table["primary_key"])
        if exists != asked:
            differ(name, "(%s)" % exists, "(%s)" % asked)
        if present["owner"] != table["owner"]:
            differ(name, "a table of %s" % present["owner"], "one of %s" % table["owner"])
        partitions = present["partitions"]
    for partition, bound in check_partitions(table, partitions, relations):
        statements.append("CREATE TABLE %s.%s PARTITION OF %s.%s %s" % (
            quote(schema), quote(partition), quote(schema), quote(name), bound))
    return statements
