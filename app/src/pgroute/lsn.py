"""Moved to :mod:`pgroute.core.lsn`."""

from pgroute.core.lsn import Mark, Token, format_lsn, parse_lsn, reachable

__all__ = ["Mark", "Token", "format_lsn", "parse_lsn", "reachable"]
