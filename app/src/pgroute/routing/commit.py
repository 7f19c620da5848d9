"""COMMIT with the transaction's number, so that a lost answer can be asked for later.

Both go out together and cost one round trip. A server that ends the session tells the number with
its last words. Where commits take long, as with synchronous replication, the server is told to send
the number before it begins to commit: then it is known too when the network is cut meanwhile.
Whoever loses the connection while COMMIT is under way asks the primary with ``pg_xact_status``,
which knows the fate of recent transactions of its own timeline.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from psycopg import errors, generators, pq

ASK_FATE = "select pg_xact_status(%s::text::xid8)"
SLOW_SECONDS = 0.001  # a COMMIT that takes longer is worth a packet more
_NUMBER = b"select pg_current_xact_id_if_assigned()::text"
_NAME = b"pgroute_number"


class Commit:
    """One COMMIT: ``sent`` once it may have left, ``done`` when the server has said so; ``number``
    is the transaction's.

    ``number_known`` with a ``number`` of None: the transaction has changed nothing.
    """

    __slots__ = ("done", "number", "number_known", "prepared", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.done = False
        self.prepared = False  # the question for the number is, by now, even if the COMMIT fails
        self.number: int | None = None
        self.number_known = False

    def run(
        self, pgconn: pq.abc.PGconn, *, prepared: bool | None, early: bool
    ) -> Generator[Any, Any, None]:
        """Steps for ``Connection.wait``. Raises what the server says against the COMMIT.

        ``prepared``: the question for the number is, is to be (False), or must not be (None).
        ``early``: have its answer sent before the COMMIT begins.
        """
        pgconn.enter_pipeline_mode()
        if prepared is False:
            pgconn.send_prepare(_NAME, _NUMBER)
        if prepared is None:
            pgconn.send_query_params(_NUMBER, None)
        else:
            pgconn.send_query_prepared(_NAME, None)
        if early:
            pgconn.send_flush_request()
        pgconn.send_query_params(b"commit", None)
        self.sent = True  # what comes next sends it, and may fail when it has
        pgconn.pipeline_sync()
        yield from generators.send(pgconn)
        made = []
        if prepared is False:
            made = yield from generators.fetch_many(pgconn)
            self.prepared = [one.status for one in made] == [pq.ExecStatus.COMMAND_OK]
        told = yield from generators.fetch_many(pgconn)
        if told and told[0].status == pq.ExecStatus.TUPLES_OK:
            value = told[0].get_value(0, 0)
            self.number = None if value is None else int(value)
            self.number_known = True
        done = yield from generators.fetch_many(pgconn)
        yield from generators.fetch_many(pgconn)  # the synchronisation point
        pgconn.exit_pipeline_mode()
        for result in (*made, *told, *done):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
        if not done or done[0].command_status != b"COMMIT":
            raise errors.InFailedSqlTransaction("the transaction had failed: it was rolled back")
        self.done = True
