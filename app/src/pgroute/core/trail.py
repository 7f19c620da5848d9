"""What a session has written and seen: it never goes back behind that. Pure.

Kept as marks until their samples have come in, then as one token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pgroute.core.ledger import Ledger
from pgroute.core.lsn import Mark, Token


class Proof(NamedTuple):
    """That a standby may serve the session's next read, too: as long as the ledger's ``version``
    and the ``topology`` are the same, and it reads there and nowhere else. No mark settles without
    news. ``key``: the standby, the timeline and the epoch of its marks; ``route``: the way there.
    """

    key: tuple[str, int, int]
    version: int
    topology: object
    route: Any


class Trail:
    """One session's trail. Not thread-safe: a session belongs to one thread or task."""

    __slots__ = ("_pending", "floor", "proof", "standby_read_at")

    def __init__(self, floor: Token | None = None) -> None:
        self.floor = floor  # everything up to here was seen
        # When a standby was read last, until the primary is known to show all of that, too.
        self.standby_read_at: float | None = None
        self._pending: dict[tuple[str, int, int], Mark] = {}
        self.proof: Proof | None = None

    @property
    def pending(self) -> tuple[Mark, ...]:
        """The marks whose positions are not known yet: one per node at most, but for restarts."""
        return tuple(self._pending.values())

    def copy(self) -> Trail:
        """The same trail for another thread, at any moment."""
        pending = self._pending.copy()  # first: what is settled meanwhile is in both
        copied = Trail(self.floor)
        copied._pending = pending
        copied.standby_read_at = self.standby_read_at
        return copied

    def restore(self, kept: Trail) -> None:
        """Be again what was copied: what was seen since is of an attempt that nobody hears of."""
        self.floor, self._pending = kept.floor, kept._pending.copy()
        self.standby_read_at = kept.standby_read_at
        self.proof = None

    def note(self, mark: Mark) -> None:
        """A write or read has ended; a later one on the same node takes the earlier one's place."""
        key = mark.node, mark.timeline, mark.epoch
        self._pending[key] = mark
        if self.proof is not None and self.proof.key != key:
            self.proof = None

    def settle(self, ledger: Ledger) -> None:
        """Turn marks into the floor. TokenUnproven when something seen may be lost by now: then
        nothing is forgotten, and the session can only be begun anew."""
        if not self._pending:
            return
        for key, mark in list(self._pending.items()):
            token = ledger.settle(mark)
            if token is not None:
                self.floor = ledger.merge(self.floor, token)
                del self._pending[key]
