"""Deadlines that count from what was last asked of a connection, for both integrations.

Django and SQLAlchemy keep a connection for as long as a request, a command or a session takes: its
deadline is to end a statement that hangs, and a connection that nobody uses, but no work that goes
on.
"""

from __future__ import annotations

from typing import Any

from pgroute.routing.connections import AsyncNodeConnection


def renew_with_use(lease: Any) -> None:
    """Let a lease last for its limit from each exchange with the server: statements, rows, COPY."""
    connection = lease.connection
    wait = connection.wait  # what psycopg calls for each of them, also of server-side cursors
    in_flight, clock = lease.pool.in_flight, lease.router.clock

    def renew() -> None:
        # Cut in between, it stays in the books: its end then finds the connection lost.
        if lease in in_flight:
            in_flight[lease] = lease.until = clock() + lease.limit

    def renewing(*arguments: Any, **options: Any) -> Any:
        renew()
        try:
            return wait(*arguments, **options)
        finally:
            renew()

    async def renewing_async(*arguments: Any, **options: Any) -> Any:
        renew()
        try:
            return await wait(*arguments, **options)
        finally:
            renew()

    is_async = isinstance(connection, AsyncNodeConnection)
    connection.wait = renewing_async if is_async else renewing


def renew_no_more(connection: Any) -> None:
    """Undo it, before others may have the connection."""
    vars(connection).pop("wait", None)
