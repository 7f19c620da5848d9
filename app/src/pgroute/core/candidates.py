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


class Then(StrEnum):
    """What to do when there is no candidate, or none of them gives a connection."""

    PRIMARY = "primary"  # the contract itself asks for it: no cap
    SPILL = "spill"  # read on the primary, within the cap on spilled reads
    WAIT = "wait"  # wait for the token on one of ``waitable``, then spill
    REFUSE = "refuse"  # ContractNotMet, or NoReadableNode without a primary


@dataclass(frozen=True, slots=True)
class Selection:
    """``candidates`` meet the contract now, in the topology's order. ``waitable`` may reach the
    token soon. ``why``: in one line, why no (further) replica meets it."""

    candidates: tuple[str, ...]
    then: Then
    why: str
    waitable: tuple[str, ...] = ()


def select(
    contract: Contract,
    topology: Topology,
    ledger: Ledger,
    *,
    now: float,
    breakers: Mapping[str, Breaker] | None = None,
    draw: float = 0.0,
) -> Selection:
    """The servers for one read.

    ``draw``: a random number of [0, 1); a node that warms up is passed over when its weight is not
    above it, unless no other is left. Raises TokenUnproven and ForeignToken for such a token.
    """
    if contract.strong:
        return _on_primary(topology, "the contract is 'strong'")
    open_replicas = _admitted(topology.replicas, breakers)
    open_laggards = _admitted(topology.laggards, breakers)
    if contract.is_eventual:
        return _eventual(topology, open_replicas, open_laggards, breakers, now, draw)

    token, why = _token(contract.after, ledger)
    sound = open_replicas + open_laggards
    meet = [name for name in sound if why is None and _meets(name, contract, token, ledger, now)]
    found = _warm(tuple(meet), breakers, now, draw)
    if why is None:
        why = f"no replica is known to meet {contract}"
    if found and topology.primary is not None:
        return Selection(found, _fallback(contract, token), why, _waitable(token, sound))
    if found:
        return Selection(found, Then.REFUSE, f"{why}; {topology.problem}")
    stays = isinstance(contract.after, Mark) and token is None
    if stays and topology.primary is None:
        return Selection((), Then.REFUSE, f"{why}; {topology.problem}")
    return Selection((), _fallback(contract, token), why, _waitable(token, sound))


def _on_primary(topology: Topology, why: str) -> Selection:
    then = Then.REFUSE if topology.primary is None else Then.PRIMARY
    return Selection((), then, topology.problem or why)


def _eventual(
    topology: Topology,
    replicas: tuple[str, ...],
    laggards: tuple[str, ...],
    breakers: Mapping[str, Breaker] | None,
    now: float,
    draw: float,
) -> Selection:
    if replicas:
        return Selection(_warm(replicas, breakers, now, draw), Then.SPILL, "no other replica")
    if laggards:  # lag alone never sends everybody to the primary
        return Selection(laggards[:1], Then.SPILL, "every replica lags")
    if topology.primary is not None:
        return Selection((), Then.SPILL, "no healthy replica")
    return Selection(_admitted(topology.adrift, breakers), Then.REFUSE, str(topology.problem))


def _token(after: Token | Mark | None, ledger: Ledger) -> tuple[Token | None, str | None]:
    """The settled token, and why no replica can be judged by it, if so."""
    if after is None:
        return None, None
    token = after if isinstance(after, Token) else ledger.settle(after)
    if token is None:
        return None, "the position of the mark is not known yet"
    ledger.prove(token)
    if ledger.standing(token) is Standing.AHEAD:
        return token, f"the token is of timeline {token.timeline}, which no primary is known on"
    return token, None


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


def _fallback(contract: Contract, token: Token | None) -> Then:
    if contract.otherwise is Otherwise.RAISE:
        return Then.REFUSE
    if contract.otherwise is Otherwise.WAIT and token is not None:
        return Then.WAIT
    return Then.SPILL


def _waitable(token: Token | None, sound: tuple[str, ...]) -> tuple[str, ...]:
    return () if token is None else sound


def _admitted(names: tuple[str, ...], breakers: Mapping[str, Breaker] | None) -> tuple[str, ...]:
    if breakers is None:
        return names
    return tuple(
        name
        for name in names
        if (breaker := breakers.get(name)) is None or breaker.state is BreakerState.CLOSED
    )


def _warm(
    names: tuple[str, ...], breakers: Mapping[str, Breaker] | None, now: float, draw: float
) -> tuple[str, ...]:
    if breakers is None or len(names) < 2:
        return names
    warm = tuple(
        name
        for name in names
        if (breaker := breakers.get(name)) is None or breaker.weight(now) > draw
    )
    return warm or names
