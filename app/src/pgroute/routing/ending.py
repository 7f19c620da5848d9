"""How a lease ends: commit or roll back, learn from errors, resolve a COMMIT in doubt."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import pq
from psycopg.errors import InFailedSqlTransaction, QueryCanceled, ReadOnlySqlTransaction

from pgroute.core.retries import Backoff, Trouble, trouble
from pgroute.core.topology import Role
from pgroute.errors import (
    CommitUnknown,
    DeadlineExceeded,
    NodeUnavailable,
    RouterClosed,
    RoutingError,
)
from pgroute.observing.observer import Doubt, Fault, Reason
from pgroute.routing.base import Base, Steps
from pgroute.routing.commit import ASK_FATE, Commit
from pgroute.routing.connections import OwnCommit
from pgroute.routing.holder import PLAIN, Holder
from pgroute.routing.leasing import take
from pgroute.routing.probe import one_line

WELL = (pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS)
_LOST = pq.TransactionStatus.UNKNOWN
_FAILED = pq.TransactionStatus.INERROR


def end(router: Base, holder: Holder, error: BaseException | None) -> Steps[None]:
    """End a block: commit when ``error`` is None, else roll back, and give the connection back.

    Raises what the COMMIT raises, CommitUnknown included. When the connection was cut, raises
    DeadlineExceeded or NodeUnavailable in the place of ``error``. Else the caller raises ``error``.
    """
    connection = holder.connection
    commit = Commit()
    router.saw(holder)
    try:
        if error is None:
            yield from _commit(router, holder, commit)
        elif _is_to_roll_back(connection):
            yield router.do_rollback(connection)
    except BaseException as failure:  # noqa: BLE001 - learnt from, then raised
        yield from ending_failed(router, holder, commit, failure, error)
    else:
        lost = connection.pgconn.transaction_status == _LOST
        cut = yield from let_go(router, holder, error)
        if error is not None:
            told = explain(router, holder, error, cut=cut, lost=lost)
            if told is not error:
                raise told from error


def ending_failed(
    router: Base,
    holder: Holder,
    commit: Commit,
    failure: BaseException,
    error: BaseException | None = None,
) -> Steps[None]:
    """Go on after :func:`end`, which had ``error`` to begin with, met ``failure``."""
    router.saw(holder)  # it may have happened
    if commit.done and not _read_only(holder):
        router.wrote(holder)  # who waited for it was cancelled
    lost = holder.connection.pgconn.transaction_status == _LOST
    cut = yield from let_go(router, holder, failure)
    told = explain(router, holder, failure if error is None else error, cut=cut, lost=lost)
    unanswered = isinstance(failure, psycopg.Error) and failure.sqlstate is None
    in_doubt = commit.sent and not _read_only(holder)
    if in_doubt and isinstance(failure, psycopg.Error) and (lost or cut or unanswered):
        yield from resolve(router, holder, commit, told)
    elif told is not error:
        raise told from (None if told is failure else failure)


def explain(
    router: Base, holder: Holder, error: BaseException, *, cut: bool, lost: bool
) -> BaseException:
    """Learn from an error on a lease; the error to raise for it, often the same.

    ``cut``: pgroute shut the connection down; ``lost``: it cannot be used any more.
    """
    node = holder.route.node
    in_doubt = holder.connection.own_commit is OwnCommit.SENT and not _read_only(holder)
    if in_doubt and isinstance(error, psycopg.Error) and (cut or lost):
        router.fleet.suspect(node, Fault.CONNECTION_LOST, holder.verdict or one_line(error))
        router.observer.in_doubt(node, Doubt.UNKNOWN)
        return CommitUnknown(node, None, one_line(error))
    if cut and isinstance(error, psycopg.OperationalError):
        if holder.verdict is None:
            return DeadlineExceeded(node, holder.limit)
        router.fleet.suspect(node, Fault.CONNECTION_LOST, holder.verdict)
        return NodeUnavailable(f"{node}: {holder.verdict}, the connection was cut")
    if not isinstance(error, psycopg.Error):
        return error
    note = f"pgroute: on node {node}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    if isinstance(error, ReadOnlySqlTransaction):
        if not holder.pool.read_only:  # else the user wrote to a read-only connection
            router.fleet.suspect(node, Fault.READ_ONLY, "refuses writes")
    elif lost:
        router.fleet.suspect(node, Fault.CONNECTION_LOST, one_line(error))
    elif ran_out(router, holder, error):
        router.overdue(holder, waits=True)
    return error


def ran_out(router: Base, holder: Holder, error: BaseException) -> bool:
    """Whether a statement was ended by the ``statement_timeout`` that the connection came with."""
    settings = router.settings
    limit = settings.statement_timeout_seconds or settings.operation_timeout_seconds
    began = holder.until - holder.limit
    return isinstance(error, QueryCanceled) and router.clock() - began >= limit


def _commit(router: Base, holder: Holder, commit: Commit) -> Steps[None]:
    connection = holder.connection
    status = connection.pgconn.transaction_status
    if status == pq.TransactionStatus.IDLE:
        if not _read_only(holder):
            router.wrote(holder)  # the caller has committed
        return
    if holder not in holder.pool.in_flight:
        raise psycopg.OperationalError("the connection was cut before the COMMIT")
    if status == _FAILED:
        yield router.do_rollback(connection)
        raise InFailedSqlTransaction(
            "a statement of the block had failed: all of it was rolled back"
        )
    yield router.do_commit(connection, commit)
    if not _read_only(holder):
        router.wrote(holder)


def let_go(router: Base, holder: Holder, error: BaseException | None = None) -> Steps[bool]:
    """Give the connection back, unless ``error`` says that it is spoilt; True when it was cut."""
    connection, pool = holder.connection, holder.pool
    cut = pool.in_flight.pop(holder, None) is None
    whole = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
    if whole and not cut and not connection.left_open and not _has_spoilt(holder, error):
        yield router.do_give_back(pool, connection)
    else:
        yield router.do_discard(pool, connection)
    return cut


def _is_to_roll_back(connection: Any) -> bool:
    """Who has left something open may hold the lock for ever; its connection is closed instead."""
    status = connection.pgconn.transaction_status
    return status not in (pq.TransactionStatus.IDLE, _LOST) and not connection.left_open


def _has_spoilt(holder: Holder, error: BaseException | None) -> bool:
    """Whether the connection would meet the next one with the same error."""
    if isinstance(error, ReadOnlySqlTransaction):
        return not _read_only(holder)
    if not isinstance(error, psycopg.Error):
        return False
    found = trouble(
        error.sqlstate,
        sent=True,
        on_standby=False,
        message=str(error),
        source=error.diag.source_function,
    )
    return found is Trouble.STALE_PLAN


def _read_only(holder: Holder) -> bool:
    return bool(holder.pool.read_only)


def resolve(router: Base, holder: Holder, commit: Commit, error: BaseException) -> Steps[None]:
    """Return when the transaction has surely committed; raise ``error`` when it surely has not.

    CommitUnknown when nobody can say.
    """
    node = holder.route.node
    if commit.number_known and commit.number is None:
        return  # it had changed nothing
    fate = None
    if commit.number is not None:
        fate = yield from _fate(router, holder, commit.number)
    if fate == "committed":
        router.observer.in_doubt(node, Doubt.COMMITTED)
        router.wrote(holder)
        return
    if fate == "aborted":
        router.observer.in_doubt(node, Doubt.ROLLED_BACK)
        error.add_note("pgroute: the transaction was rolled back")
        raise error
    router.observer.in_doubt(node, Doubt.UNKNOWN)
    raise CommitUnknown(node, commit.number, one_line(error)) from error


def _fate(router: Base, holder: Holder, number: int) -> Steps[Any]:
    """What the primary says of a transaction, as long as it is on the same timeline."""
    fleet, node = router.fleet, holder.route.node
    limit = router.settings.checkout_timeout_seconds
    until = router.clock() + limit
    backoff = Backoff(router.random, deadline=until)
    while (pause := backoff.pause(router.clock())) is not None:
        if fleet.topology.fence.timeline != holder.timeline:
            return None
        if fleet.primary == node:
            try:
                fate = yield from _ask(router, node, number, until)
            except (RoutingError, psycopg.Error):
                fate = "in progress"
            if fleet.topology.fence.timeline != holder.timeline:
                return None
            if fate == "committed" and fleet.losses[node] != holder.losses:
                return None  # after a crash it gives numbers out anew: this may be another's
            if fate != "in progress":
                return fate
            yield router.do_pause(pause)
        else:
            fleet.want()
            ready = fleet.when(
                lambda: fleet.primary == node or fleet.topology.fence.timeline != holder.timeline
            )
            try:
                yield router.do_wait(ready, max(until - router.clock(), 0.0))
            except RouterClosed:
                return None
    return None


def _ask(router: Base, node: str, number: int, until: float) -> Steps[Any]:
    holder = Holder(router, max(until - router.clock(), 0.001), PLAIN)
    route = router.route(node, True, Role.PRIMARY, Reason.RETRY)
    connection = yield from take(router, holder, route, until)
    try:
        answer = yield router.do_query(connection, ASK_FATE, (str(number),), True)
    except BaseException as error:  # noqa: BLE001 - learnt from, then raised
        lost = connection.pgconn.transaction_status == _LOST
        cut = yield from let_go(router, holder)
        told = explain(router, holder, error, cut=cut, lost=lost)
        raise told from (None if told is error else error)
    yield from let_go(router, holder)
    return answer.text()
