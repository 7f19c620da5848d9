"""The command line. Exit codes: 0 well, 1 a promise does not hold, 2 wrong configuration."""

from __future__ import annotations

import logging
import sys

import psycopg
import typer

from pgroute.cli.bench import bench
from pgroute.cli.chaos import chaos
from pgroute.cli.demo import demo
from pgroute.cli.doctor import doctor
from pgroute.cli.explain import explain
from pgroute.cli.load import load
from pgroute.cli.partitions import partitions
from pgroute.cli.serve import serve
from pgroute.cli.status import status
from pgroute.errors import ConfigurationError, PgrouteError
from pgroute.routing.probe import one_line

app = typer.Typer(
    help="Routes reads and writes over a PostgreSQL primary and its replicas. "
    "Configured by PGROUTE_* variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (status, doctor, demo, load, partitions, explain, bench, chaos, serve):
    app.command()(_command)


def main() -> None:
    """The entry point: errors become one sentence on stderr and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for chatty in ("pgroute", "psycopg.pool"):  # what matters is in the output or in the error
        logging.getLogger(chatty).setLevel(logging.ERROR)
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
