"""``pgroute demo``: real rows, written, read and checked on every node."""

from __future__ import annotations

from random import SystemRandom
from typing import Annotated

import typer

from pgroute.config import Settings
from pgroute.demo import Demo
from pgroute.router import Router


def demo(
    rows: Annotated[int, typer.Option(min=0, help="Users to have beside the five.")] = 200_000,
) -> None:
    """Write, read and check real rows on every node; exit 1 when a check fails."""
    with Router(Settings.from_environment()) as router:
        try:
            well = Demo(router, rows, typer.echo, SystemRandom()).run()
        except KeyboardInterrupt as interrupt:  # its cause says what of a load is in the table
            typer.echo(f"pgroute: {interrupt.__cause__ or 'interrupted'}", err=True)
            raise typer.Exit(130) from interrupt
    if not well:
        raise typer.Exit(1)
