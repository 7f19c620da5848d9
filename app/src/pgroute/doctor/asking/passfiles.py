"""Looks at the passfile as libpq does. Passwords are not kept."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from psycopg import pq

from pgroute.config import Node, Settings
from pgroute.doctor.facts import Passfile


def passfile_of(settings: Settings, environment: Mapping[str, str] | None = None) -> Path:
    """The file that libpq will use."""
    environment = os.environ if environment is None else environment
    member = settings.members[0]
    own = settings.connection(member, user=settings.reader, read_only=True).get("passfile")
    return Path(own or environment.get("PGPASSFILE") or Path.home() / ".pgpass")


def examine(path: Path) -> Passfile:
    """Whether libpq reads the file; it ignores without a word one that others may read."""
    return Passfile(str(path), _failure(path), _socket_directory())


def line_for(passfile: Passfile, node: Node, database: str, user: str) -> int | None:
    """The number of the first line with a password for this login, from 1."""
    if passfile.failure is not None:
        return None
    try:
        lines = Path(passfile.path).read_bytes().split(b"\n")
    except OSError:
        return None
    wanted = passfile.wanted(node, database, user)
    for number, line in enumerate(lines, 1):
        if not line.startswith(b"#") and fits(line.rstrip(b"\r"), wanted):
            return number
    return None


def fits(line: bytes, wanted: Sequence[str]) -> bool:
    """Whether a line's first fields stand for these values and one more follows them.

    As libpq does it (``pwdfMatchesString`` in fe-connect.c): ``*`` stands for anything, a
    backslash takes the meaning from what follows, and a colon that is wanted needs none.
    """
    at = 0
    for value in wanted:
        end = _end(line, at, value.encode())
        if end is None:
            return False
        at = end
    return True


def _end(line: bytes, at: int, value: bytes) -> int | None:
    """Where the next field begins, None when this one does not stand for the value."""
    if line.startswith(b"*:", at):
        return at + 2
    for number in value:
        at += line.startswith(b"\\", at)
        if not line.startswith(bytes([number]), at):
            return None
        at += 1
    return at + 1 if line.startswith(b":", at) else None


def _failure(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(mode):
        return "it is not a file"
    if mode & 0o077:
        return "libpq ignores it: others can read it"
    if not os.access(path, os.R_OK):
        return "this user cannot read it"
    return None


def _socket_directory() -> str:
    """Where libpq connects to when it is told no host; a refused sslmode keeps it from doing so."""
    options = b"host='' hostaddr='' dbname=none user=none password=none sslmode=none"
    connection = pq.PGconn.connect_start(options)
    try:
        return connection.host.decode()
    finally:
        connection.finish()
