"""``pgroute doctor``: what is wrong with the fleet, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from pgroute.config import Settings


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strict: Annotated[bool, typer.Option(help="Exit 1 on warnings as well.")] = False,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", help="A table that the users must be able to use; repeatable."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes with this configuration at once.")
    ] = 1,
    expiry_days: Annotated[
        float, typer.Option(min=0, help="Warn of certificates that expire within.")
    ] = 30.0,
    clock_seconds: Annotated[
        float, typer.Option(min=0, help="Warn of clocks that differ by more.")
    ] = 1.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to question one node.")] = 10.0,
) -> None:
    """Look for what is wrong with the fleet and say what to do; exit 1 on any problem."""
    from pgroute.doctor import Limits, Report, Verdict, ask, judge  # of no use to other commands

    settings = Settings.from_environment()
    limits = Limits(expiry_days, clock_seconds, processes)
    findings = judge(ask(settings, tables=tables or (), limit=timeout), limits)
    report = Report(tuple(findings), tuple(node.name for node in settings.members))
    typer.echo(report.json() if as_json else report.text())
    if report.count(Verdict.PROBLEM) or (strict and report.count(Verdict.WARNING)):
        raise typer.Exit(1)
