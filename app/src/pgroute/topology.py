"""Moved to :mod:`pgroute.core.topology`."""

from pgroute.core.topology import (
    Answer,
    Fence,
    NodeState,
    Observation,
    Role,
    Silence,
    Topology,
    decide,
)

__all__ = [
    "Answer",
    "Fence",
    "NodeState",
    "Observation",
    "Role",
    "Silence",
    "Topology",
    "decide",
]
