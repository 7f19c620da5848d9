"""``pgroute chaos``: a workload that counts broken promises while you break the fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from pgroute.chaos.run import describe_report, run_chaos
from pgroute.config import Settings
from pgroute.errors import PgrouteError
from pgroute.router import Router


def chaos(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads that write.")] = 4,
    keep: Annotated[bool, typer.Option(help="Keep the rows written.")] = False,
) -> None:
    """Write and read while you freeze, stop, cut or promote servers; exit 1 when a promise broke.

    Needs a table of its own; says how to make it when it is missing.
    """
    with Router(Settings.from_environment()) as router:
        report = run_chaos(router, seconds=seconds, workers=workers, say=typer.echo, keep=keep)
    typer.echo("")
    typer.echo(describe_report(report))
    if report.broken:
        raise PgrouteError("; ".join(report.broken))
