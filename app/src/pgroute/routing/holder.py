"""Who holds a connection, and what was asked of it. For both fronts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pgroute.core.contracts import EVENTUAL, Contract
from pgroute.core.trail import Trail
from pgroute.observing.observer import Reason
from pgroute.routing.routes import Route


@dataclass(frozen=True, slots=True)
class Plan:
    """A read that is more than "any healthy replica". Times in seconds."""

    contract: Contract
    node: str | None = None
    trail: Trail | None = None
    wait: float = 0.0  # for a replica to meet the contract
    reason: Reason | None = None  # instead of the contract's own

    @property
    def apart(self) -> Plan:
        """The same for another thread to look at: a trail is for one alone."""
        return self if self.trail is None else replace(self, trail=self.trail.copy())

    def kept(self) -> Trail | None:
        """The trail before an attempt, for :meth:`forget`; None without one."""
        return None if self.trail is None else self.trail.copy()

    def forget(self, kept: Trail | None) -> None:
        """The attempt since then is made again, and nobody hears of what it has seen."""
        if self.trail is not None and kept is not None:
            self.trail.restore(kept)

    @property
    def replica_reason(self) -> Reason:
        """Why a replica that meets the plan is read."""
        contract = self.contract
        if self.reason is not None:
            return self.reason
        if contract.after is not None:
            return Reason.AFTER_TOKEN
        if contract.max_lag_seconds is not None or contract.max_lag_bytes is not None:
            return Reason.MAX_LAG
        return Reason.READ if self.trail is None else Reason.MONOTONIC


PLAIN = Plan(EVENTUAL)


class Holder:
    """Whoever has a connection: the context managers of both fronts."""

    __slots__ = (
        "__weakref__",
        "connection",
        "epoch",
        "limit",
        "losses",
        "plan",
        "pool",
        "route",
        "router",
        "timeline",
        "until",
        "verdict",
    )

    def __init__(self, router: Any, limit: float, plan: Plan | None = None) -> None:
        self.router = router
        self.limit = limit
        self.plan = plan
        self.verdict: str | None = None  # why the connection was cut, if it was

    def again(self) -> Plan:
        """The plan of another attempt at the same."""
        return self.plan or PLAIN

    pool: Any
    connection: Any
    route: Route
    timeline: int
    epoch: int
    until: float  # when the connection is cut
    losses: int
