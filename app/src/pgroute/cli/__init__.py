"""The command line: one module per command, brought together in :mod:`pgroute.cli.entry`."""

from pgroute.cli.entry import main

__all__ = ["main"]
