"""What a server says about the names that a statement may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Catalog:
    """Functions, relations, types and operators of one database, and which are harmless."""

    version: str
