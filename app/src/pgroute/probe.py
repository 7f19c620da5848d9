"""Asking one server what it is. Talks, never decides."""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from pgroute.topology import Answer, Observation, Silence

# A standby's timeline is known only as a lower bound to a user without pg_read_all_stats; of the
# WAL receiver such a user sees that it runs, and nothing more.
_QUESTION = b"""
select pg_is_in_recovery(),
       case when pg_is_in_recovery()
            then greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline,
                          receiver.received_tli)
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       end,
       system.system_identifier,
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_insert_lsn()
       end - '0/0'::pg_lsn,
       receiver.pid is not null
from pg_control_system() as system
cross join pg_control_checkpoint() as checkpoint
cross join pg_control_recovery() as recovery
left join pg_stat_wal_receiver as receiver on true
"""


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class Prober:
    """Owns one connection to one server, kept open between questions. Not thread-safe."""

    def __init__(
        self, node: str, parameters: dict[str, Any], *, clock: Callable[[], float]
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._clock = clock
        self._connection: psycopg.Connection[Any] | None = None

    def ask(self, *, timeout: float) -> Observation:
        """The server's answer, or its silence after ``timeout`` seconds (connecting excluded)."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(autocommit=True, **self._parameters)
            return self._read(self._connection, self._clock() + timeout, timeout)
        except TimeoutError as error:
            self.close()
            return Silence(self._node, str(error))
        except (psycopg.Error, OSError, ValueError) as error:
            self.close()
            return Silence(self._node, one_line(error))

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _read(self, connection: psycopg.Connection[Any], deadline: float, timeout: float) -> Answer:
        # Below psycopg's own execute(), which would wait for a frozen server without end.
        pgconn = connection.pgconn
        pgconn.send_query(_QUESTION)
        incoming = select.poll()
        incoming.register(pgconn.socket, select.POLLIN)
        results = []
        while True:
            while pgconn.is_busy():
                remaining = deadline - self._clock()
                if remaining <= 0 or not incoming.poll(remaining * 1000):
                    raise TimeoutError(f"no answer within {timeout:g} s")
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            results.append(result)
        result = results[0]
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        cells = [result.get_value(0, column) for column in range(result.nfields)]
        if cells[1] is None or cells[2] is None:
            raise ValueError("the server does not know its timeline")
        return Answer(
            node=self._node,
            in_recovery=cells[0] == b"t",
            timeline=int(cells[1]),
            system_identifier=int(cells[2]),
            position=None if cells[3] is None else int(cells[3]),
            receiving=cells[4] == b"t",
        )
