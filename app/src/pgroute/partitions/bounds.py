"""Reads partition bounds as PostgreSQL prints them (``pg_get_expr(relpartbound, oid)``). Pure.

FOR VALUES WITH (modulus 4, remainder 0)
FOR VALUES FROM ('2023-01-01', MINVALUE) TO ('2024-01-01', MAXVALUE)
FOR VALUES IN ('a', NULL)
DEFAULT
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class Edge(Enum):
    """An end of a range that lies beyond every value."""

    MINVALUE = "MINVALUE"
    MAXVALUE = "MAXVALUE"


@dataclass(frozen=True, slots=True)
class HashBound:
    """Rows whose hash divided by ``modulus`` leaves ``remainder``."""

    modulus: int
    remainder: int


@dataclass(frozen=True, slots=True)
class RangeBound:
    """Rows from ``lower`` up to, and without, ``upper``; one literal or Edge per key column."""

    lower: tuple[str | Edge, ...]
    upper: tuple[str | Edge, ...]


@dataclass(frozen=True, slots=True)
class ListBound:
    """Rows with one of these values; None is NULL."""

    values: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class DefaultBound:
    """Rows that no other partition takes."""


Bound: TypeAlias = HashBound | RangeBound | ListBound | DefaultBound

_HASH = re.compile(r"FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)")
_LITERAL = r"(?:'(?:[^']|'')*'|[^\s'(),]+)"
_LITERALS = rf"\(({_LITERAL}(?:, {_LITERAL})*)\)"
_RANGE = re.compile(f"FOR VALUES FROM {_LITERALS} TO {_LITERALS}")
_LIST = re.compile(f"FOR VALUES IN {_LITERALS}")


def parse(text: str) -> Bound:
    """The bound in ``text``. ValueError when it is none that this module knows."""
    if text == "DEFAULT":
        return DefaultBound()
    if match := _HASH.fullmatch(text):
        return HashBound(int(match[1]), int(match[2]))
    if match := _RANGE.fullmatch(text):
        return RangeBound(_ends(match[1]), _ends(match[2]))
    if match := _LIST.fullmatch(text):
        return ListBound(tuple(_listed(literal) for literal in re.findall(_LITERAL, match[1])))
    raise ValueError(f"not a partition bound that pgroute can read: {text}")


def _ends(literals: str) -> tuple[str | Edge, ...]:
    return tuple(
        Edge(literal) if literal in Edge.__members__ else _plain(literal)
        for literal in re.findall(_LITERAL, literals)
    )


def _listed(literal: str) -> str | None:
    return None if literal == "NULL" else _plain(literal)


def _plain(literal: str) -> str:
    if literal.startswith("'"):
        return literal[1:-1].replace("''", "'")
    return literal
