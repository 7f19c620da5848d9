"""The text of a statement that is not given as one: bytes, and what ``psycopg.sql`` makes."""

from __future__ import annotations

from psycopg.sql import SQL, Composed, Identifier, Literal, Placeholder

Query = str | bytes | SQL | Composed

_PARTS = {SQL, Identifier, Placeholder, Literal}


def text_of(query: object) -> str | None:
    """What the server will read, None when that is not certain without its connection.

    Bytes beyond ASCII mean something else in each encoding. A user's own kind of
    ``psycopg.sql.Composable``, a value that only a connection can write and a t-string are not
    certain either.
    """
    if isinstance(query, str):
        return query
    try:
        if isinstance(query, bytes):
            return query.decode("ascii")
        if isinstance(query, SQL | Composed) and _kinds(query) <= _PARTS:
            return query.as_string(None)
    except Exception:  # noqa: BLE001 - what is wrong with it is told by who executes it
        return None
    return None


def holds_values(query: object) -> bool:
    """Whether values are written into a statement: its text is not likely to come again."""
    return Literal in _kinds(query)


def _kinds(query: object) -> set[type]:
    if type(query) is Composed:
        return set().union(*map(_kinds, query))
    return {type(query)}
