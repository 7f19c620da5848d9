"""COMMIT with the transaction's number, so that a lost answer can be asked for later.

Both go out together and cost one round trip: the server is told to send the number before it
begins to commit. Whoever loses the connection while COMMIT is under way asks the primary with
``pg_xact_status``, which knows the fate of recent transactions of its own timeline.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from psycopg import errors, generators, pq

ASK_FATE = "select pg_xact_status(%s::text::xid8)"
_NUMBER_AND_COMMIT = (b"select pg_current_xact_id_if_assigned()::text", b"commit")


class Commit:
    """One COMMIT: ``sent`` once it may have left; ``number`` is the transaction's.

    ``number_known`` with a ``number`` of None: the transaction has changed nothing.
    """

    __slots__ = ("number", "number_known", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.number: int | None = None
        self.number_known = False

    def run(self, pgconn: pq.abc.PGconn) -> Generator[Any, Any, None]:
        """Steps for ``Connection.wait``. Raises what the server says against the COMMIT."""
        number, commit = _NUMBER_AND_COMMIT
        pgconn.enter_pipeline_mode()
        pgconn.send_query_params(number, None)
        pgconn.send_flush_request()
        pgconn.send_query_params(commit, None)
        pgconn.pipeline_sync()
        self.sent = True
        yield from generators.send(pgconn)
        told = yield from generators.fetch_many(pgconn)
        if told and told[0].status == pq.ExecStatus.TUPLES_OK:
            value = told[0].get_value(0, 0)
            self.number = None if value is None else int(value)
            self.number_known = True
        done = yield from generators.fetch_many(pgconn)
        yield from generators.fetch_many(pgconn)  # the synchronisation point
        pgconn.exit_pipeline_mode()
        for result in (*told, *done):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
        if not done or done[0].command_status != b"COMMIT":
            raise errors.InFailedSqlTransaction("the transaction had failed: it was rolled back")
