"""Cut a text into tokens by PostgreSQL's lexical rules (src/backend/parser/scan.l).

It is an own lexer, because it must be exact in one direction only: a text that two readers could
cut differently (the server with other settings, psycopg replacing a parameter) is refused with
:class:`Unsure`, and goes to the primary. Libraries that are exact ship the server's own parser
under a licence of its own; the others are not exact.
"""

from __future__ import annotations

import enum
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from pgroute.statements.syntax import SESSION_WORDS


class Unsure(Exception):
    """The text cannot be understood with certainty; the message says why."""


class Kind(enum.Enum):
    """What a token is."""

    WORD = "word"  # a keyword or an unquoted name, in lower case
    QUOTED = "quoted name"
    STRING = "string"
    NUMBER = "number"
    PARAMETER = "parameter"
    OPERATOR = "operator"
    MARK = "mark"  # ( ) [ ] , ; . : :: := => ..


@dataclass(frozen=True, slots=True)
class Token:
    """One token. ``text``: the name as the server would look it up; empty for strings."""

    kind: Kind
    text: str


_NAME = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*"
_PLACEHOLDER = r"%(?:\(\w+\))?[sbt]"
_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)
    |(?P<comment>/\*)
    |(?P<unicode>[uU]&['"])
    |(?P<escaped>[eE]'(?:[^'\\]|''|\\.)*+')
    |(?P<string>[bBxXnN]?'(?:[^']|'')*+')
    |(?P<quoted>"(?:[^"]|"")*+")
    |(?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    |(?P<parameter>\$\d+|{_PLACEHOLDER})
    |(?P<name>{_NAME})
    |(?P<number>0[xX][0-9A-Fa-f_]+|0[oO][0-7_]+|0[bB][01_]+
        |(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?)
    |(?P<mark>::|:=|=>(?![-+*/<>=~!@\#%^&|`?])|\.\.|[()\[\],;.:])
    |(?P<operator>[-+*/<>=~!@\#%^&|`?]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_COMMENT_IN_OPERATOR = re.compile(r"--|/\*")
_STARTS_PLACEHOLDER = re.compile(_PLACEHOLDER)
_PERCENT_PAIR = re.compile(r"%(?:\(([^)]*)\))?.", re.DOTALL)
_PLAIN_PLACEHOLDER = re.compile(r"\w+")
_NAME_PART = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]")
_RUN = re.compile(r"[-+*/<>=~!@#%^&|`?]+")
_LITERALS = {"string", "escaped", "dollar"}  # after a name they are of the type of that name
_OPERANDS = {*_LITERALS, "name", "quoted", "number", "parameter", "placeholder", ")", "]"}
_BEFORE_PERCENT = frozenset("-+*/<>~!@#%^&|`?")  # makes another operator of it; =% is none
_KEEPS_SIGN = re.compile(r"[~!@#%^&|`?]")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_LONGEST_NAME = 63  # bytes; the server cuts longer ones


def tokens(
    sql: str, *, placeholders: bool = True, conforming_strings: bool = True
) -> Iterator[Token]:
    """Cut ``sql``; raises Unsure.

    ``placeholders``: the text is for psycopg, which replaces ``%s`` and ``%(name)s``.
    ``conforming_strings``: the server's ``standard_conforming_strings``.
    """
    if "\0" in sql:
        raise Unsure("a zero byte")
    if placeholders:
        _refuse_odd_placeholders(sql)
    at, end, before = 0, len(sql), ""
    while at < end:
        found = _TOKEN.match(sql, at)
        if found is None:
            raise Unsure(f"unexpected character {sql[at]!r}")
        kind, text = str(found.lastgroup), found.group()
        start, at = at, found.end()
        if kind == "space":
            continue
        if kind == "comment":
            at = _end_of_comment(sql, at)
            continue
        if kind == "unicode":
            raise Unsure("a U& literal")
        if before == "escaped" and kind in {"string", "escaped"}:
            raise Unsure("a string continued after E''")
        if before == "placeholder" and (kind in _LITERALS or text in {"(", "."}):
            raise Unsure("a placeholder that may be an operator and a name")
        if kind == "parameter" and text[0] == "%":
            kind = "placeholder" if placeholders else "operator"
        if kind in {"string", "escaped"}:
            if kind == "string" and "\\" in text and not conforming_strings:
                raise Unsure("a backslash while standard_conforming_strings is off")
            _refuse_glued(sql, at, text)
            yield Token(Kind.STRING, "")
        elif kind == "dollar":
            closing = sql.find(text, at)
            if closing < 0:
                raise Unsure("a dollar quote without an end")
            at = closing + len(text)
            yield Token(Kind.STRING, "")
        elif kind == "quoted":
            yield Token(Kind.QUOTED, _quoted(text))
        elif kind == "name":
            yield Token(Kind.WORD, _name(text.translate(_LOWER)))
        elif kind == "number":
            _refuse_glued(sql, at, text)
            yield Token(Kind.NUMBER, "")
        elif kind == "mark":
            yield Token(Kind.MARK, text)
        elif kind in {"parameter", "placeholder"}:
            _refuse_glued(sql, at, text)
            if start and _NAME_PART.match(sql, start - 1):
                raise Unsure("a parameter glued to a name")
            glued = sql[start - 1] in _BEFORE_PERCENT
            if (before in _OPERANDS or glued) and text[2:-2].lower() in SESSION_WORDS:
                raise Unsure(f"{text} may depend on the session")
            yield Token(Kind.PARAMETER, "")
        else:
            operator = _operator(sql, start, placeholders)
            at = start + len(operator)
            yield Token(Kind.OPERATOR, operator)
        before = text if text in {")", "]"} else kind


def _refuse_odd_placeholders(sql: str) -> None:
    """psycopg replaces %s and %(name)s wherever they stand, in strings too.

    Without parameters it replaces nothing: then they are the operator % and what it is applied to.
    """
    if "$%" in sql:
        raise Unsure("a dollar before %")
    if "%(" in sql:
        for pair in _PERCENT_PAIR.finditer(sql):
            name = pair.group(1)
            if name is not None and not _PLAIN_PLACEHOLDER.fullmatch(name):
                raise Unsure("%( without a plain name")


def _refuse_glued(sql: str, at: int, text: str) -> None:
    """``1abc``, ``'a'b`` and ``%sx`` are cut differently by different versions."""
    if at < len(sql) and _NAME_PART.match(sql, at):
        raise Unsure(f"{text[:20]!r} glued to what follows")


def _end_of_comment(sql: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, at)
        if edge is None:
            raise Unsure("a comment without an end")
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return at


def _quoted(text: str) -> str:
    if "%" in text:
        raise Unsure("% in a quoted name")
    return _name(text[1:-1].replace('""', '"'))


def _name(text: str) -> str:
    if len(text) > _LONGEST_NAME // 4 and len(text.encode(errors="replace")) > _LONGEST_NAME:
        raise Unsure("a name that the server cuts")
    return text


def _operator(sql: str, start: int, placeholders: bool) -> str:
    """The operator that starts here: of a run of such characters the longest that is one."""
    found = _RUN.match(sql, start)
    assert found is not None  # noqa: S101 - only called where an operator character stands
    run = found.group()
    if placeholders:
        run = _without_placeholder(sql, start, run)
    comment = _COMMENT_IN_OPERATOR.search(run)
    if comment is not None:
        run = run[: comment.start()]
    while len(run) > 1 and run[-1] in "+-" and not _KEEPS_SIGN.search(run):
        run = run[:-1]
    return run


def _without_placeholder(sql: str, start: int, run: str) -> str:
    """``=%s`` is an operator and a parameter, ``%%s`` the operator % and a name."""
    offset = run.find("%")
    while offset >= 0:
        if _STARTS_PLACEHOLDER.match(sql, start + offset):
            return run[:offset]
        offset = run.find("%", offset + 2)  # psycopg goes from the left, two by two
    return run
