"""``pgroute explain``: where a statement would go, and what it would read there."""

from __future__ import annotations

from typing import Annotated

import typer

from pgroute.config import Settings
from pgroute.router import Router


def explain(
    sql: Annotated[str, typer.Argument(help="One statement.")],
    params: Annotated[
        list[str] | None, typer.Option("--param", help="The value of a %s, as text; in order.")
    ] = None,
    analyze: Annotated[
        bool, typer.Option("--analyze", help="Run it, if it is known to be harmless.")
    ] = False,
) -> None:
    """Show where a statement would go, which leaves it reads and which are pruned."""
    with Router(Settings.from_environment()) as router:
        typer.echo(router.explain(sql, params or None, analyze=analyze).text())
