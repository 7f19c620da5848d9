# Connections to the local server for the modules of this project.
"""Talk to the PostgreSQL server of this host over its socket, leaving no secret behind in it."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from typing import Any

try:
    import psycopg2
    import psycopg2.extras

    PSYCOPG2_ERROR = None
except ImportError as error:
    PSYCOPG2_ERROR = str(error)

CONNECTION_ARGUMENTS = {
    "socket_directory": {"type": "str", "default": "/var/run/postgresql"},
    "port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "default": "postgres"},
}

# Statements of these sessions reach neither the server's log nor pg_stat_statements:
# a verifier is a secret, and the server logs DDL.
QUIET_OPTIONS = " ".join(
    "-c " + setting
    for setting in (
        "log_statement=none",
        "log_duration=off",
        "log_min_duration_statement=-1",
        "log_min_error_statement=panic",
        "pg_stat_statements.track=none",
        "track_activities=off",
        "statement_timeout=0",
        "lock_timeout=30s",
        "idle_in_transaction_session_timeout=0",
    )
)


def is_running(data_directory: str) -> bool:
    """Whether a server runs on this directory: postmaster.pid alone does not say so, it survives a crash."""
    try:
        with open(os.path.join(data_directory, "postmaster.pid"), encoding="utf-8") as stream:
            process = int(stream.readline())
        with open(f"/proc/{process}/cmdline", "rb") as command:
            program = command.read().split(b"\0")[0]
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    return os.path.basename(program) in (b"postgres", b"postmaster")


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Take the effective identity of `user`, which peer authentication looks at; root only, else nothing."""
    entry = pwd.getpwnam(user)
    if os.geteuid() in (entry.pw_uid,) or os.geteuid() != 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    # The server has the groups of its user too: Debian's keys are readable for ssl-cert only.
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def connect(params: dict[str, Any], database: str = "postgres", autocommit: bool = False) -> Any:
    """A connection as the local superuser. Raises psycopg2.OperationalError when the server does not answer."""
    with acting_as(params["login_user"]):
        connection = psycopg2.connect(
            host=params["socket_directory"],
            port=params["port"],
            user=params["login_user"],
            dbname=database,
            connect_timeout=10,
            application_name="pgfleet",
            options=QUIET_OPTIONS,
        )
    connection.autocommit = autocommit
    return connection


def rows(connection: Any, query: str, arguments: Any = None) -> list[dict[str, Any]]:
    """The rows of a query, as dictionaries."""
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(query, arguments)
        return [dict(row) for row in cursor.fetchall()]


def one(connection: Any, query: str, arguments: Any = None) -> dict[str, Any]:
    """The first row of a query, as a dictionary."""
    return rows(connection, query, arguments)[0]


def execute(connection: Any, statements: list[str]) -> None:
    """Run statements in order."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def require_psycopg2(module: Any) -> None:
    """Stop with a sentence when the driver is missing."""
    if PSYCOPG2_ERROR:
        module.fail_json(msg=f"python3-psycopg2 is not installed on this host: {PSYCOPG2_ERROR}.")


def sentence(error: object) -> str:
    """An error of the server in one line."""
    text = " ".join(str(error).split())
    return text if text.endswith(".") else text + "."


def quote(name: str) -> str:
    """An identifier for a statement."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A text constant for a statement (standard_conforming_strings is on)."""
    return "'" + str(value).replace("'", "''") + "'"
