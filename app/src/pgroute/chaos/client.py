"""What the workload drives: a router, or anything else that writes and reads.

The table the workload writes to has one row per acknowledged write. Its names are fixed, so that
every statement is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pgroute.chaos.tally import Promise

TABLE = (
    "create table pgroute_chaos (run uuid, worker int, sequence bigint, "
    "primary key (run, worker, sequence))"
)
INSERT = (
    "insert into pgroute_chaos values (%s, %s, %s) "
    "returning ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
)
NEWEST = "select coalesce(max(sequence), 0) from pgroute_chaos where run = %s::uuid and worker = %s"


class Refused(Exception):  # an answer, not an error
    """The promise of a read could not be proven, and the client said so.

    ``for_good``: nor will it be later; whoever reads on begins anew.
    """

    def __init__(self, why: str, *, for_good: bool) -> None:
        super().__init__(why)
        self.for_good = for_good


@dataclass(frozen=True, slots=True)
class Written:
    """An acknowledged write: where, on which timeline, and what a later read may be given."""

    node: str
    timeline: int
    token: object


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest sequence a read found, and where."""

    node: str
    sequence: int


class Client(Protocol):
    """Called from many threads. Whatever these raise is a failed attempt, Refused apart."""

    def write(self, worker: int, sequence: int) -> Written:
        """Write one row and commit it."""
        ...

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        """Read a worker's newest sequence. ``held``: a token, a session or None."""
        ...

    def session(self) -> object:
        """Begin a session that never reads back in time."""
        ...
