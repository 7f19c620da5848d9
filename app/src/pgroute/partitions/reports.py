"""What a bulk load did, row by row refused and transaction by transaction. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a transaction."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown: no answer came to the COMMIT"
    CALLERS = "written: the caller's transaction decides"


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was not written. ``row`` counts from 1 in the order given, ``sqlstate`` is None
    when the row did not reach the server."""

    row: int
    table: str
    reason: str
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One transaction of a load: its rows per table, the node, and what became of it."""

    rows_by_table: Mapping[str, int]
    node: str
    outcome: Outcome

    @property
    def rows(self) -> int:
        """All rows of this transaction."""
        return sum(self.rows_by_table.values())


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did. ``why_not_by_leaf`` is None when rows went straight to their leaves."""

    table: str
    parts: tuple[Part, ...]
    rejects: tuple[Reject, ...]
    rows_read: int
    seconds: float
    why_not_by_leaf: str | None

    def rows_with(self, *outcomes: Outcome) -> int:
        """The rows of the transactions that ended so."""
        return sum(part.rows for part in self.parts if part.outcome in outcomes)

    @property
    def rows(self) -> int:
        """The rows that are in the table, or will be when the caller commits."""
        return self.rows_with(Outcome.COMMITTED, Outcome.CALLERS)

    @property
    def passed_over(self) -> int:
        """The rows that were neither written nor refused: a trigger of the table has dropped them.
        Told of a load that has ended well."""
        return self.rows_read - len(self.rejects) - self.rows

    @property
    def node(self) -> str:
        """The node that took the rows; the last one, were there several."""
        return self.parts[-1].node if self.parts else ""

    def words(self) -> str:
        """What is in the table, in one sentence."""
        if not any(part.rows for part in self.parts if part.outcome is not Outcome.ROLLED_BACK):
            return "nothing was written"
        ended: dict[Outcome, list[str]] = {}
        for part in self.parts:
            counts = [f"{table} ({rows:,} rows)" for table, rows in part.rows_by_table.items()]
            ended.setdefault(part.outcome, []).extend(counts)
        return "; ".join(
            f"{outcome}: {', '.join(counts)}" for outcome, counts in ended.items() if counts
        )
