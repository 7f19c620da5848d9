"""``pgroute partitions``: how tables are divided, checked against the server, and how evenly."""

from __future__ import annotations

from typing import Annotated

import typer

from pgroute.config import Settings
from pgroute.errors import UncomputableKey
from pgroute.router import Router


def partitions(
    names: Annotated[
        list[str] | None, typer.Argument(help="Tables; all that are partitioned when left out.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Count every row.")] = False,
) -> None:
    """Show leaves, self-test and skew of partitioned tables; exit 1 when the server disagrees."""
    from pgroute.partitions import report  # of no use to other commands

    with Router(Settings.from_environment()) as router, router.read() as connection:
        wanted = names or report.tables(connection)
        if not wanted:
            typer.echo("There is no partitioned table that this user may read.")
        for number, name in enumerate(wanted):
            try:
                text = report.report(connection, name, exact=exact)
            except UncomputableKey as error:
                if names:
                    raise
                text = str(error)
            typer.echo(("\n\n" if number else "") + text)
