"""Statements and transactions that are tried again when that is safe, for both fronts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import IsolationLevel, pq

from pgroute.core.retries import Action, Backoff, Trouble, Work, decide_retry, trouble
from pgroute.core.topology import Role
from pgroute.core.trail import Trail
from pgroute.errors import CommitUnknown, DeadlineExceeded, NodeUnavailable
from pgroute.observing.observer import Reason
from pgroute.results import Result
from pgroute.routing.base import Base, Steps
from pgroute.routing.connections import OwnCommit
from pgroute.routing.ending import end, ran_out
from pgroute.routing.holder import Holder, Plan
from pgroute.routing.leasing import lease_primary, lease_read
from pgroute.routing.probe import one_line
from pgroute.statements import text_of
from pgroute.statements.classify import is_undone_whole

_ELSEWHERE = (Action.REDISCOVER, Action.REDISCOVER_ONCE, Action.RETRY, Action.RERUN)
_NO_LOAD = (
    Action.PRIMARY_AND_REMEMBER,
    Action.DEALLOCATE,
)  # once, after an attempt that did nothing


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and what its caller said of it.

    ``reads``: a replica may answer it. ``until``: when all attempts end, on the router's clock.
    """

    sql: Any
    params: Any
    plan: Plan
    reads: bool
    idempotent: bool
    until: float


class Failure(Exception):
    """An attempt that failed: ``error`` as the caller would get it; ``committed``: something of it
    was committed already."""

    def __init__(
        self, error: Exception, what: Trouble, node: str, *, committed: bool = False
    ) -> None:
        self.error = error
        self.what = what
        self.node = node
        self.committed = committed


def execute(
    router: Base,
    statement: Statement,
    failure: Failure | None = None,
    kept: Trail | None = None,
) -> Steps[Result]:
    """The statement's result; ``failure`` is of an attempt made already, ``kept`` the session's
    trail before it."""
    until = statement.until
    effort = _Effort(router, until)
    avoid: frozenset[str] = frozenset()
    prepare: bool | None = None
    while True:
        if failure is not None:
            if statement.reads and failure.what is Trouble.READ_ONLY:
                text = text_of(statement.sql) or ""  # there is one: it was taken for a read
                router.statements.remember_write(text)
                router.observer.misrouted(failure.node, text)
            work = Work.READ if statement.reads else Work.WRITE
            action = effort.next(
                failure,
                work,
                idempotent=statement.idempotent,
                undone_whole=is_undone_whole(statement.sql),
            )
            if action is Action.RAISE:
                raise _final(failure, statement)
            statement.plan.forget(kept)
            if action is Action.PRIMARY_AND_REMEMBER:
                statement = replace(statement, reads=False)
            elif action is Action.NEXT_NODE:
                avoid |= {failure.node}
            elif action is Action.DEALLOCATE:
                prepare = False
            if action in _ELSEWHERE:
                yield router.do_pause(effort.pause(failure))
        kept = statement.plan.kept()
        try:
            holder = Holder(router, max(until - router.clock(), 0.001), statement.plan)
            return (yield from attempt(router, statement, holder, avoid, prepare))
        except Failure as another:
            failure = another


def transaction(
    router: Base,
    fn: Callable[[Any], Any],
    plan: Plan,
    *,
    read_only: bool,
    isolation: IsolationLevel | None,
    limit: float,
) -> Steps[Any]:
    """What ``fn(connection)`` returned in the attempt that committed."""
    until = router.clock() + limit
    effort = _Effort(router, until)
    avoid: frozenset[str] = frozenset()
    while True:
        kept = plan.kept()
        try:
            return (yield from _once(router, fn, plan, read_only, isolation, until, avoid))
        except Failure as failure:
            action = effort.next(
                failure, Work.TRANSACTION, read_only=read_only, committed=failure.committed
            )
            if action is not Action.RERUN:
                if failure.committed:
                    failure.error.add_note("pgroute: not run again, a part of it has committed")
                raise failure.error from failure.error.__cause__
            plan.forget(kept)
            if read_only:
                avoid |= {failure.node}
            pause = effort.pause(failure)
        yield router.do_pause(pause)


class _Effort:
    """The bounds of one call's attempts."""

    def __init__(self, router: Base, until: float) -> None:
        self._router = router
        self._until = until
        self._backoff = Backoff(router.random, deadline=until)
        self._failures: Counter[Trouble] = Counter()
        self._requests = next(router.calls)

    def next(self, failure: Failure, work: Work, **circumstances: bool) -> Action:
        """What to do after ``failure``."""
        self._failures[failure.what] += 1
        action = decide_retry(
            failure.what, work, attempts=self._failures[failure.what], **circumstances
        )
        if action in (Action.RAISE, Action.RESOLVE_COMMIT):
            return Action.RAISE
        router = self._router
        if router.clock() >= self._until:
            return Action.RAISE
        if action not in _NO_LOAD and not router.retry_budget.try_take(self._requests):
            return Action.RAISE
        state = getattr(failure.error, "sqlstate", None)
        router.observer.retried(failure.node, str(action), state)
        return action

    def pause(self, failure: Failure) -> float:
        """Seconds to wait; the failure's error when the deadline has come."""
        pause = self._backoff.pause(self._router.clock())
        if pause is None:
            raise failure.error from failure.error.__cause__
        return pause


def _nothing() -> None:
    return


def attempt(
    router: Base,
    statement: Statement,
    holder: Holder,
    avoid: frozenset[str],
    prepare: bool | None,
    leased: Callable[[], None] = _nothing,
    over: Callable[[], None] = _nothing,
) -> Steps[Result]:
    """One attempt at a statement. ``leased()`` is called with the connection in ``holder``,
    ``over()`` before it is given back. Raises Failure, and what leasing raises."""
    if statement.reads:
        connection = yield from lease_read(router, holder, avoid)
    else:
        connection = yield from lease_primary(
            router, holder, read_only=False, reason=Reason.STATEMENT
        )
    try:
        leased()
        result = yield router.do_query(connection, statement.sql, statement.params, prepare)
    except BaseException as error:
        over()
        lost = is_lost(connection)
        yield from end_failed(router, holder, error, lost)
        raise
    over()
    yield from end(router, holder, None)
    return result  # type: ignore[no-any-return]


def _once(
    router: Base,
    fn: Callable[[Any], Any],
    plan: Plan,
    read_only: bool,
    isolation: IsolationLevel | None,
    until: float,
    avoid: frozenset[str],
) -> Steps[Any]:
    holder = Holder(router, max(until - router.clock(), 0.001), plan)
    if read_only:
        connection = yield from lease_read(router, holder, avoid)
    else:
        connection = yield from lease_primary(router, holder, read_only=False, reason=Reason.WRITE)
    lost = False
    try:
        yield router.do_begin(connection, read_only, isolation)
        value = yield router.do_call(fn, connection)
    except BaseException as error:
        lost = is_lost(connection)
        yield from end_failed(router, holder, error, lost)
        raise
    committed = _has_committed(connection)
    try:
        yield from end(router, holder, None)
    except (psycopg.Error, NodeUnavailable) as error:
        lost = isinstance(error, NodeUnavailable) or (
            isinstance(error, psycopg.OperationalError) and error.sqlstate is None
        )
        what = _trouble(router, holder, error, lost)
        raise Failure(error, what, holder.route.node, committed=committed) from error
    return value


def _has_committed(connection: Any) -> bool:
    """Asked while the lease lasts: the next one begins anew."""
    return connection.own_commit is not OwnCommit.NONE


def is_lost(connection: Any) -> bool:
    """Whether a connection cannot be used any more."""
    return bool(connection.pgconn.transaction_status == pq.TransactionStatus.UNKNOWN)


def end_failed(router: Base, holder: Holder, error: BaseException, lost: bool) -> Steps[None]:
    """End the lease; raise Failure for what a retry may be decided on."""
    told: BaseException = error
    committed = _has_committed(holder.connection)
    try:
        yield from end(router, holder, error)
    except (DeadlineExceeded, NodeUnavailable) as better:
        told = better
    if isinstance(told, psycopg.Error | DeadlineExceeded | NodeUnavailable):
        what = _trouble(router, holder, told, lost)
        raise Failure(told, what, holder.route.node, committed=committed) from told


def _trouble(router: Base, holder: Holder, error: Exception, lost: bool) -> Trouble:
    if isinstance(error, NodeUnavailable):  # cut, as the node was silent or is no primary
        return Trouble.CONNECTION_LOST
    return trouble(
        getattr(error, "sqlstate", None),
        sent=True,
        on_standby=holder.route.role is Role.REPLICA,
        connection_lost=lost,
        own_deadline=isinstance(error, DeadlineExceeded) or ran_out(router, holder, error),
        message=str(error),
        source=error.diag.source_function if isinstance(error, psycopg.Error) else None,
    )


def _final(failure: Failure, statement: Statement) -> Exception:
    if failure.what is Trouble.CONNECTION_LOST and not statement.reads:
        unknown = CommitUnknown(failure.node, None, one_line(failure.error))
        unknown.__cause__ = failure.error
        return unknown
    return failure.error
