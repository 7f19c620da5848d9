"""The command line. Exit codes: 0 well, 1 a promise does not hold, 2 wrong configuration."""

from __future__ import annotations

import logging
import sys
from random import SystemRandom
from typing import Annotated

import psycopg
import typer

from pgroute.config import Settings
from pgroute.demo import Demo
from pgroute.errors import ConfigurationError, PgrouteError
from pgroute.load import load_users
from pgroute.probe import one_line
from pgroute.router import Router
from pgroute.text import size, table
from pgroute.topology import Role, Topology

app = typer.Typer(
    help="Routes reads and writes over a PostgreSQL primary and its replicas. "
    "Configured by PGROUTE_* variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
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


@app.command()
def demo(
    rows: Annotated[int, typer.Option(min=0, help="Users to have beside the five.")] = 200_000,
) -> None:
    """Write, read and check real rows on every node; exit 1 when a check fails."""
    with Router(Settings.from_environment()) as router:
        if not Demo(router, rows, typer.echo, SystemRandom()).run():
            raise typer.Exit(1)


@app.command()
def load(count: Annotated[int, typer.Argument(min=1, help="Users to add.")]) -> None:
    """Add users with COPY: UUIDv7 keys and made-up names."""

    def progress(rows: int) -> None:
        typer.echo(f"  {rows:,} of {count:,} rows")

    with Router(Settings.from_environment()) as router:
        done = load_users(router, count, random=SystemRandom(), progress=progress)
    pace = done.rows / max(done.seconds, 0.001)
    typer.echo(f"{done.rows:,} users into {done.node} in {done.seconds:.1f} s ({pace:,.0f} rows/s)")


@app.command()
def serve() -> None:
    """Serve /healthz, /readyz and /metrics until told to stop."""
    from pgroute.service import serve as run_service  # a web server is loaded only to serve

    logging.getLogger("pgroute").setLevel(logging.INFO)
    run_service(Settings.from_environment())


def main() -> None:
    """The entry point: errors become one sentence on stderr and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    try:
        app(prog_name="pgroute")
    except ConfigurationError as error:
        sys.exit(_complain(error, 2))
    except (PgrouteError, psycopg.Error) as error:
        sys.exit(_complain(error, 1))


def _complain(error: Exception, code: int) -> int:
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("pgroute: ")]
    where = "".join(f" ({note.removeprefix('pgroute: ')})" for note in notes)
    typer.echo(f"pgroute: {one_line(error)}{where}", err=True)
    return code
