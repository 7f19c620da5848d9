"""What a router sees at one moment, for people and for machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgroute.config import Settings
from pgroute.core.topology import Role
from pgroute.errors import PgrouteError
from pgroute.router import Router
from pgroute.text import size, table

# Of other users' sessions only the name is visible, of one's own role's also whether it is busy.
_SESSIONS = """
select count(*), count(*) filter (where state = 'active')
from pg_stat_activity
where application_name = %s
"""


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One node. Times in seconds; None: not known, which is not zero.

    ``sessions`` are those of every process whose application_name is the configured one,
    ``in_flight`` those of them that are busy, ``pool`` the connections that this very router
    has for reads.
    """

    node: str
    address: str
    role: str
    healthy: bool
    state: str
    timeline: int | None
    lag_bytes: int | None
    lag_seconds: float | None
    breaker: str
    round_trip: float | None = None
    sessions: int | None = None
    in_flight: int | None = None
    pool: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """All nodes."""

    system_identifier: int | None
    primary: str | None
    problem: str | None
    nodes: tuple[NodeLine, ...]

    def table(self) -> str:
        """The short table of ``pgroute status``."""
        rows = [
            (
                each.node,
                each.address,
                each.role,
                each.timeline,
                size(each.lag_bytes) if each.role == Role.REPLICA else None,
                each.state,
            )
            for each in self.nodes
        ]
        header = ("node", "address", "role", "timeline", "lag", "state")
        return f"{self.title}\n\n{table(header, rows, indent=0)}"

    def wide_table(self) -> str:
        """The table of ``pgroute status --watch``."""
        rows = [
            (
                each.node,
                each.role,
                each.timeline,
                size(each.lag_bytes) if each.role == Role.REPLICA else None,
                _milliseconds(each.lag_seconds) if each.role == Role.REPLICA else None,
                each.breaker,
                _milliseconds(each.round_trip),
                each.in_flight,
                each.sessions,
                each.pool,
                each.state,
            )
            for each in self.nodes
        ]
        header = (
            *("node", "role", "timeline", "lag", "age", "breaker", "round trip"),
            *("in flight", "sessions", "pool", "state"),
        )
        problem = f"\n\n{self.problem}" if self.problem else ""
        return f"{self.title}\n\n{table(header, rows, indent=0)}{problem}"

    @property
    def title(self) -> str:
        """One line."""
        return f"Cluster {self.system_identifier or 'unknown'}"

    def data(self) -> dict[str, Any]:
        """The same for JSON; the identifier as a string, since it exceeds 2^53."""
        identifier = self.system_identifier
        return {
            "system_identifier": None if identifier is None else str(identifier),
            "primary": self.primary,
            "problem": self.problem,
            "nodes": [asdict(each) for each in self.nodes],
        }


def look(router: Router) -> Picture:
    """What the router knows. No round trip."""
    fleet, topology, settings = router.fleet, router.topology, router.settings
    now = fleet.clock()
    addresses = {node.name: f"{node.host}:{node.port}" for node in settings.members}
    pools = {
        report.node: f"{report.size} of {settings.pool_sizes(read_only=True)[1]}"
        for report in router.pools()
        if report.purpose == "read"
    }
    return Picture(
        topology.fence.system_identifier,
        topology.primary,
        topology.problem,
        tuple(
            NodeLine(
                node=state.node,
                address=addresses[state.node],
                role=str(state.role),
                healthy=state.healthy,
                state=state.state,
                timeline=state.timeline,
                lag_bytes=state.lag_bytes,
                lag_seconds=fleet.ledger.staleness(state.node, now)
                if state.role is Role.REPLICA
                else None,
                breaker=str(fleet.breakers[state.node].state),
                pool=pools.get(state.node),
            )
            for state in topology.nodes
        ),
    )


def look_closely(
    router: Router, application: str, clock: Callable[[], float] = time.perf_counter
) -> Picture:
    """The same, after one read on each node that may be used."""
    seen = {state.node: _ask(router, state.node, application, clock)
            for state in router.topology.nodes}  # fmt: skip
    picture = look(router)
    lines = []
    for line in picture.nodes:
        round_trip, sessions, in_flight = seen.get(line.node, (None, None, None))
        lines.append(
            NodeLine(
                **(
                    asdict(line)
                    | {"round_trip": round_trip, "sessions": sessions, "in_flight": in_flight}
                )
            )
        )
    return Picture(picture.system_identifier, picture.primary, picture.problem, tuple(lines))


def _ask(
    router: Router, node: str, application: str, clock: Callable[[], float]
) -> tuple[float | None, int | None, int | None]:
    state = router.topology.node(node)
    if state is None or state.role not in (Role.PRIMARY, Role.REPLICA):
        return None, None, None
    try:
        with router.read(node=node, timeout=1.0) as connection:
            began = clock()
            connection.execute("select 1")
            spent = clock() - began
            with connection.cursor(row_factory=tuple_row) as cursor:
                row = cursor.execute(_SESSIONS, (application,)).fetchone()
    except (PgrouteError, psycopg.Error):
        return None, None, None  # the table says how the node is
    return spent, *(row or (None, None))


def watcher(settings: Settings) -> Settings:
    """Settings whose sessions are not counted among the application's."""
    return settings.model_copy(
        update={
            "application_name": f"{settings.application[:50]} status",
            "checkout_timeout_seconds": 1.0,
        }
    )


def _milliseconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.1f} ms"
