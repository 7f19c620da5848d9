"""libpq's service file: where ``service=name`` in a DSN leads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from configparser import Error, RawConfigParser
from pathlib import Path

from pgroute.errors import ConfigurationError

# libpq itself still gets the service's name, and with it what is not known here.
_OF_INTEREST = ("host", "hostaddr", "port", "dbname", "user")


def service_of(name: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where and as whom the service connects. ConfigurationError when no file knows it.

    The files are libpq's: ``PGSERVICEFILE`` or ``~/.pg_service.conf``, then
    ``PGSYSCONFDIR/pg_service.conf``; the first that has the service is taken.
    """
    environment = os.environ if environment is None else environment
    asked = _files(environment)
    for path in asked:
        if path.is_file():
            found = _read(path)
            if found.has_section(name):
                return {key: found[name][key] for key in _OF_INTEREST if key in found[name]}
    raise ConfigurationError(
        f"the service {name} is in none of: {', '.join(str(path) for path in asked)}"
    )


def _files(environment: Mapping[str, str]) -> list[Path]:
    own = environment.get("PGSERVICEFILE")
    files = [Path(own) if own else Path.home() / ".pg_service.conf"]
    if shared := environment.get("PGSYSCONFDIR"):
        files.append(Path(shared) / "pg_service.conf")
    return files


def _read(path: Path) -> RawConfigParser:
    found = RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    try:
        found.read(path)
    except (Error, OSError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise ConfigurationError(f"the service file {path}: {first}") from None
    return found
