"""Who is what: from the servers' answers to a routing decision. Pure: nothing here does I/O.

Rules, in order:
1. The system identifier and the highest timeline once seen are a fence. A server of another
   cluster, and a writable server on an older timeline, are never used.
2. Of several writable servers the one on the highest timeline is the primary. On equal timelines,
   or with different system identifiers, there is no primary.
3. A replica is healthy when it belongs to the primary's cluster, has a running WAL receiver, and
   its distance to the primary's log is known and within the limit. Unknown is not healthy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a server is to the router."""

    PRIMARY = "primary"
    REPLICA = "replica"
    FENCED = "fenced"  # writable, and must not be written to
    FOREIGN = "foreign"  # a server of another cluster
    UNKNOWN = "unknown"  # it did not answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said of itself.

    ``position`` is the insert position of a writable server and the replay position of a standby,
    in bytes; None when the standby does not know yet. ``timeline`` of a standby is a lower bound.
    ``complete``: the standby had replayed all that it had received, and gets no log elsewhere.
    """

    node: str
    in_recovery: bool
    timeline: int
    system_identifier: int
    position: int | None
    receiving: bool
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """A server that did not answer, and why, in one line."""

    node: str
    why: str


Observation = Answer | Silence


@dataclass(frozen=True, slots=True)
class Fence:
    """The newest state of the cluster that was ever seen."""

    system_identifier: int | None = None
    timeline: int = 0


@dataclass(frozen=True, slots=True)
class NodeState:
    """One server as the router sees it. ``lag_bytes`` is None when unknown."""

    node: str
    role: Role
    healthy: bool
    state: str
    timeline: int | None = None
    lag_bytes: int | None = None
    lagging: bool = False  # unhealthy, and by its lag alone


@dataclass(frozen=True, slots=True)
class Topology:
    """The routing decision: ``primary`` is None when there is nothing to write to.

    ``problem`` then says why in one sentence; ``split`` names the writable servers between which
    it cannot be decided. ``replicas`` holds the healthy ones only; ``laggards`` those that are
    unhealthy by their lag alone, the nearest first; ``adrift`` replicas of an unknown lag, for
    whoever would rather read anything than nothing.
    """

    nodes: tuple[NodeState, ...]
    primary: str | None
    replicas: tuple[str, ...]
    fence: Fence
    problem: str | None = None
    split: tuple[str, ...] = ()
    laggards: tuple[str, ...] = ()
    adrift: tuple[str, ...] = ()

    def node(self, name: str) -> NodeState | None:
        """The state of one server, None when the router does not know the name."""
        return next((state for state in self.nodes if state.node == name), None)


def decide(
    observations: Sequence[Observation], *, fence: Fence = Fence(), max_lag_bytes: int
) -> Topology:
    """The topology that follows from one answer or silence per server."""
    answers = [seen for seen in observations if isinstance(seen, Answer)]
    writable = [seen for seen in answers if not seen.in_recovery]
    identifier = fence.system_identifier
    if identifier is None:
        identifiers = {seen.system_identifier for seen in writable}
        if len(identifiers) > 1:
            return _split(observations, writable, fence, "they belong to different clusters")
        identifier = next(iter(identifiers), None)

    ours = [seen for seen in answers if identifier in (None, seen.system_identifier)]
    timeline = max([fence.timeline, *(seen.timeline for seen in ours)])
    # Without a known cluster nothing is pinned: standbys alone may be a foreign pair.
    new_fence = fence if identifier is None else Fence(identifier, timeline)
    newest = [seen for seen in ours if not seen.in_recovery and seen.timeline == timeline]
    if len(newest) > 1:
        return _split(observations, newest, new_fence, f"all are on timeline {timeline}")

    primary = newest[0] if newest else None
    states = tuple(
        _state(seen, primary, identifier, timeline, len(writable) > 1, max_lag_bytes)
        for seen in observations
    )
    replicas = [s for s in states if s.role is Role.REPLICA]
    late = [s for s in replicas if s.lagging]
    return Topology(
        nodes=states,
        primary=primary.node if primary else None,
        replicas=tuple(s.node for s in replicas if s.healthy),
        fence=new_fence,
        problem=None if primary else _why_no_primary(states),
        laggards=tuple(s.node for s in sorted(late, key=lambda s: s.lag_bytes or 0)),
        adrift=tuple(
            s.node
            for s in replicas
            if not (s.healthy or s.lagging or (len(writable) > 1 and s.timeline != timeline))
        ),
    )


def _state(
    seen: Observation,
    primary: Answer | None,
    identifier: int | None,
    timeline: int,
    several_writable: bool,
    max_lag_bytes: int,
) -> NodeState:
    if isinstance(seen, Silence):
        return NodeState(seen.node, Role.UNKNOWN, False, seen.why)
    if identifier is not None and seen.system_identifier != identifier:
        what = f"belongs to another cluster (system identifier {seen.system_identifier})"
        return NodeState(seen.node, Role.FOREIGN, False, what, seen.timeline)
    if not seen.in_recovery:
        if seen is primary:
            return NodeState(seen.node, Role.PRIMARY, True, "writable", seen.timeline, 0)
        what = f"writable on the old timeline {seen.timeline}, the newest is {timeline}"
        return NodeState(seen.node, Role.FENCED, False, what, seen.timeline)

    lag, lagging = None, False
    if primary is not None and primary.position is not None and seen.position is not None:
        lag = max(0, primary.position - seen.position)
    if not seen.receiving:
        what, healthy = "not streaming", False
    elif lag is None:
        what, healthy = "streaming, lag unknown", False
    elif several_writable and seen.timeline < timeline:
        what, healthy = f"may follow the old timeline {seen.timeline}", False
    elif lag > max_lag_bytes:
        what, healthy, lagging = f"lags more than {max_lag_bytes} bytes", False, True
    else:
        what, healthy = "streaming", True
    return NodeState(seen.node, Role.REPLICA, healthy, what, seen.timeline, lag, lagging)


def _why_no_primary(states: Sequence[NodeState]) -> str:
    if not states:
        return "no node is configured"
    return "no writable server: " + "; ".join(
        f"{s.node} is a replica ({s.state})" if s.role is Role.REPLICA else f"{s.node}: {s.state}"
        for s in states
    )


def _split(
    observations: Sequence[Observation], rivals: Sequence[Answer], fence: Fence, why: str
) -> Topology:
    names = tuple(seen.node for seen in rivals)
    problem = f"{' and '.join(names)} are both writable and {why}: writes are refused"
    states = []
    for seen in observations:
        if isinstance(seen, Silence):
            states.append(NodeState(seen.node, Role.UNKNOWN, False, seen.why))
        elif seen.in_recovery:
            what = "cannot tell which writable server it follows"
            states.append(NodeState(seen.node, Role.REPLICA, False, what, seen.timeline))
        else:
            what = f"writable, and so is {' and '.join(n for n in names if n != seen.node)}"
            states.append(NodeState(seen.node, Role.FENCED, False, what, seen.timeline))
    return Topology(tuple(states), None, (), fence, problem, names)
