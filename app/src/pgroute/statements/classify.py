"""Decide where one text may run. Pure: no I/O, no clock."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from pgroute.statements import syntax
from pgroute.statements.catalog import Catalog
from pgroute.statements.lexer import Unsure, tokens
from pgroute.statements.references import (
    Group,
    Item,
    References,
    read_query,
    statements,
    word,
)
from pgroute.statements.texts import text_of


class Route(enum.Enum):
    """Who may answer a statement."""

    PRIMARY = "primary"
    REPLICA = "replica"  # known to change nothing and to answer alike on both: may be hedged


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a text goes and why, in a few words: ``function nextval is volatile``."""

    route: Route
    reason: str
    unknown: bool = False  # True when a name is not in the catalogue (yet)


def classify(sql: str, catalog: Catalog | None) -> Decision:
    """Where ``sql`` may run, by what ``catalog`` knows; without a catalogue, the primary.

    ``sql`` may hold several statements; a replica must be able to answer all of them.
    """
    if catalog is None:
        return Decision(Route.PRIMARY, "the catalogue has not been read yet")
    if not (catalog.utf8 or sql.isascii()):
        return Decision(Route.PRIMARY, "a character beyond ASCII, and the database is not UTF-8")
    found = References()
    try:
        empty = True
        for items in statements(tokens(sql, conforming_strings=catalog.conforming_strings)):
            empty = False
            read_query(_explained(items), found)
            if found.problem:
                break
    except Unsure as unsure:
        return Decision(Route.PRIMARY, str(unsure))
    if empty:
        return Decision(Route.PRIMARY, "no statement")
    objection = catalog.object_to(found)
    if objection is not None:
        return Decision(Route.PRIMARY, objection.reason, objection.unknown)
    return Decision(Route.REPLICA, "reads only")


_UNDONE_WHOLE = frozenset({"insert", "update", "delete", "merge", *syntax.QUERIES})


def is_undone_whole(sql: object) -> bool:
    """Whether an error of the server undoes all that the text has done.

    True for one statement that works within one transaction; not for CALL and DO, which may have
    committed, for several statements, or for what cannot be understood with certainty.
    """
    try:
        found = list(statements(tokens(text_of(sql) or "")))
    except Unsure:
        return False
    return len(found) == 1 and word(found[0], 0) in _UNDONE_WHOLE


def _explained(items: Sequence[Item]) -> Sequence[Item]:
    """The query in EXPLAIN [ANALYZE] [VERBOSE] query or EXPLAIN (options) query."""
    if word(items, 0) != "explain":
        return items
    at = 1
    options = items[at] if len(items) > at else None
    if isinstance(options, Group) and word(options.items, 0) not in {"", *syntax.QUERIES}:
        at += 1
    while word(items, at) in {"analyze", "analyse", "verbose"}:
        at += 1
    if at == len(items):
        raise Unsure("EXPLAIN of nothing")
    return items[at:]
