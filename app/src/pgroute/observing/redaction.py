"""A statement's text without the values in it, for traces and logs."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from psycopg import sql

MAX_CHARACTERS = 4096
"""Longer statements are shown up to here."""


def _comment(depth: int) -> str:
    """Comments nest; one that goes deeper hides all the rest."""
    inner = _comment(depth - 1) if depth else r"/\*.*\Z"
    return rf"/\*(?:[^*/]|\*(?!/)|/(?!\*)|{inner})*(?:\*/|\Z)"


_ESCAPED = r"'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)"
_PIECE = re.compile(
    rf"""
      (?P<comment> --[^\n]* | {_comment(4)} )
    | (?P<literal>
          [eE]{_ESCAPED}(?:(?:\s|--[^\n]*\n)*{_ESCAPED})*  # it may go on in the next line
        | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?:'|\Z)
        | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
        | \.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?
      )
    | (?P<kept>
          "(?:[^"]|"")*(?:"|\Z)          # an identifier in quotes
        | \$\d+ | %\([^)]*\)[sbt] | %[sbt%]  # a placeholder
        | [^\W\d][\w$]*                    # a word
      )
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z]+")


def shown(query: object, *, parameterised: bool, connection: Any = None) -> str:
    """The text of ``query`` (str, bytes, ``psycopg.sql`` or a t-string) as it may be shown.

    A text that came with parameters holds placeholders and is shown as it was written. In any
    other, and in what ``psycopg.sql`` composed, literals become ``?`` and comments are left out.
    What is put into a t-string becomes ``?`` too, be it a name or a part of the statement.
    """
    if isinstance(query, sql.Composable):
        return without_literals(query.as_string(connection)[:MAX_CHARACTERS])
    between = getattr(query, "strings", None)  # string.templatelib comes with Python 3.14 only
    if between is not None:
        return without_literals("?".join(between)[:MAX_CHARACTERS])
    text = query.decode(errors="replace") if isinstance(query, bytes) else str(query)
    text = text[:MAX_CHARACTERS]
    return text if parameterised else without_literals(text)


@lru_cache(maxsize=512)
def without_literals(text: str) -> str:
    """``text`` with ``?`` in the place of strings and numbers, and without comments.

    >>> without_literals("select 'a', x1 from t where id = 7 -- me")
    'select ?, x1 from t where id = ?'
    """
    return _PIECE.sub(_replace, text).strip()


def _replace(found: re.Match[str]) -> str:
    if found["literal"]:
        return "?"
    return " " if found["comment"] else found[0]


@lru_cache(maxsize=512)
def operation(text: str) -> str:
    """The first word of a statement in capitals ("SELECT", "WITH"), or "" without one."""
    found = _WORD.search(without_literals(text))
    return found[0].upper() if found else ""
