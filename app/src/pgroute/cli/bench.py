"""``pgroute bench``: what a routed read costs here."""

from __future__ import annotations

from typing import Annotated

import typer

from pgroute.config import Settings
from pgroute.errors import ConfigurationError
from pgroute.router import Router
from pgroute.statements import Route


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 20,
    calls: Annotated[int, typer.Option(min=10, help="Reads each way in a round.")] = 200,
    sql: Annotated[str, typer.Option(help="The statement; it must be known to only read.")] = (
        "select 1"
    ),
) -> None:
    """Compare routed reads with raw ones on this fleet: the ratio of each round, and of all."""
    from pgroute.bench import describe, describe_round, measure  # of no use to other commands

    with Router(Settings.from_environment()) as router:
        with router.read() as connection:
            router.statements.refresh(lambda text: connection.execute(text).fetchall())
        decision = router.statements.decide(sql)
        if decision.route is not Route.REPLICA:
            raise ConfigurationError(f"--sql is not known to only read: {decision.reason}")
        done = []
        for number, each in enumerate(measure(router, sql, rounds=rounds, calls=calls), 1):
            done.append(each)
            typer.echo(describe_round(number, each))
    typer.echo(f"\n{describe(done)}")
