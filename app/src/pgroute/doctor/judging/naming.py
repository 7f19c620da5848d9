"""Names as SQL has them, for advice that can be typed. Pure."""

from __future__ import annotations

import re
from typing import Final

# Those that PostgreSQL 14 to 18 do not take for a name: catcode R and T of pg_get_keywords().
RESERVED: Final = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check
    collate collation column concurrently constraint create cross current_catalog current_date
    current_role current_schema current_time current_timestamp current_user default deferrable desc
    distinct do else end except false fetch for foreign freeze from full grant group having ilike
    in initially inner intersect into is isnull join lateral leading left like limit localtime
    localtimestamp natural not notnull null offset on only or order outer overlaps placing primary
    references returning right select session_user similar some symmetric system_user table
    tablesample then to trailing true union unique user using variadic verbose when where window
    with
    """.split()  # noqa: SIM905 - a hundred quoted names would be harder to read
)


def identifier(name: str) -> str:
    """The name of a role or database, in quotes where it needs them."""
    if re.fullmatch("[a-z_][a-z0-9_$]*", name) and name not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def schema_of(table: str) -> str:
    """The first part of ``schema.table``, whose parts are in quotes where they need them."""
    match = re.match(r'"(?:[^"]|"")+"|[^.]+', table)
    return match[0] if match else table
