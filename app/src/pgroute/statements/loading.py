"""Make a Catalog of what the server has answered (queries.LOAD).

A function, a view or a type is harmless when nothing that it uses is harmful. All start as
harmless unless something of their own speaks against it; then harm spreads along the uses until
nothing changes. So recursive functions and views need no special care.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgroute.statements import builtin
from pgroute.statements.catalog import Catalog
from pgroute.statements.lexer import Unsure, tokens
from pgroute.statements.references import Name, References, read, read_query, statements, word

Row = Mapping[str, Any]

_READ_LANGUAGES = frozenset({"sql", "plpgsql"})
_TRUSTED_LANGUAGES = frozenset({"c", "internal"})

Key = tuple[str, int]
"""("function" | "relation" | "type", oid): an oid is unique within its kind only."""


@dataclass(slots=True)
class _Thing:
    """A function, relation or type of the user."""

    table: dict[Name, str]
    names: tuple[Name, ...]
    found: References = field(default_factory=References)
    needs: set[Key] = field(default_factory=set)  # what else must be harmless
    reason: str = ""


def catalog_from(text: str) -> Catalog:
    """The catalogue in the server's answer to ``queries.LOAD``, a JSON text."""
    return _Loading(json.loads(text)).catalog


class _Loading:
    def __init__(self, answer: Row) -> None:
        self._answer = answer
        self._conforming = bool(answer["conforming_strings"])
        self._functions: dict[Name, str] = {}
        self._relations: dict[Name, str] = {}
        self._types: dict[Name, str] = {}
        self._attributes: dict[str, str] = {}
        self._things: dict[Key, _Thing] = {}
        self._harmful: set[Key] = set()
        self._implicit = _keys("type", self._rows("implicit_targets"))
        self._immutable: dict[Name, set[Key]] = {}
        for row in self._rows("functions"):
            if row["volatility"] == "i":
                for name in (row["name"], (row["schema"], row["name"])):
                    self._immutable.setdefault(name, set()).add(("function", row["oid"]))
        self._operators: dict[str, str] = dict.fromkeys(answer["builtin_operators"], "")
        self._builtin()
        self._user_types()
        self._user_relations()
        self._user_functions()
        self._functions_of_types()
        self._spread()
        objection = self._user_operators()
        self.catalog = Catalog(
            version=str(answer["version"]),
            functions=self._functions,
            relations=self._relations,
            types=self._types,
            operators=self._operators,
            attributes=self._attributes,
            objection=objection or self._casts_between_builtin_types(),
            conforming_strings=self._conforming,
            utf8=bool(answer["utf8"]),
        )

    def _rows(self, key: str) -> Sequence[Any]:
        return self._answer[key] or ()

    # What every server has

    def _builtin(self) -> None:
        for row in self._rows("builtin_functions"):
            name, reason = row["name"], ""
            if row["volatility"] == 2 and name not in builtin.VOLATILE:
                reason = "is volatile"
            elif row["volatility"] == 1 and name not in builtin.STABLE:
                reason = "depends on the session or the server"
            _add(self._functions, (name, ("pg_catalog", name)), reason)
            if reason:
                self._harmful.update(("function", oid) for oid in row["oids"])
                if row["takes_one"]:
                    self._attributes[name] = reason
        for row in self._rows("builtin_relations"):
            name = row["name"]
            hidden = row["kind"] == "v" and name not in builtin.VIEWS
            reason = "shows the state of one server or role" if hidden else ""
            _add(self._relations, (name, ("pg_catalog", name)), reason)
        in_path = self._answer["information_schema_in_path"]
        for row in self._rows("other_relations"):
            names: tuple[Name, ...] = ((row["schema"], row["name"]),)
            _add(
                self._relations, (*names, row["name"]) if in_path else names, "depends on the role"
            )
        for name in self._rows("builtin_types"):
            _add(self._types, (str(name), ("pg_catalog", str(name))), "")

    # What users have made

    def _thing(self, kind: str, table: dict[Name, str], row: Row, reason: str) -> _Thing:
        thing = _Thing(table, (row["name"], (row["schema"], row["name"])), reason=reason)
        for name in thing.names:
            table.setdefault(name, "")
        self._things[kind, row["oid"]] = thing
        return thing

    def _user_types(self) -> None:
        for row in self._rows("types"):
            reason = "has volatile input or output" if row["volatile"] else ""
            thing = self._thing("type", self._types, row, reason)
            thing.needs.update(_keys("type", row["parts"]))
            for constraint in row["constraints"] or ():
                self._read(constraint, thing.found)

    def _user_relations(self) -> None:
        for row in self._rows("relations"):
            reason = ""
            if row["kind"] == "S":
                reason = "is a sequence, ahead on a replica"
            elif row["elsewhere"]:
                reason = "is unlogged or foreign, or has such a partition"
            thing = self._thing("relation", self._relations, row, reason)
            thing.needs.update(_keys("type", [*(row["types"] or ()), row["row_type"]]))
            for text in [*(row["policies"] or ()), *(row["generated"] or ())]:
                self._read(text, thing.found)
            if row["definition"]:
                self._read(row["definition"], thing.found)
            thing.needs.update(_keys("relation", row["children"]))
            for text in row["planned"] or ():
                self._planned(text, thing)
            parts = _keys("type", row["types"]) | _keys("type", row["wider_types"])
            self._things["type", row["row_type"]] = _Thing({}, (), needs=parts)

    def _user_functions(self) -> None:
        for row in self._rows("functions"):
            thing = self._thing("function", self._functions, row, _own_objection(row))
            thing.needs = _keys("type", row["types"]) | _keys("function", row["parts"])
            thing.needs |= _keys("type", row["states"])
            if row["defaults"]:
                self._read(f"({row['defaults']})", thing.found)
            if not thing.reason and row["language"] in _READ_LANGUAGES and row["kind"] != "a":
                self._body(row, thing.found)

    def _body(self, row: Row, found: References) -> None:
        try:
            cut = tokens(row["body"], placeholders=False, conforming_strings=self._conforming)
            for items in statements(cut):
                if row["language"] == "plpgsql":
                    read(items, found, plpgsql=True)
                    continue
                if row["standard_body"]:
                    if word(items, 0) == "begin":
                        items = items[2:]  # BEGIN ATOMIC
                    if word(items, 0) == "return":
                        read(items[1:], found)
                        continue
                    if word(items, 0) == "end":
                        continue
                if items:
                    read_query(items, found)
        except Unsure as unsure:
            found.problem = str(unsure)

    def _read(self, text: str, found: References) -> None:
        """Read an expression or a query that the server itself has written."""
        try:
            for items in statements(
                tokens(text, placeholders=False, conforming_strings=self._conforming)
            ):
                read(items, found)
        except Unsure as unsure:
            found.problem = str(unsure)

    def _planned(self, text: str, thing: _Thing) -> None:
        """The planner calls immutable functions in checks, indexes and such: what is constant."""
        found = References()
        self._read(text, found)
        thing.found.problem = thing.found.problem or found.problem
        for name in found.functions & self._immutable.keys():
            thing.needs |= self._immutable[name]

    def _functions_of_types(self) -> None:
        """Casts, operators and comparison functions run without being named: they mark types."""
        for row in self._rows("type_functions"):
            if ("type", row["type"]) in self._things:
                self._things["type", row["type"]].needs.add(("function", row["function"]))
        for row in self._rows("operators"):
            for operand in self._users_operands(row):
                self._things[operand].needs.add(("function", row["function"]))

    # How harm spreads

    def _spread(self) -> None:
        so_far = Catalog(
            functions=self._functions,
            relations=self._relations,
            types=self._types,
            operators=self._operators,
            attributes=self._attributes,
        )
        for row in self._rows("operators"):
            self._operators.setdefault(row["name"], "")
        takes_one = {
            ("function", row["oid"]) for row in self._rows("functions") if row["takes_one"]
        }
        changed = True
        while changed:
            changed = False
            for key, thing in self._things.items():
                if key not in self._harmful and self._harms(thing, so_far):
                    self._harmful.add(key)
                    changed = True
                    if key in takes_one:
                        self._attributes[str(thing.names[0])] = thing.reason

    def _harms(self, thing: _Thing, so_far: Catalog) -> bool:
        if not thing.reason:
            if thing.needs & self._harmful:
                thing.reason = "uses something that is not harmless"
            else:
                objection = so_far.object_to(thing.found)
                thing.reason = f"uses: {objection.reason}" if objection else ""
        if thing.reason:
            _add(thing.table, thing.names, thing.reason)
        return bool(thing.reason)

    def _user_operators(self) -> str:
        """Mark operators that no type can stand for; returns what speaks against every text."""
        builtin_names = set(self._answer["builtin_operators"])
        for row in self._rows("operators"):
            name = row["name"]
            if ("function", row["function"]) not in self._harmful:
                continue
            if name in builtin_names and self._is_seen_by_type(row):
                continue  # = on a type of the user: the type is marked, = itself is not
            self._operators[name] = "is implemented by a function that is not harmless"
            if name in builtin.IMPLIED_OPERATORS or "%" in name:
                return f"operator {name} is not harmless and may be used without being seen"
        return ""

    def _users_operands(self, row: Row) -> set[Key]:
        return _operands(row) & self._things.keys()

    def _is_seen_by_type(self, row: Row) -> bool:
        """False if a literal or an implicit cast may stand for the operands: it names no type."""
        return _operands(row) <= self._things.keys() - self._implicit

    def _casts_between_builtin_types(self) -> str:
        """Such a cast or comparison runs unseen anywhere; one of a user's type marks the type."""
        types_of: dict[int, set[Key]] = {}
        for row in self._rows("type_functions"):
            types_of.setdefault(row["function"], set()).add(("type", row["type"]))
        for function, types in types_of.items():
            if ("function", function) in self._harmful and not types & self._things.keys():
                return "a cast or comparison of built-in types is not harmless"
        return ""


def _keys(kind: str, oids: Iterable[int] | None) -> set[Key]:
    return {(kind, oid) for oid in oids or ()}


def _operands(row: Row) -> set[Key]:
    return {("type", oid) for oid in (row["left"], row["right"]) if oid}


def _own_objection(row: Row) -> str:
    if row["kind"] == "p":
        return "is a procedure"
    if row["kind"] == "a":
        return ""  # what counts are the functions that it is made of
    if row["volatility"] == "v":
        return "is volatile"
    if row["language"] in _READ_LANGUAGES:
        return ""
    if row["language"] not in _TRUSTED_LANGUAGES:
        return f"is written in {row['language']}"
    if row["volatility"] == "i" or row["body"] in builtin.STABLE_IN_C:
        return ""
    return "is not immutable, and may run SQL that is not seen"


def _add(table: dict[Name, str], names: Iterable[Name], reason: str) -> None:
    """Let a name stand for one more object; one objection is enough."""
    for name in names:
        table[name] = table.get(name) or reason
