"""``pgroute status``: who is who, and how far behind."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from pgroute.cli.picture import Picture, look, look_closely, watcher
from pgroute.config import Settings
from pgroute.errors import PgrouteError
from pgroute.router import Router

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def status(
    watch: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between two looks, until interrupted.")
    ] = None,
    looks: Annotated[
        int | None, typer.Option("--count", min=1, help="With --watch: stop after so many looks.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every node with its role, timeline, lag and state; exit 1 without a primary."""
    settings = Settings.from_environment()
    if watch is not None:
        picture = _watch(settings, watch, looks, as_json)
    else:
        with Router(settings) as router:
            picture = look(router)
        typer.echo(json.dumps(picture.data(), indent=2) if as_json else picture.table())
    if picture is not None and picture.primary is None:
        raise PgrouteError(picture.problem or "no primary")


def _watch(settings: Settings, seconds: float, looks: int | None, as_json: bool) -> Picture | None:
    """The last picture, None when interrupted: then nobody asks for an exit code."""
    in_place = sys.stdout.isatty() and not as_json
    shown = 0
    with Router(watcher(settings)) as router:
        try:
            while True:
                started = time.monotonic()
                router.fleet.want()
                picture = look_closely(router, settings.application)
                text = json.dumps(picture.data()) if as_json else picture.wide_table() + "\n"
                typer.echo(_over_the_last(text) if in_place else text)
                shown += 1
                if shown == looks:
                    return picture
                time.sleep(max(0.0, seconds - (time.monotonic() - started)))
        except KeyboardInterrupt:
            return None


def _over_the_last(text: str) -> str:
    """Written over what stands on the terminal, without a moment of emptiness."""
    lines = "\n".join(line + _CLEAR_LINE for line in text.splitlines())
    return f"{_HOME}{lines}{_CLEAR_BELOW}"
