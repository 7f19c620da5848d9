"""What a server says about the names that a statement may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pgroute.statements import syntax
from pgroute.statements.references import Name, References


class Objection(NamedTuple):
    """Why a text must go to the primary. ``unknown``: a name that the catalogue does not have."""

    reason: str
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Catalog:
    """The functions, relations, types and operators of one database.

    Each maps a name, as it may be written, to what speaks against it on a replica: the empty text
    for nothing. An unqualified name stands for all objects of that name in any schema, so that
    no search_path can lead elsewhere. Made by :func:`pgroute.statements.loading.catalog_from`.
    """

    version: str = ""
    functions: Mapping[Name, str] = field(default_factory=dict)
    relations: Mapping[Name, str] = field(default_factory=dict)
    types: Mapping[Name, str] = field(default_factory=dict)
    operators: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Functions of one argument that are not harmless: ``(7).name`` calls them as well."""
    objection: str = ""
    """What speaks against every statement in this database."""
    conforming_strings: bool = True
    utf8: bool = True

    def object_to(self, found: References) -> Objection | None:
        """What speaks against a text that refers to these names; None if nothing does."""
        if found.problem:
            return Objection(found.problem)
        if self.objection:
            return Objection(self.objection)
        known = self._known(found)
        if known:
            return Objection(known)
        unknown = self._unknown(found)
        return Objection(unknown, unknown=True) if unknown else None

    def _known(self, found: References) -> str:
        """What speaks against a name that is known, wherever in the text it stands."""
        for name in found.functions | found.aliases:
            if self.functions.get(name):
                return f"function {_spell(name)} {self.functions[name]}"
        for name in found.words:
            if self.relations.get(name):
                return f"{name} {self.relations[name]}"
            if self.types.get(name):
                return f"type {name} {self.types[name]}"
        for name in found.relations | found.types:
            reason = self.relations.get(name) or self.types.get(name)
            if reason:
                return f"{_spell(name)} {reason}"
        for name in found.attributes:
            if name in self.attributes:
                return f"function {name} {self.attributes[name]}"
        for operator in found.operators:
            for written in {operator, operator.replace("%%", "%")}:
                if self.operators.get(written):
                    return f"operator {written} {self.operators[written]}"
        return ""

    def _unknown(self, found: References) -> str:
        for name in found.functions:
            if name not in self.functions and name not in syntax.CALL_LIKE_UNLESS_KNOWN:
                return f"unknown function {_spell(name)}"
        for name in found.relations:
            if name not in self.relations:
                return f"unknown relation {_spell(name)}"
        for name in found.types:
            if name not in self.types and name not in self.relations:
                return f"unknown type {_spell(name)}"
        for operator in found.operators:
            if operator.replace("%%", "%") not in self.operators:
                return f"unknown operator {operator}"
        return ""


def _spell(name: Name) -> str:
    return name if isinstance(name, str) else ".".join(name)
