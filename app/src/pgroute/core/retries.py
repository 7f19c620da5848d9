"""What to do after a failure: the table, as data. Pure: talks to nobody, waits for nothing.

The row is the :class:`Trouble` that an error means, the column the :class:`Work` it hit.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random


class Trouble(StrEnum):
    """What an error means."""

    NOTHING_SENT = "nothing_sent"  # no connection: the server has not seen the statement
    READ_ONLY = "read_only"  # 25006
    ROLLED_BACK = "rolled_back"  # 40001, 40P01 on the primary
    RECOVERY_CONFLICT = "recovery_conflict"  # 40001, 40P01, 57P04 on a standby
    CONNECTION_LOST = "connection_lost"  # in the middle of a statement
    LIMIT = "limit"  # 57014, 55P03, 53xxx: a limit of the server or the caller
    OWN_DEADLINE = "own_deadline"  # the limit was ours, statement_timeout included
    STALE_PLAN = "stale_plan"  # 26000, 0A000: a prepared statement that is not there any more
    PERMANENT = "permanent"  # wrong data, rights or syntax: the same again anywhere


class Work(StrEnum):
    """What was being done."""

    READ = "read"  # one statement that changes nothing
    WRITE = "write"  # one statement that may change something
    TRANSACTION = "transaction"  # a callable, all of it


class Action(StrEnum):
    """What to do next."""

    RAISE = "raise"
    NEXT_NODE = "next_node"  # another replica, then the primary
    PRIMARY_AND_REMEMBER = "primary_and_remember"  # the statement is no read
    REDISCOVER = "rediscover"  # find the primary again, then retry there
    REDISCOVER_ONCE = "rediscover_once"  # the same, and no second time
    RETRY = "retry"  # on the same server
    DEALLOCATE = "deallocate"  # drop the prepared statements, then on the same server
    RERUN = "rerun"  # the whole callable, after finding its server again
    RESOLVE_COMMIT = "resolve_commit"  # ask pg_xact_status, else CommitUnknown


_TABLE: dict[Trouble, tuple[Action, Action, Action]] = {
    #                           READ, WRITE, TRANSACTION
    Trouble.NOTHING_SENT: (Action.NEXT_NODE, Action.REDISCOVER, Action.RERUN),
    Trouble.READ_ONLY: (Action.PRIMARY_AND_REMEMBER, Action.REDISCOVER_ONCE, Action.RERUN),
    Trouble.ROLLED_BACK: (Action.RETRY, Action.RETRY, Action.RERUN),
    Trouble.RECOVERY_CONFLICT: (Action.NEXT_NODE, Action.RAISE, Action.RERUN),
    Trouble.CONNECTION_LOST: (Action.NEXT_NODE, Action.RAISE, Action.RERUN),
    Trouble.LIMIT: (Action.RAISE, Action.RAISE, Action.RAISE),
    Trouble.OWN_DEADLINE: (Action.NEXT_NODE, Action.RAISE, Action.RAISE),
    Trouble.STALE_PLAN: (Action.DEALLOCATE, Action.DEALLOCATE, Action.RAISE),
    Trouble.PERMANENT: (Action.RAISE, Action.RAISE, Action.RAISE),
}
_COLUMN = {Work.READ: 0, Work.WRITE: 1, Work.TRANSACTION: 2}

_SAID_BY_THE_SERVER = (Trouble.ROLLED_BACK, Trouble.STALE_PLAN)

_BUSY = {"57P03", "53300"}
_LOST = {"57P01", "57P02", "57P05"}
_CONFLICT = {"40001", "40P01", "57P04"}
_STALE_PLAN_TEXT = "cached plan"
_STALE_PLAN_SOURCE = "RevalidateCachedQuery"


def trouble(
    sqlstate: str | None,
    *,
    sent: bool,
    on_standby: bool = False,
    connection_lost: bool = False,
    own_deadline: bool = False,
    message: str = "",
    source: str | None = None,
) -> Trouble:
    """What an error means.

    ``sqlstate``: None for errors of the client, such as a pool's timeout. ``sent``: whether the
    server may have seen the statement. ``connection_lost``: the connection cannot be used any
    more. ``own_deadline``: the attempt was ended by its own deadline. ``message``: the error's
    text, ``source``: the server's function that raised it, in whatever language: either tells the
    two meanings of 0A000 apart.
    """
    if own_deadline:
        return Trouble.OWN_DEADLINE
    state = sqlstate or ""
    if not sent and (not state or state[:2] == "08" or state in _BUSY | _LOST):
        return Trouble.NOTHING_SENT
    if state == "25006":
        return Trouble.READ_ONLY
    if state in _CONFLICT:
        if on_standby:
            return Trouble.RECOVERY_CONFLICT
        if state != "57P04":
            return Trouble.ROLLED_BACK
    if state in _LOST or state[:2] == "08" or (connection_lost and not state):
        return Trouble.CONNECTION_LOST
    if state in ("57014", "55P03") or state[:2] == "53":
        return Trouble.LIMIT
    stale = source == _STALE_PLAN_SOURCE or _STALE_PLAN_TEXT in message
    if state == "26000" or (state == "0A000" and stale):
        return Trouble.STALE_PLAN
    return Trouble.PERMANENT


def decide_retry(
    what: Trouble,
    work: Work,
    *,
    idempotent: bool = False,
    first_statement: bool = True,
    commit_sent: bool = False,
    read_only: bool = False,
    undone_whole: bool = True,
    committed: bool = False,
    attempts: int = 1,
) -> Action:
    """What to do. The caller keeps the deadline, the budget and the pause.

    ``idempotent``: the caller has said that the write may happen twice. ``first_statement``,
    ``commit_sent``, ``read_only``: of a transaction. ``undone_whole``: an error of the server means
    that nothing of the statement is left. ``committed``: a part of the transaction has been, or may
    have been, by the callable itself. ``attempts``: how often it failed like this.
    """
    action = _TABLE[what][_COLUMN[work]]
    if work is Work.WRITE and not (undone_whole or idempotent) and what in _SAID_BY_THE_SERVER:
        return Action.RAISE
    if work is Work.TRANSACTION:
        if committed and not read_only:
            return Action.RAISE
        if what is Trouble.CONNECTION_LOST and commit_sent and not read_only:
            return Action.RESOLVE_COMMIT
        if what is Trouble.NOTHING_SENT and not first_statement:
            return Action.RAISE
        if what is Trouble.RECOVERY_CONFLICT and not read_only:
            return Action.RAISE
    if what is Trouble.CONNECTION_LOST and work is Work.WRITE and idempotent:
        return Action.REDISCOVER
    once = action in (Action.PRIMARY_AND_REMEMBER, Action.REDISCOVER_ONCE, Action.DEALLOCATE)
    once = once or what is Trouble.OWN_DEADLINE  # slow twice: the statement is, not the server
    return Action.RAISE if once and attempts > 1 else action


class Backoff:
    """Pauses of full jitter within one deadline: each is anywhere from 0 to its cap."""

    def __init__(
        self, random: Random, *, deadline: float, base: float = 0.015, cap: float = 1.0
    ) -> None:
        """``deadline`` on the clock of :meth:`pause`; ``base`` and ``cap`` in seconds."""
        self._random = random
        self._deadline = deadline
        self._ceiling = base
        self._cap = cap

    def pause(self, now: float) -> float | None:
        """Seconds to wait before the next attempt; None when the deadline has come."""
        left = self._deadline - now
        if left <= 0:
            return None
        pause = self._random.random() * self._ceiling
        self._ceiling = min(self._ceiling * 2, self._cap)
        return min(pause, left)
