"""What this process can prove about the servers' positions in the log. Pure; one writer thread.

The sampler feeds it with what servers answered and when each question was sent. The answers:

* A write that ended at t is in the log before the position of any sample of its primary that
  started at t or later. So the first such sample is a safe upper bound for the write.
* A replica that has replayed up to a primary sample holds everything committed before that sample
  started. So the start of the newest such sample bounds how old its data are.
* What a standby shows may be one record further than the position it tells: a commit is seen
  before it is counted, and whoever commits a TRUNCATE counts late. So a sample that started after a
  read there covers it when all that was received had been replayed, or once a later one is higher;
  else the primary's does.
* A timeline's log is part of its child's only up to the switch point. Of that a lower bound is
  known: how far the new primary had replayed when it was last seen as a standby. A token beyond it
  may be lost, and is TokenUnproven.
* What is not known is None, never zero.

Positions of the primary go through :func:`pgroute.core.lsn.reachable` first. A standby's timeline
may be a lower bound, and must not be read before its position: then a standby on the primary's
timeline is surely on it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from enum import StrEnum

from pgroute.core.lsn import Mark, Token, format_lsn
from pgroute.errors import ForeignToken, TokenUnproven

_HISTORY = 4096
_MOVES_SECONDS = 0.25  # so long a standby's own next position is waited for
_ENDLESS = 1 << 64


class Standing(StrEnum):
    """What a token's position is to the primary that is known now."""

    PROVEN = "proven"  # part of the primary's log
    AHEAD = "ahead"  # of a timeline newer than any primary seen here: look again
    UNPROVEN = "unproven"  # perhaps lost in a failover


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A standby's newest sample.

    ``fresh_at``: when the newest primary sample started of which it has replayed everything; None
    when none is known. ``lower_at``: when the newest sample started that told a lower position, if
    any did. ``complete``: all that it had received was replayed.
    ``parent``: the timeline before, and how far it was seen there, if that is the one before.
    """

    started_at: float
    timeline: int
    position: int
    fresh_at: float | None
    lower_at: float | None
    complete: bool
    parent: tuple[int, int] | None = None

    def covers(self, moment: float) -> bool:
        """Whether all that was seen there until ``moment`` is surely up to the position."""
        if self.complete and self.started_at >= moment:
            return True
        return self.lower_at is not None and self.lower_at >= moment


class Ledger:
    """Positions over time. :meth:`primary_seen` and the like are for one thread only, the sampler;
    everything else may be called from any thread and sees a state that held at some moment.
    """

    def __init__(self, *, history: int = _HISTORY, trusted_seconds: float = 1.0) -> None:
        """``history`` bounds the memory; ``trusted_seconds`` is for how long the primary's newest
        sample may stand for its present position when lag is told in bytes."""
        if history < 4:
            raise ValueError(f"history must be at least 4, not {history}")
        self._capacity = history
        self._trusted_seconds = trusted_seconds
        self._system_identifier: int | None = None
        self._history = _History(0, "")
        self._earlier: dict[int, _History] = {}
        self._views: dict[str, ReplicaView] = {}
        self._epochs: dict[str, int] = {}
        self._switches: dict[int, tuple[int, int]] = {}  # child: (parent, lower bound)
        self._forks: dict[int, tuple[float, int]] = {}  # timeline: since when, up to where
        self.version = 0  # counts what has been seen: what followed from it follows as long

    # What the sampler has seen

    def primary_seen(
        self, node: str, *, started_at: float, timeline: int, position: int, system_identifier: int
    ) -> None:
        """``node``, which topology holds for the primary, answered a question sent at
        ``started_at`` (seconds). One of an older timeline than known is passed over."""
        history = self._history
        known = system_identifier == self._system_identifier
        if known and (timeline < history.timeline or started_at < history.heard_at):
            return
        if not known or timeline > history.timeline or node != history.node:
            self._begin(node, started_at, timeline, system_identifier)
        elif history.is_beyond(position):
            # A crash takes log along that was not on disk yet; no durable commit was in it.
            self._history = _History(timeline, node)
        history = self._history
        if history.add(started_at, position):
            history.thin(self._capacity)
        for name, view in self._views.items():
            if view.timeline == timeline and position <= view.position:
                fresh_at = max(started_at, view.fresh_at or 0.0)
                self._views[name] = replace(view, fresh_at=fresh_at)
        self.version += 1

    def replica_seen(
        self,
        node: str,
        *,
        started_at: float,
        timeline: int,
        position: int | None,
        complete: bool = False,
    ) -> None:
        """A standby answered; ``position`` is how far it has replayed, None when it cannot say;
        ``complete``: that was all it had received, and it gets no log elsewhere."""
        if position is None:
            self.silent(node)
            return
        history = self._history
        fresh_at = history.newest_within(position) if timeline == history.timeline else None
        before, lower_at, parent = self._views.get(node), None, None
        if before is not None and before.timeline == timeline:
            parent = before.parent
            if before.position <= position:
                lower_at = before.started_at if before.position < position else before.lower_at
        elif before is not None and before.timeline == timeline - 1:
            parent = before.timeline, before.position
        view = ReplicaView(started_at, timeline, position, fresh_at, lower_at, complete, parent)
        self._views = {**self._views, node: view}
        self.version += 1

    def silent(self, node: str) -> None:
        """The server did not answer, or its connection was lost: it may come back with less."""
        self._epochs[node] = self._epochs.get(node, 0) + 1
        self._views = {name: view for name, view in self._views.items() if name != node}
        self.version += 1

    # What follows from it

    @property
    def timeline(self) -> int:
        """The newest primary's timeline, 0 before the first sample of one."""
        return self._history.timeline

    def view(self, node: str) -> ReplicaView | None:
        """The newest sample of a standby, None while it is silent."""
        return self._views.get(node)

    def epoch(self, node: str) -> int:
        """How often the server has been silent: what was read before is no bound after."""
        return self._epochs.get(node, 0)

    def settle(self, mark: Mark) -> Token | None:
        """The token of a mark; None while the sample it needs has not come in.

        TokenUnproven when it never will, because a newer timeline has begun in between.
        """
        identifier = self._system_identifier
        history = self._history
        if identifier is None:
            return None
        view = self._views.get(mark.node)
        if (
            view is not None
            and view.timeline == mark.timeline
            and self.epoch(mark.node) == mark.epoch
        ):
            if view.covers(mark.ended_at):
                return Token(identifier, mark.timeline, view.position)
        else:
            view = None
        fork = self._forks.get(mark.timeline)
        forked = fork is not None and mark.ended_at < fork[0]
        if mark.timeline == history.timeline and not forked:
            position = history.first_since(mark.ended_at)
            if position is None or _moves_soon(view, mark.ended_at, position):
                return None
            return Token(identifier, mark.timeline, position)
        if mark.timeline > history.timeline:
            return None
        earlier = self._earlier.get(mark.timeline)
        position = None if earlier is None else earlier.first_since(mark.ended_at)
        if position is None or forked:
            raise TokenUnproven(
                f"{mark.node} was left for {history.node}, timeline {history.timeline}, before it "
                f"told how far timeline {mark.timeline} had got: what came last may be lost"
            )
        return Token(identifier, mark.timeline, position)

    def standing(self, token: Token) -> Standing:
        """Whether the primary surely has what the token stands for. ForeignToken when another
        cluster made it. Before the first primary sample every token is AHEAD."""
        identifier = self._system_identifier
        if identifier is not None and not self._is_ours(token):
            raise ForeignToken(
                f"the token is of cluster {token.system_identifier}, this one is {identifier}"
            )
        timeline = self._history.timeline
        if token.timeline > timeline:
            return Standing.AHEAD
        fork = self._forks.get(token.timeline)
        proven = token.position <= self._shared(token.timeline, timeline) and (
            fork is None or token.position > fork[1]
        )
        return Standing.PROVEN if proven else Standing.UNPROVEN

    def prove(self, token: Token) -> None:
        """Return when the token is PROVEN or AHEAD; TokenUnproven and ForeignToken otherwise."""
        if self.standing(token) is Standing.UNPROVEN:
            raise TokenUnproven(
                f"the token {token} is of timeline {token.timeline}; {self._history.node}, the "
                f"primary on timeline {self.timeline}, has not for certain all of it: "
                "the write may have been lost in the failover"
            )

    def holds(self, node: str, token: Token) -> bool:
        """Whether the standby surely has everything the token stands for."""
        view, timeline = self._views.get(node), self._history.timeline
        if view is None or view.position < token.position or view.timeline != timeline:
            return False
        if token.timeline == timeline and not self._forks and self._is_ours(token):
            return True  # as nearly always
        return self.standing(token) is Standing.PROVEN

    def staleness(self, node: str, now: float) -> float | None:
        """How many seconds old the standby's data are at most; None when it cannot be told."""
        view = self._views.get(node)
        if view is None or view.fresh_at is None or view.timeline != self._history.timeline:
            return None
        return max(0.0, now - view.fresh_at)

    def lag_bytes(self, node: str, now: float) -> int | None:
        """How much log the standby has yet to replay; None when it cannot be told, as when the
        primary's newest sample is older than ``trusted_seconds``."""
        view, history = self._views.get(node), self._history
        newest = history.newest
        if view is None or newest is None or view.timeline != history.timeline:
            return None
        started_at, position = newest
        if now - started_at > self._trusted_seconds:
            return None
        return max(0, position - view.position)

    def merge(self, first: Token | None, second: Token) -> Token:
        """One token for both, for a session that must not go back behind either.

        TokenUnproven when the older timeline's is not surely part of the newer one.
        """
        if first is None:
            return second
        self.prove(first)
        older, newer = sorted((first, second), key=lambda token: token.timeline)
        if older.timeline < newer.timeline:
            shared = self._shared(older.timeline, newer.timeline)
            if older.position > shared:
                raise TokenUnproven(
                    f"the token {older} is not surely part of timeline {newer.timeline}, which "
                    f"shares {format_lsn(shared)} with it: the write may have been lost"
                )
        position = max(older.position, newer.position)
        return Token(newer.system_identifier, newer.timeline, position)

    def _is_ours(self, token: Token) -> bool:
        return token.system_identifier == self._system_identifier

    def _begin(self, node: str, started_at: float, timeline: int, system_identifier: int) -> None:
        before, last = self._history, self._views.get(node)
        if system_identifier != self._system_identifier:
            self._earlier, self._switches, self._views, self._forks = {}, {}, {}, {}
        else:
            if timeline == before.timeline:
                # Two servers have begun the same timeline, not knowing of each other: what the
                # first one has written there looks like the second one's.
                newest = before.newest
                self._forks[timeline] = (started_at, newest[1] if newest else 0)
            # A standby's timeline is a lower bound: only the direct parent leaves no other one.
            if last is not None and last.timeline == timeline - 1:
                self._switches[timeline] = (last.timeline, last.position)
            elif last is not None and last.timeline == timeline and last.parent is not None:
                self._switches[timeline] = last.parent  # it was seen while its recovery ended
            else:
                self._switches.pop(timeline, None)
            self._earlier = {before.timeline: before}
            self._views = {name: view for name, view in self._views.items() if name != node}
        self._system_identifier = system_identifier
        self._history = _History(timeline, node)

    def _shared(self, older: int, newer: int) -> int:
        """Up to where the older timeline's log is surely part of the newer one's; 0: unknown."""
        shared = _ENDLESS
        while newer > older:
            parent = self._switches.get(newer)
            if parent is None:
                return 0
            newer, bound = parent
            shared = min(shared, bound)
        return shared


def _moves_soon(view: ReplicaView | None, ended_at: float, position: int) -> bool:
    """Whether the standby that was read will probably tell a position below the primary's that
    covers the read: then its readers need not leave it for the primary."""
    return (
        view is not None
        and view.position < position
        and view.started_at < ended_at + _MOVES_SECONDS
    )


class _History:
    """A primary's positions on one timeline: runs of equal positions with their last start."""

    def __init__(self, timeline: int, node: str) -> None:
        self.timeline = timeline
        self.node = node
        self.heard_at = float("-inf")  # when the newest question that was answered was sent
        self._runs: tuple[list[float], list[int]] = ([], [])  # last starts, positions: both rise

    @property
    def newest(self) -> tuple[float, int] | None:
        starts, positions = self._runs
        count = len(positions)  # another thread may be in the middle of add()
        return (starts[count - 1], positions[count - 1]) if count else None

    def is_beyond(self, position: int) -> bool:
        """Whether a sample has been further."""
        positions = self._runs[1]
        return bool(positions) and positions[-1] > position

    def add(self, started_at: float, position: int) -> bool:
        """Append a sample; True when the history has grown by it."""
        starts, positions = self._runs
        self.heard_at = started_at
        if positions and position == positions[-1]:
            starts[-1] = started_at
            return False
        starts.append(started_at)
        positions.append(position)
        return True

    def thin(self, capacity: int) -> None:
        """Forget every second run of the older half: bounds get wider, never wrong."""
        starts, positions = self._runs
        if len(positions) > capacity:
            half = capacity // 2
            self._runs = (starts[:half:2] + starts[half:], positions[:half:2] + positions[half:])

    def first_since(self, moment: float) -> int | None:
        """The position of the first sample that started at ``moment`` or later."""
        starts, positions = self._runs
        at = bisect_left(starts, moment)
        return positions[at] if at < len(positions) else None

    def newest_within(self, position: int) -> float | None:
        """When the newest sample started that is at or before ``position``."""
        starts, positions = self._runs
        at = bisect_right(positions, position)
        return starts[at - 1] if at else None
