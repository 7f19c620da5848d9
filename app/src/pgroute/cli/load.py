"""``pgroute load``: many users in little time."""

from __future__ import annotations

from random import SystemRandom
from typing import Annotated

import typer

from pgroute.config import Settings
from pgroute.load import load_users
from pgroute.router import Router


def load(count: Annotated[int, typer.Argument(min=1, help="Users to add.")]) -> None:
    """Add users with COPY: UUIDv7 keys and made-up names."""

    told = 0

    def progress(rows: int) -> None:
        nonlocal told
        if rows != told:
            told = rows
            typer.echo(f"  {rows:,} of {count:,} rows")

    with Router(Settings.from_environment()) as router:
        try:
            done = load_users(router, count, random=SystemRandom(), progress=progress)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"pgroute: {interrupt.__cause__ or 'interrupted'}", err=True)
            raise typer.Exit(130) from interrupt
    pace = done.rows / max(done.seconds, 0.001)
    typer.echo(f"{done.rows:,} users into {done.node} in {done.seconds:.1f} s ({pace:,.0f} rows/s)")
