"""Looks at the passfile as libpq does. Passwords are not kept."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from pgroute.config import Node, Settings
from pgroute.doctor.facts import Passfile

_FIELD = re.compile(r"((?:\\.|[^:\\])*)(?::|$)")


def passfile_of(settings: Settings, environment: Mapping[str, str] | None = None) -> Path:
    """The file that libpq will use."""
    environment = os.environ if environment is None else environment
    member = settings.members[0]
    own = settings.connection(member, user=settings.reader, read_only=True).get("passfile")
    return Path(own or environment.get("PGPASSFILE") or Path.home() / ".pgpass")


def examine(path: Path) -> Passfile:
    """Whether libpq reads the file; it ignores without a word one that others may read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Passfile(str(path), error.strerror or str(error))
    if not stat.S_ISREG(mode):
        return Passfile(str(path), "it is not a file")
    if mode & 0o077:
        return Passfile(str(path), "libpq ignores it: others can read it")
    if not os.access(path, os.R_OK):
        return Passfile(str(path), "this user cannot read it")
    return Passfile(str(path))


def line_for(path: Path, node: Node, database: str, user: str) -> int | None:
    """The number of the first line with a password for this login, from 1."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    host = "localhost" if node.host.startswith("/") else node.host
    wanted = (host, str(node.port), database, user)
    for number, line in enumerate(lines, 1):
        if not line.startswith("#") and fits(line, wanted):
            return number
    return None


def fits(line: str, wanted: tuple[str, str, str, str]) -> bool:
    """Whether a line's first four fields stand for host, port, database and user, and a fifth is
    there. ``*`` stands for anything; a backslash takes the meaning from what follows."""
    at = 0
    for value in wanted:
        match = _FIELD.match(line, at)
        if match is None or match.end() == match.end(1):  # no colon after it
            return False
        if match[1] != "*" and re.sub(r"\\(.)", r"\1", match[1]) != value:
            return False
        at = match.end()
    return True
