"""Which servers may serve a read: from the topology, the ledger, the breakers and the contract.

Pure. The policy then orders the candidates; the caller spills to the primary within its cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pgroute.core.breaker import Breaker, BreakerState
from pgroute.core.contracts import Contract, Otherwise
from pgroute.core.ledger import Ledger, Standing
from pgroute.core.lsn import Mark, Token
from pgroute.core.topology import Topology
from pgroute.core.trail import Trail

Breakers = Mapping[str, Breaker]


class Then(StrEnum):
    """What to do when there is no candidate, or none of them gives a connection."""

    PRIMARY = "primary"  # the contract itself asks for it: no cap
    SPILL = "spill"  # read on the primary, within the cap on spilled reads
    WAIT = "wait"  # wait for a replica that meets the contract, then read on the primary
    LOOK_AGAIN = "look_again"  # ask the servers anew and select again, within the deadline
    REFUSE = "refuse"  # ContractNotMet, or NoReadableNode without a primary


@dataclass(frozen=True, slots=True)
class Selection:
    """``candidates`` meet the contract now, in the topology's order. ``primary`` is the only node
    that PRIMARY, SPILL and WAIT may end on: of another one nothing is proven. ``waitable`` may
    reach ``token`` soon; without a token its mark has to settle first. ``why``: in one line, why
    no (further) replica meets the contract."""

    candidates: tuple[str, ...]
    then: Then
    why: str
    primary: str | None = None
    waitable: tuple[str, ...] = ()
    token: Token | None = None


def select(
    contract: Contract,
    topology: Topology,
    ledger: Ledger,
    *,
    now: float,
    breakers: Breakers | None = None,
    draw: float = 0.0,
    trail: Trail | None = None,
) -> Selection:
    """The servers for one read, in a session when it leaves a ``trail``.

    ``draw``: a random number of [0, 1); a node that warms up is passed over when its weight is not
    above it, unless no other is left. Raises TokenUnproven and ForeignToken for such a token.
    """
    token, pending = _demands(contract, trail, ledger)
    compares = trail is not None or not (contract.strong or contract.is_eventual)
    if token is not None or pending or compares:
        doubt = _doubt(token, pending, topology, ledger)
        if doubt is not None:
            return Selection((), Then.LOOK_AGAIN, doubt, token=token)
    if contract.strong:
        then = Then.REFUSE if topology.primary is None else Then.PRIMARY
        why = topology.problem or "the contract is 'strong'"
        return Selection((), then, why, topology.primary, token=token)
    sound = _admitted(topology.replicas, breakers) + _admitted(topology.laggards, breakers)
    if contract.is_eventual and trail is None and token is None and not pending:
        return _eventual(contract, topology, sound, breakers, now, draw)

    if topology.primary is None:  # how far a replica lags is unknown, what it holds is not
        sound += _admitted(topology.adrift, breakers)
    meet = tuple(
        name
        for name in sound
        if _meets(name, contract, token, ledger, now)
        and _stays(name, pending, ledger)
        and (trail is None or _is_current(name, ledger))
    )
    why = "the mark's position is not known yet" if pending else f"no replica meets {contract}"
    if topology.primary is None:
        why = f"{why}; {topology.problem}"
    then = _otherwise(contract, topology)
    return Selection(_warm(meet, breakers, now, draw), then, why, topology.primary, sound, token)


def serves(
    name: str,
    contract: Contract,
    topology: Topology,
    ledger: Ledger,
    *,
    now: float,
    trail: Trail | None = None,
) -> bool:
    """Whether :func:`select` has a healthy replica among its candidates, at a fraction of the
    price. For reads with demands. Raises TokenUnproven and ForeignToken as it does."""
    if contract.strong or not _sampled(topology, ledger):
        return False
    token, pending = _left_by(trail, ledger)
    if contract.after is not None:
        token, pending = _demands(contract, trail, ledger)
    return (
        _meets(name, contract, token, ledger, now)
        and _stays(name, pending, ledger)
        and (trail is None or _is_current(name, ledger))
    )


def doubt_about_primary(
    contract: Contract, topology: Topology, ledger: Ledger, trail: Trail | None = None
) -> str | None:
    """Why the primary may lack what a token or a session stands for, in one line; None when it
    has all of it. Raises TokenUnproven and ForeignToken for such a token."""
    token, pending = _demands(contract, trail, ledger)
    if token is None and not pending:
        return None
    return _doubt(token, pending, topology, ledger)


def _demands(
    contract: Contract, trail: Trail | None, ledger: Ledger
) -> tuple[Token | None, tuple[Mark, ...]]:
    """One token for all that must be held, and the marks that have not settled."""
    token, pending = _left_by(trail, ledger)
    after = contract.after
    settled = ledger.settle(after) if isinstance(after, Mark) else after
    if settled is not None:
        ledger.prove(settled)  # names a foreign one before anything is computed from it
        if ledger.standing(settled) is Standing.AHEAD:
            return settled, pending
        token = settled if token is None else ledger.merge(token, settled)
    elif isinstance(after, Mark):
        pending = (*pending, after)
    if token is not None:
        ledger.prove(token)
    return token, pending


def _left_by(trail: Trail | None, ledger: Ledger) -> tuple[Token | None, tuple[Mark, ...]]:
    """What a session must not go back behind."""
    if trail is None:
        return None, ()
    trail.settle(ledger)
    return trail.floor, trail.pending


def _doubt(
    token: Token | None, pending: tuple[Mark, ...], topology: Topology, ledger: Ledger
) -> str | None:
    """Why not even the primary can be trusted with the token, in one line."""
    newest = ledger.timeline
    if token is not None and ledger.standing(token) is Standing.AHEAD:
        return f"the token is of timeline {token.timeline}, the newest primary seen is on {newest}"
    if any(mark.timeline > newest for mark in pending):
        return f"no sample of the primary on timeline {pending[-1].timeline} has come in yet"
    if not _sampled(topology, ledger):
        return f"{topology.primary} has not been sampled on timeline {topology.fence.timeline} yet"
    return None


def _sampled(topology: Topology, ledger: Ledger) -> bool:
    """Whether the ledger knows the primary, if there is one."""
    return topology.primary is None or topology.fence.timeline == ledger.timeline


def _otherwise(contract: Contract, topology: Topology) -> Then:
    """What the caller wants when no replica will do."""
    if topology.primary is None or contract.otherwise is Otherwise.RAISE:
        return Then.REFUSE
    alone = len(topology.nodes) < 2
    return Then.WAIT if contract.otherwise is Otherwise.WAIT and not alone else Then.SPILL


def _eventual(
    contract: Contract,
    topology: Topology,
    sound: tuple[str, ...],
    breakers: Breakers | None,
    now: float,
    draw: float,
) -> Selection:
    healthy = tuple(name for name in sound if name in topology.replicas)
    primary, then = topology.primary, _otherwise(contract, topology)
    if healthy:
        found = _warm(healthy, breakers, now, draw)
        return Selection(found, then, topology.problem or "no other replica", primary)
    if sound:  # lag alone never sends everybody to the primary: the nearest one
        return Selection(sound[:1], then, "every replica lags", primary)
    if primary is not None:
        return Selection((), then, "no healthy replica", primary)
    return Selection(_admitted(topology.adrift, breakers), then, str(topology.problem))


def _meets(name: str, contract: Contract, token: Token | None, ledger: Ledger, now: float) -> bool:
    if token is not None and not ledger.holds(name, token):
        return False
    if contract.max_lag_seconds is not None:
        seconds = ledger.staleness(name, now)
        if seconds is None or seconds > contract.max_lag_seconds:
            return False
    if contract.max_lag_bytes is not None:
        size = ledger.lag_bytes(name, now)
        if size is None or size > contract.max_lag_bytes:
            return False
    return True


def _stays(name: str, pending: tuple[Mark, ...], ledger: Ledger) -> bool:
    """Whether a node has all that was seen because it was all seen there, and it has not been
    away since."""
    for mark in pending:
        if (
            mark.node != name
            or mark.epoch != ledger.epoch(name)
            or mark.timeline != ledger.timeline
            or not _is_current(name, ledger)
        ):
            return False
    return True


def _is_current(name: str, ledger: Ledger) -> bool:
    """Whether what a session sees there cannot be of a branch that the primary has left."""
    view = ledger.view(name)
    return view is not None and view.timeline == ledger.timeline


def _admitted(names: tuple[str, ...], breakers: Breakers | None) -> tuple[str, ...]:
    if breakers is None:
        return names
    return tuple(
        name
        for name in names
        if (breaker := breakers.get(name)) is None or breaker.state is BreakerState.CLOSED
    )


def _warm(
    names: tuple[str, ...], breakers: Breakers | None, now: float, draw: float
) -> tuple[str, ...]:
    if breakers is None or len(names) < 2:
        return names
    warm = tuple(
        name
        for name in names
        if (breaker := breakers.get(name)) is None or breaker.weight(now) > draw
    )
    return warm or names
