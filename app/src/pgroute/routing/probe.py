"""One connection to one server, asked without ever waiting for the answer. Talks, never decides."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import pq
from psycopg.pq import ExecStatus

from pgroute.core.lsn import reachable
from pgroute.core.topology import Answer, Observation, Silence

# The position comes before the timeline: a standby that is still on a timeline after telling its
# position had not left it before. A standby's timeline is known only as a lower bound to a user
# without pg_read_all_stats; of the WAL receiver such a user sees that it runs, and nothing more.
# How far a standby has received comes after the position, too: then all of it had been replayed
# when it is not beyond. An archive may give it more than it receives.
QUESTION = b"""
select pg_is_in_recovery(),
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_insert_lsn()
       end - '0/0'::pg_lsn,
       case when pg_is_in_recovery()
            then greatest((select timeline_id from pg_control_checkpoint()),
                          (select min_recovery_end_timeline from pg_control_recovery()),
                          (select received_tli from pg_stat_wal_receiver))
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       end,
       (select system_identifier from pg_control_system()),
       exists (select from pg_stat_wal_receiver),
       case when pg_is_in_recovery() and current_setting('restore_command') = ''
            then pg_last_wal_receive_lsn()
       end - '0/0'::pg_lsn
"""
_NAME = b"pgroute_probe"


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class Lost(Exception):
    """The connection of a probe is gone; the text is one line."""


class Probe:
    """Owns one connection. One question at a time; ``asked_at`` is None while none is open."""

    def __init__(self, node: str, connection: psycopg.Connection[Any]) -> None:
        self.node = node
        self.asked_at: float | None = None
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared = False
        self._result: pq.abc.PGresult | None = None  # come, but not yet its end

    def fileno(self) -> int:
        """The socket to watch for readability."""
        return self._pgconn.socket

    def ask(self, now: float) -> None:
        """Send the question. Lost when the connection is."""
        try:
            if self._prepared:
                self._pgconn.send_query_prepared(_NAME, None)
            else:
                self._pgconn.send_prepare(_NAME, QUESTION)
        except psycopg.Error as error:
            raise Lost(one_line(error)) from error
        self.asked_at = now

    def receive(self) -> Observation | None:
        """What has arrived: an answer, the server's refusal as Silence, or None: not all yet.

        Lost when the connection is.
        """
        try:
            self._pgconn.consume_input()
            asked = self.asked_at
            if asked is None:  # nothing was asked: a notice, a setting, or the goodbye
                self._pgconn.is_busy()
                self._look_alive()
                return None
            while not self._pgconn.is_busy():
                part = self._pgconn.get_result()
                if part is None:
                    break
                self._result = self._result or part
            else:
                return None
        except psycopg.Error as error:
            raise Lost(one_line(error)) from error
        result, self._result, self.asked_at = self._result, None, None
        if result is None:
            raise Lost("the server closed the connection")
        return self._understood(result, asked)

    def _look_alive(self) -> None:
        if self._pgconn.status != pq.ConnStatus.OK:
            raise Lost("the server closed the connection")

    def _understood(self, result: pq.abc.PGresult, asked: float) -> Observation | None:
        if result.status == ExecStatus.COMMAND_OK and not self._prepared:
            self._prepared = True
            self.ask(asked)
            return None
        if result.status != ExecStatus.TUPLES_OK:
            self._look_alive()
            why = result.error_message.decode(errors="replace")
            return Silence(self.node, (why.splitlines() or ["no answer"])[0].strip())
        in_recovery, position, timeline, identifier, receiving, received = (
            result.get_value(0, column) for column in range(6)
        )
        if timeline is None or identifier is None:
            return Silence(self.node, "the server does not know its timeline")
        standby = in_recovery == b"t"
        at = None if position is None else int(position)
        return Answer(
            node=self.node,
            in_recovery=standby,
            timeline=int(timeline),
            system_identifier=int(identifier),
            position=at if standby or at is None else reachable(at),
            receiving=receiving == b"t",
            complete=received is not None and at is not None and int(received) <= at,
        )

    def close(self) -> None:
        """Close the connection."""
        with suppress(psycopg.Error):
            self._connection.close()
