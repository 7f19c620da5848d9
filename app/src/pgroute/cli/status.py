"""``pgroute status``: who is who, and how far behind."""

from __future__ import annotations

import typer

from pgroute.config import Settings
from pgroute.errors import PgrouteError
from pgroute.router import Router
from pgroute.text import size, table
from pgroute.topology import Role, Topology


def status() -> None:
    """Show every node with its role, timeline, lag and state; exit 1 without a primary."""
    settings = Settings.from_environment()
    with Router(settings) as router:
        topology = router.topology
    typer.echo(describe(topology, settings))
    if topology.primary is None:
        raise PgrouteError(topology.problem or "no primary")


def describe(topology: Topology, settings: Settings) -> str:
    """The topology as a table, with the cluster's system identifier above it."""
    addresses = {node.name: f"{node.host}:{node.port}" for node in settings.members}
    rows = [
        (
            state.node,
            addresses[state.node],
            state.role,
            state.timeline,
            size(state.lag_bytes) if state.role is Role.REPLICA else None,
            state.state,
        )
        for state in topology.nodes
    ]
    header = ("node", "address", "role", "timeline", "lag", "state")
    identifier = topology.fence.system_identifier or "unknown"
    return f"Cluster {identifier}\n\n{table(header, rows, indent=0)}"
