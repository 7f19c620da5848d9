"""Read what a text refers to: functions, relations, types and operators by name.

Nothing here knows a server. What a text may do is decided in classify.py, by looking these names
up in a catalogue. The reader follows the structure of queries only as far as it must to tell a
table from a column and a function from a list of column names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pgroute.statements import syntax
from pgroute.statements.lexer import Kind, Token, Unsure

Name = str | tuple[str, str]
"""A name as it is written: ``users``, or ``("shop", "users")`` for shop.users."""


@dataclass(slots=True)
class References:
    """The names in a text. ``problem``: why it cannot be harmless, whatever the names mean."""

    functions: set[Name] = field(default_factory=set)
    aliases: set[Name] = field(default_factory=set)  # what looks like t in FROM f() AS t (a, b)
    relations: set[Name] = field(default_factory=set)
    types: set[Name] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)  # b of a.b, which may call a function b(a)
    words: set[str] = field(default_factory=set)  # every name, wherever it stands
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """What stands in a pair of parentheses or brackets."""

    items: tuple[Item, ...]
    brackets: bool = False


Item = Token | Group

_NO_COLUMN = {Kind.STRING, Kind.PARAMETER, Kind.OPERATOR}


def statements(found: Iterable[Token]) -> Iterator[list[Item]]:
    """The statements of a text, each as a tree by parentheses, empty ones left out."""
    stack: list[tuple[str, list[Item]]] = [("", [])]
    for token in found:
        mark = token.text if token.kind is Kind.MARK else ""
        if mark in {"(", "["}:
            stack.append((")" if mark == "(" else "]", []))
        elif mark in {")", "]"}:
            closing, items = stack.pop()
            if mark != closing:
                raise Unsure("parentheses that do not match")
            stack[-1][1].append(Group(tuple(items), mark == "]"))
        elif mark == ";" and len(stack) == 1:
            if stack[0][1]:
                yield stack[0][1]
            stack = [("", [])]
        else:
            stack[-1][1].append(token)
    if len(stack) != 1:
        raise Unsure("parentheses that do not match")
    if stack[0][1]:
        yield stack[0][1]


def word(items: Sequence[Item], at: int) -> str:
    """The unquoted word at a place, empty for anything else."""
    if 0 <= at < len(items):
        item = items[at]
        if isinstance(item, Token) and item.kind is Kind.WORD:
            return item.text
    return ""


def _mark(items: Sequence[Item], at: int) -> str:
    if 0 <= at < len(items):
        item = items[at]
        if isinstance(item, Token) and item.kind is Kind.MARK:
            return item.text
    return ""


def _parentheses(items: Sequence[Item], at: int) -> Group | None:
    if 0 <= at < len(items):
        item = items[at]
        if isinstance(item, Group) and not item.brackets:
            return item
    return None


def _is_name(items: Sequence[Item], at: int) -> bool:
    if not 0 <= at < len(items):
        return False
    item = items[at]
    return isinstance(item, Token) and item.kind in {Kind.WORD, Kind.QUOTED}


def _text(items: Sequence[Item], at: int) -> str:
    item = items[at]
    assert isinstance(item, Token)  # noqa: S101 - asked only after _is_name
    return item.text


def read_query(items: Sequence[Item], into: References) -> None:
    """Add to ``into`` what one statement refers to; only queries are without a problem."""
    first = items[0]
    while isinstance(first, Group) and first.items:
        first = first.items[0]
    text = word([first], 0)
    if text in syntax.QUERIES:
        read(items, into)
    else:
        into.problem = f"{text.upper() or 'a statement that'} is no query"


def read(items: Sequence[Item], into: References, *, plpgsql: bool = False) -> None:
    """Add to ``into`` what a query or an expression refers to; stops at the first problem.

    ``plpgsql``: the items are the body of a PL/pgSQL function instead.
    """
    try:
        _Level(items, into, frozenset(), plpgsql=plpgsql).read()
    except Unsure as unsure:
        into.problem = str(unsure)
    except RecursionError:
        into.problem = "too deeply nested"


class _Level:
    """The items between two parentheses, read from left to right."""

    def __init__(
        self,
        items: Sequence[Item],
        found: References,
        scope: frozenset[str],
        *,
        from_list: bool = False,
        cast: bool = False,
        plpgsql: bool = False,
    ) -> None:
        self._items = items
        self._found = found
        self._scope = scope  # names that WITH has given
        self._plpgsql = plpgsql
        self._cast = cast  # the inside of CAST( ... AS type)
        self._from = from_list  # within a FROM clause
        self._source = from_list  # a table, a function or a subquery comes next
        self._alias = False  # such a thing has just ended: its alias may follow
        self._columns: set[int] = set()  # places of lists of column names
        self._bodies: set[int] = set()  # places of the queries in WITH
        self._arguments = -1  # place of the arguments of the last function

    def read(self) -> None:
        at = 0
        while at < len(self._items):
            at = self._step(at)

    def _step(self, at: int) -> int:
        """Read the item ``at``; the place of the next one."""
        item = self._items[at]
        if isinstance(item, Group):
            self._group(at, item)
            return at + 1
        dotted = _mark(self._items, at - 1) == "."
        if item.kind is Kind.WORD and not dotted:
            self._found.words.add(item.text)
            if not self._is_label(at) and self._keyword(at, item.text):
                return at + 1
        if item.kind in {Kind.WORD, Kind.QUOTED}:
            return self._name(at, dotted)
        if item.kind is Kind.OPERATOR:
            self._found.operators.add("<>" if item.text == "!=" else item.text)
            if self._alias and item.text == "*":
                return at + 1  # FROM parent *
        self._alias = self._source = False
        if item.kind is Kind.MARK:
            self._separator(item.text)
        return at + 1

    def _separator(self, mark: str) -> None:
        if mark == "," and self._from:
            self._source = True
        elif mark == ";":
            self._from = False

    # Keywords

    def _keyword(self, at: int, text: str) -> bool:
        """Take note of a word with a meaning here; False when it is read as a name."""
        self._refuse(at, text)
        if text == "select" or (text == "with" and self._ctes(at)):
            self._from = self._source = self._alias = False
        elif text == "from":
            self._from_word(at)
        elif text == "table":
            self._source = True
        elif text == "only" and self._source:
            pass
        elif text == "returning" or (text == "as" and self._cast):
            self._type(at + 1)
        elif text != "as":
            return self._from and self._from_clause(at, text)
        return True

    def _is_label(self, at: int) -> bool:
        """True after AS, whatever the word says: in ``1 as as`` the second one is a label."""
        before = at - 1
        if word(self._items, before) != "as" or _mark(self._items, before - 1) == ".":
            return False
        return not self._is_label(before)

    def _refuse(self, at: int, text: str) -> None:
        if text in syntax.WRITES and _parentheses(self._items, at + 1) is None:
            raise Unsure(f"{text.upper()} within a query")
        if text == "into" and not self._plpgsql:
            raise Unsure("SELECT INTO")
        if text == "for" and word(self._items, at + 1) in syntax.LOCKS:
            raise Unsure("row locks")
        if text in syntax.SESSION_WORDS:
            raise Unsure(f"{text} depends on the session")
        if self._plpgsql and text in syntax.COMMANDS:
            raise Unsure(f"{text.upper()} within a function")

    def _from_word(self, at: int) -> None:
        if word(self._items, at - 1) == "distinct" and word(self._items, at - 2) in {"is", "not"}:
            return
        if self._is_query():
            self._from = self._source = True
            self._alias = False

    def _is_query(self) -> bool:
        """False in EXTRACT(year FROM x), SUBSTRING(x FROM 2) and TRIM(BOTH FROM x)."""
        if self._plpgsql or self._from:
            return True
        return any(word(self._items, at) == "select" for at in range(len(self._items)))

    def _from_clause(self, at: int, text: str) -> bool:
        """Take note of a word within a FROM clause; False when it is read as a name."""
        before_parentheses = _parentheses(self._items, at + 1) is not None
        if text == "join":
            self._source, self._alias = True, False
            if before_parentheses:
                self._found.functions.add(text)  # ON join(a) = b, or a subquery: read as both
        elif text == "values" and self._source and before_parentheses:
            self._from = self._source = False
        elif text in syntax.FROM_ENDS:
            self._from = self._source = self._alias = False
        elif text == "ordinality" and word(self._items, at - 1) == "with":
            self._alias = True
        elif text in syntax.FROM_WORDS or (text in syntax.JOIN_WORDS and not before_parentheses):
            self._alias = False
        else:
            rows = text == "rows" and word(self._items, at + 1) == "from"
            return self._source and (rows or text == "lateral")
        return True

    def _ctes(self, at: int) -> bool:
        """WITH [RECURSIVE] name [(columns)] AS [[NOT] MATERIALIZED] (query), ..."""
        at += 1
        if word(self._items, at) == "recursive" and word(self._items, at + 1) != "as":
            at += 1
        names = set()
        while _is_name(self._items, at):
            columns = at + 1 if _parentheses(self._items, at + 1) is not None else None
            body = (columns or at) + 1
            if word(self._items, body) != "as":
                break
            body += 1
            body += word(self._items, body) == "not"
            body += word(self._items, body) == "materialized"
            if _parentheses(self._items, body) is None:
                break
            names.add(_text(self._items, at))
            if columns is not None:
                self._columns.add(columns)
            self._bodies.add(body)
            at = self._end_of_cte(body + 1)
        self._scope |= names
        return bool(names)

    def _end_of_cte(self, at: int) -> int:
        """The place of the next CTE's name: past SEARCH, CYCLE and the comma, if there is one."""
        while at < len(self._items) and _mark(self._items, at) != ",":
            if word(self._items, at) in syntax.QUERIES:
                return len(self._items)
            at += 1
        return at + 1

    # Names

    def _name(self, at: int, dotted: bool) -> int:
        """Read a name with its dots; the place after it. ``dotted``: a dot stands before it."""
        parts = [_text(self._items, at)]
        first, at = at, at + 1
        while _mark(self._items, at) == "." and _is_name(self._items, at + 1):
            parts.append(_text(self._items, at + 1))
            at += 2
        self._found.words.update(parts)
        self._found.attributes.update(parts if dotted else parts[1:])
        name: Name = parts[0] if len(parts) == 1 else (parts[-2], parts[-1])
        if _parentheses(self._items, at) is not None:
            self._arguments = at
            self._call(first, at, name)
            return at
        if self._source:
            self._relation(name)
        elif _mark(self._items, first - 1) == "::" or self._before_string(first, at):
            self._type(first)
        self._alias, self._source = self._source, False
        return at

    def _relation(self, name: Name) -> None:
        if not (isinstance(name, str) and name in self._scope):
            self._found.relations.add(name)

    def _call(self, first: int, at: int, name: Name) -> None:
        """A name before an opening parenthesis, which stands ``at``."""
        before = word(self._items, first - 1)
        plain = at == first + 1 and word(self._items, first) != ""
        if at in self._columns or at in self._bodies:
            return
        if self._is_label(first) or (self._alias and self._from):
            self._found.aliases.add(name)
            self._columns.add(at)
        elif _mark(self._items, first - 1) == "::":
            self._type(first)
        elif before == "tablesample":
            if name not in {"bernoulli", "system"}:
                raise Unsure("an unknown TABLESAMPLE method")
        elif not (plain and name in syntax.CALL_LIKE):
            self._found.functions.add(name)

    def _before_string(self, first: int, at: int) -> bool:
        """``mood 'sad'``: a name before a string is a type, unless it is a keyword."""
        if at >= len(self._items):
            return False
        after = self._items[at]
        if not (isinstance(after, Token) and after.kind is Kind.STRING):
            return False
        return at > first + 1 or word(self._items, first) not in syntax.BEFORE_STRING

    def _type(self, at: int) -> None:
        """The name of a type comes next."""
        if word(self._items, at) in syntax.TYPE_PREFIXES:
            at += 1
        if not _is_name(self._items, at):
            return
        plain = word(self._items, at)
        parts = [_text(self._items, at)]
        while _mark(self._items, at + 1) == "." and _is_name(self._items, at + 2):
            at += 2
            parts.append(_text(self._items, at))
        if len(parts) > 1:
            self._found.types.add((parts[-2], parts[-1]))
        elif not plain or plain not in syntax.TYPE_WORDS:
            self._found.types.add(parts[0])

    # Groups

    def _group(self, at: int, group: Group) -> None:
        before = word(self._items, at - 1)
        if at in self._columns or (self._is_label(at) and self._from):
            self._column_list(group.items)
            self._alias = self._source = False
            return
        is_source = self._source and not group.brackets
        _Level(
            group.items,
            self._found,
            self._scope,
            from_list=is_source and at != self._arguments,
            cast=before == "cast",
        ).read()
        self._alias, self._source = is_source, False

    def _column_list(self, items: Sequence[Item]) -> None:
        """``t(a, b)`` or ``t(a int, b numeric(10, 2))``."""
        level = _Level(items, self._found, self._scope)
        for at, item in enumerate(items):
            inner = item.items if isinstance(item, Group) else [item]
            if any(isinstance(i, Group) or i.kind in _NO_COLUMN for i in inner):
                raise Unsure("more than names and types in a list of columns")
            if _is_name(items, at):
                self._found.words.add(_text(items, at))
                if _mark(items, at - 1) == ".":
                    self._found.attributes.add(_text(items, at))
                if _parentheses(items, at + 1) is not None:
                    self._found.aliases.add(_text(items, at))
                if at == 0 or _mark(items, at - 1) == ",":
                    level._type(at + 1)
