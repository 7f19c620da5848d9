"""The router for threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from functools import cached_property
from typing import Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import tuple_row
from psycopg_pool import PoolClosed, PoolTimeout

from pgroute.core.contracts import Contract, MaxLag
from pgroute.core.lsn import POSITIONS, Mark, Token
from pgroute.core.topology import Topology
from pgroute.core.trail import Trail
from pgroute.errors import RouterClosed
from pgroute.explain import Explanation, explain
from pgroute.observing.timing import timed_cursors
from pgroute.results import Result
from pgroute.routing import running
from pgroute.routing.base import Base, PoolReport, Steps
from pgroute.routing.commit import Commit
from pgroute.routing.connections import NodeConnection
from pgroute.routing.contexts import PlannedReading, Reading, ReadingAfter, Writing
from pgroute.routing.hedging import Pace, Threads, hedged
from pgroute.routing.holder import PLAIN, Holder, Plan
from pgroute.routing.pool import NodePool
from pgroute.routing.tokens import PendingToken
from pgroute.session import Session
from pgroute.statements import Query
from pgroute.statements import Route as Lane

__all__ = ["PoolReport", "Router"]

T = TypeVar("T")

_MOST_HEDGED = 64  # attempts at once


class Router(Base):
    """Hands out connections: the primary for writes, a healthy replica for reads.

    ``Router(dsn)``, ``Router(settings)``, or ``Router()`` for the ``PGROUTE_*`` environment.
    ``policy``: which replica is asked; ``observer``: who counts, besides the log and the spans
    that there are anyhow (a ``Log`` or ``Traces`` in it takes their place); ``statements``: where
    a statement may run; ``after_connect`` and ``on_return``: called with each new connection and
    with each one that comes back. Use it as a context manager, or call :meth:`open` and
    :meth:`close`. Thread-safe. Raises ConfigurationError when the configuration cannot be used.
    """

    _pace: Pace | None = None  # None: no read is hedged
    _hedger: Threads

    # Life

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Ask every server once, then keep asking. A fleet without a primary is no error here."""
        if self.opened:
            raise RouterClosed("a router is opened once")
        self.opened = True
        if self.settings.hedge_share > 0:
            self._pace = Pace(self.hedge_delay)
            self._hedger = Threads(_MOST_HEDGED)
        self.fleet.start()
        try:
            # The first answers include connecting, which later ones do not.
            settings = self.settings
            self._asked(settings.connect_timeout_seconds + settings.probe_timeout_seconds)
        except BaseException:  # an interrupt: nobody will close what was not opened
            self.close(0)
            raise
        self.routes_changed()
        self.fleet.in_background(self._learn_statements)

    def warm_up(self, timeout: float = 5.0) -> None:
        """Have ``pool_min_size`` connections for reads on the replicas and for writes on the
        primary, within ``timeout`` seconds, else NodeUnavailable."""
        self.drive(self.warming(timeout))

    def close(self, timeout: float = 5.0) -> None:
        """Hand out nothing more, wait up to ``timeout`` seconds for connections in use, close all.

        What is still in use then is closed when it comes back.
        """
        self.closed = True
        self.no_routes()
        until = self.clock() + timeout
        while self.busy() and self.clock() < until:
            time.sleep(0.005)
        self.fleet.stop(timeout)
        if self._pace is not None:
            self._hedger.stop()
        for pool in self.pools_by_key.values():
            pool.close(max(until - self.clock(), 0.1))

    # Reading and writing

    def read(
        self,
        contract: str | Contract = "eventual",
        *,
        max_lag: MaxLag | None = None,
        after: Token | Mark | None = None,
        otherwise: str = "primary",
        node: str | None = None,
        timeout: float | None = None,
        wait: bool = False,
        token_timeout: float | None = None,
    ) -> Reading | PlannedReading:
        """A read-only connection (autocommit) to a replica that meets the contract.

        ``contract``: "eventual", "strong" (the primary) or a Contract. ``max_lag``: "500ms",
        "16MB", timedelta or bytes. ``after``: a server that has everything the token stands for.
        ``otherwise``, when no replica meets it: "primary", within a cap; "wait" first, up to
        ``token_timeout`` seconds (``wait=True`` is the same); or "raise" ContractNotMet after as
        long. ``node``: that server and no other. ``timeout``: seconds until the connection is cut
        and DeadlineExceeded raised, default ``operation_timeout_seconds``.

        Raises NoReadableNode, NodeUnavailable, ContractNotMet, TokenNotReached, TokenUnproven,
        ForeignToken, UnknownContract.
        """
        limit = self.limit if timeout is None else timeout
        if contract == "eventual" and max_lag is None and node is None and otherwise == "primary":
            if after is None:
                return Reading(self, limit)
            if isinstance(after, POSITIONS) and not wait and token_timeout is None:
                return ReadingAfter(self, limit, after)
        plan = self.plan(contract, max_lag, after, otherwise, node, wait, token_timeout)
        return PlannedReading(self, limit, plan)

    def write(self, *, timeout: float | None = None) -> Writing:
        """A connection to the primary, in a transaction that commits at the end of the block.

        ``timeout``: seconds until the connection is cut and DeadlineExceeded raised, default
        ``operation_timeout_seconds``. Raises SplitBrain, NoPrimary or NodeUnavailable when there
        is nowhere to write within ``checkout_timeout_seconds``, and CommitUnknown when nobody can
        say whether the COMMIT happened.
        """
        return Writing(self, self.limit if timeout is None else timeout)

    def execute(
        self,
        sql: Query,
        params: Any = None,
        *,
        contract: str | Contract = "eventual",
        max_lag: MaxLag | None = None,
        after: Token | Mark | None = None,
        otherwise: str = "primary",
        wait: bool = False,
        token_timeout: float | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
    ) -> Result:
        """Run one statement where it may run, and again elsewhere when that is safe.

        ``sql``: a text, bytes, or what ``psycopg.sql`` makes. What is known to be a read goes to a
        replica within the contract, as in :meth:`read`; any other goes to the primary and commits
        by itself. ``idempotent``: it may happen twice, so a write whose connection was lost is
        repeated; else that is CommitUnknown.
        """
        limit = self.limit if timeout is None else timeout
        reads = self.lane(sql) is Lane.REPLICA
        simple = contract == "eventual" and max_lag is None and otherwise == "primary"
        if after is not None and simple:
            known = isinstance(after, POSITIONS)
            simple = reads and known and not wait and token_timeout is None
        if not simple:
            plan = self.plan(contract, max_lag, after, otherwise, None, wait, token_timeout)
            return self.execute_as(plan, sql, params, reads, idempotent, limit)
        if not reads:
            return self._change(None, sql, params, idempotent, limit)
        if after is not None:
            return self._ask(ReadingAfter(self, limit, after), sql, params, idempotent)
        if self._pace is not None:
            until = self.clock() + limit
            return self._hedged(running.Statement(sql, params, PLAIN, True, idempotent, until))
        return self._ask(Reading(self, limit), sql, params, idempotent)

    def transaction(
        self,
        fn: Callable[[NodeConnection], T],
        *,
        read_only: bool = False,
        isolation: IsolationLevel | None = None,
        timeout: float | None = None,
    ) -> T:
        """``fn(connection)`` in a transaction; its value. Retried as a whole when that is safe,
        so ``fn`` must do nothing else that cannot be done twice.

        ``read_only``: on a replica. ``timeout``: seconds for all attempts together.
        """
        limit = self.limit if timeout is None else timeout
        steps = running.transaction(
            self, fn, PLAIN, read_only=read_only, isolation=isolation, limit=limit
        )
        return self.drive(steps)  # type: ignore[no-any-return]

    def explain(self, sql: str, params: Any = None, *, analyze: bool = False) -> Explanation:
        """Where a statement would go and how that node would answer it, without running it.

        ``analyze``: run it, if it is known to be harmless. Raises NotExplained.
        """
        if self.statements.catalog is None:
            self._learn_statements(wait=True)
        where = self.read() if self.lane(sql) is Lane.REPLICA else self.write()
        with where as connection:
            cursor = connection.cursor(row_factory=tuple_row)
            return explain(
                sql,
                params,
                lambda text, values: cursor.execute(text, values).fetchall(),
                node=connection.node,
                statements=self.statements,
                analyze=analyze,
            )

    def session(self, after: Token | None = None) -> Session:
        """Reads that see what the session wrote and never go back in time. For one thread."""
        return Session(self, after)

    def settle(self, token: Token) -> Token:
        """The token with its position: waits for the primary's sample, if it must."""
        return token.settled if isinstance(token, PendingToken) else token

    def refresh(self) -> Topology:
        """Ask every server now, within ``probe_timeout_seconds``; the new topology."""
        self.require_open()
        self._asked(self.settings.probe_timeout_seconds)
        return self.topology

    # How it is done

    def drive(self, steps: Steps[T]) -> T:
        """Run steps to their end; what they yield has happened already."""
        try:
            value = next(steps)
            while True:
                value = steps.send(value)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def run(self, statement: running.Statement) -> Result:
        """A statement with everything that may happen to it."""
        return self.drive(running.execute(self, statement))

    def execute_as(
        self, plan: Plan, sql: Query, params: Any, reads: bool, idempotent: bool, limit: float
    ) -> Result:
        """:meth:`execute` with a plan."""
        if not reads:
            return self._change(plan, sql, params, idempotent, limit)
        return self._ask(PlannedReading(self, limit, plan), sql, params, idempotent)

    def _ask(self, reading: Reading, sql: Query, params: Any, idempotent: bool) -> Result:
        """A statement that reads."""
        next(self.calls)
        kept = None if reading.plan is None else reading.plan.kept()
        connection = reading.__enter__()
        try:
            result = connection.ask(sql, params)
        except BaseException as error:  # noqa: BLE001 - learnt from, then raised
            again, until = reading.again(), reading.until
            statement = running.Statement(sql, params, again, True, idempotent, until)
            return self._run_again(statement, reading, error, kept)
        reading.leave()
        return result

    def _change(
        self, plan: Plan | None, sql: Query, params: Any, idempotent: bool, limit: float
    ) -> Result:
        """A statement that commits by itself, on the primary."""
        writing = Writing(self, limit, plan)
        if not writing.at_once(self.next_statement, autocommit=True):
            again, until = writing.again(), self.clock() + limit
            return self.run(running.Statement(sql, params, again, False, idempotent, until))
        next(self.calls)
        kept = None if plan is None else plan.kept()
        try:
            result: Result = writing.connection.ask(sql, params)
        except BaseException as error:  # noqa: BLE001 - learnt from, then raised
            again, until = writing.again(), writing.until
            statement = running.Statement(sql, params, again, False, idempotent, until)
            return self._run_again(statement, writing, error, kept)
        writing.leave()
        return result

    def _hedged(self, statement: running.Statement) -> Result:
        """A read that may be asked twice at once."""
        assert self._pace is not None  # noqa: S101 - for the type checker
        try:
            return hedged(self, self._hedger, self._pace, statement)
        except running.Failure as failure:
            return self.drive(running.execute(self, statement, failure))

    def _run_again(
        self,
        statement: running.Statement,
        holder: Holder,
        error: BaseException,
        kept: Trail | None,
    ) -> Result:
        """Go on after the first attempt has failed."""
        lost = running.is_lost(holder.connection)
        try:
            self.drive(running.end_failed(self, holder, error, lost))
        except running.Failure as failure:
            return self.drive(running.execute(self, statement, failure, kept))
        raise error

    def _asked(self, limit: float) -> None:
        told = self.fleet.when(self.fleet.asked_since(self.clock()))
        self.fleet.wake()
        self.do_wait(told, limit)

    def _settled(self, mark: Mark) -> Token:
        return self.drive(self.settling(mark))

    def _make_pool(self, name: str, read_only: bool) -> NodePool:
        return NodePool(
            name,
            self.settings,
            read_only=read_only,
            after_connect=self.after_connect,
            on_return=self.on_return,
            cursors=self.cursors(timed_cursors),
            clock=self.clock,
            random=self.random,
        )

    def do_take(self, pool: NodePool, limit: float) -> NodeConnection:
        return pool.take(limit)

    def do_give_back(self, pool: NodePool, connection: NodeConnection) -> None:
        pool.give_back(connection)

    def do_discard(self, pool: NodePool, connection: NodeConnection) -> None:
        pool.discard(connection)

    def do_commit(self, connection: NodeConnection, commit: Commit) -> None:
        connection.end(commit)

    def do_rollback(self, connection: NodeConnection) -> None:
        with suppress(psycopg.Error):
            connection.rollback()

    def do_begin(
        self, connection: NodeConnection, read_only: bool, isolation: IsolationLevel | None
    ) -> None:
        connection.begin_as(isolation, explicit=read_only)

    def do_query(
        self, connection: NodeConnection, sql: Any, params: Any, prepare: bool | None
    ) -> Result:
        connection.commit_each(True)
        return connection.ask(sql, params, prepare)

    def do_call(self, fn: Callable[[Any], Any], connection: NodeConnection) -> Any:
        return fn(connection)

    def do_warm(self, pool: NodePool, limit: float) -> None:
        pool.warm_up(limit)

    def do_wait(self, future: Future[None], limit: float) -> bool:
        try:
            future.result(limit)
        except FutureTimeout:
            future.cancel()
            return False
        return True

    def do_pause(self, seconds: float) -> None:
        time.sleep(seconds)

    # The fleet's crew, in helper threads

    def renew(self, node: str, *, writes_only: bool = False) -> None:
        """Use no connection to ``node`` again that was made until now."""
        for read_only in (False,) if writes_only else (False, True):
            self.pools_by_key[node, read_only].renew()

    def take_back(self, pool: NodePool, connection: NodeConnection) -> None:
        """Discard a connection soon, from any thread, even if that was done before."""
        self.fleet.in_background(lambda: pool.discard(connection))

    def warm(self, node: str, limit: float) -> None:
        """Have connections to ``node`` ready."""
        if not self.closed and self.settings.pool_sizes(read_only=True)[0]:
            with suppress(PoolTimeout, PoolClosed):
                self.pools_by_key[node, True].warm_up(limit)

    def sweep(self, now: float) -> None:
        """Put idle connections away; learn what statements do."""
        for pool in self.pools_by_key.values():
            pool.sweep(now)
        self._learn_statements()

    @cached_property
    def _learning(self) -> threading.Lock:
        """Held by whoever learns: one that takes long shall not take one helper after another."""
        return threading.Lock()

    def _learn_statements(self, *, wait: bool = False) -> None:
        if not self._learning.acquire(blocking=wait):
            return
        try:
            self._learn_now()
        finally:
            self._learning.release()

    def _learn_now(self) -> None:
        if self.closed or not self.statements.due():
            return
        node = self.fleet.primary or next(iter(self.fleet.replicas), None)
        if node is not None:
            with self.read(node=node) as connection:
                cursor = connection.cursor(row_factory=tuple_row)
                self.statements.refresh(lambda sql: cursor.execute(sql).fetchall())
