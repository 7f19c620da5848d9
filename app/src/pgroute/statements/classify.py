"""Decide where one text may run. Pure: no I/O, no clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pgroute.statements.catalog import Catalog


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
    """Where ``sql`` may run, by what ``catalog`` knows; without a catalogue, the primary."""
    if catalog is None:
        return Decision(Route.PRIMARY, "the catalogue has not been read yet")
    return Decision(Route.PRIMARY, f"not known to be harmless: {sql[:40]}")
