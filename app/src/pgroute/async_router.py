"""The router for asyncio: the same names and the same core as :class:`pgroute.Router`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from contextvars import copy_context
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
from pgroute.errors import PgrouteError, RouterClosed, TokenNotReached
from pgroute.explain import Explanation, explain_async
from pgroute.observing.timing import timed_async_cursors
from pgroute.results import Result
from pgroute.routing import running
from pgroute.routing.async_contexts import (
    AsyncPlannedReading,
    AsyncReading,
    AsyncReadingAfter,
    AsyncWriting,
)
from pgroute.routing.async_pool import AsyncNodePool
from pgroute.routing.base import Base, Steps
from pgroute.routing.commit import Commit
from pgroute.routing.connections import AsyncNodeConnection
from pgroute.routing.hedging import Pace, hedged_async
from pgroute.routing.holder import PLAIN, Holder, Plan
from pgroute.routing.shelter import sheltered
from pgroute.routing.tokens import PendingToken
from pgroute.session import AsyncSession
from pgroute.statements import Query
from pgroute.statements import Route as Lane

T = TypeVar("T")


class AsyncRouter(Base):
    """As :class:`pgroute.Router`, for one event loop.

    ``async with AsyncRouter(dsn) as router``, then ``async with router.read() as connection`` and
    ``await router.execute(...)``. ``after_connect`` and ``on_return`` are coroutine functions.
    """

    _loop: asyncio.AbstractEventLoop

    @cached_property
    def _tasks(self) -> set[asyncio.Future[Any]]:
        """Those that nobody awaits."""
        return set()

    _pace: Pace | None = None  # None: no read is hedged
    _dismissed = False  # whether the fleet's crew may begin nothing more

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Ask every server once, then keep asking. A fleet without a primary is no error here."""
        if self.opened:
            raise RouterClosed("a router is opened once")
        self._loop = asyncio.get_running_loop()
        self.opened = True
        if self.settings.hedge_share > 0:
            self._pace = Pace(self.hedge_delay)
        self.fleet.start()
        try:
            # The first answers include connecting, which later ones do not.
            settings = self.settings
            await self._asked(settings.connect_timeout_seconds + settings.probe_timeout_seconds)
        except BaseException:  # cancelled: nobody will close what was not opened
            await sheltered(self.close(0))
            raise
        self.routes_changed()
        self._soon(self._learn_statements)

    async def warm_up(self, timeout: float = 5.0) -> None:
        """Have ``pool_min_size`` connections for reads on the replicas and for writes on the
        primary, within ``timeout`` seconds, else NodeUnavailable."""
        await self.drive(self.warming(timeout))

    async def close(self, timeout: float = 5.0) -> None:
        """Hand out nothing more, wait up to ``timeout`` seconds for connections in use, close all.

        What is still in use then is closed when it comes back.
        """
        self.closed = True
        self.no_routes()
        until = self.clock() + timeout
        while self.busy() and self.clock() < until:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(self.fleet.stop, timeout)
        self._dismissed = True  # nobody would end what helper threads begin now
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in self.pools_by_key.values():
            await pool.close(max(until - self.clock(), 0.1))

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
    ) -> AsyncReading | AsyncPlannedReading:
        """A read-only connection (autocommit) to a replica that meets the contract.

        The arguments and errors are those of :meth:`pgroute.Router.read`.
        """
        limit = self.limit if timeout is None else timeout
        if contract == "eventual" and max_lag is None and node is None and otherwise == "primary":
            if after is None:
                return AsyncReading(self, limit)
            if isinstance(after, POSITIONS) and not wait and token_timeout is None:
                return AsyncReadingAfter(self, limit, after)
        plan = self.plan(contract, max_lag, after, otherwise, node, wait, token_timeout)
        return AsyncPlannedReading(self, limit, plan)

    def write(self, *, timeout: float | None = None) -> AsyncWriting:
        """A connection to the primary, in a transaction that commits at the end of the block.

        Errors are those of :meth:`pgroute.Router.write`.
        """
        return AsyncWriting(self, self.limit if timeout is None else timeout)

    async def execute(
        self,
        sql: str,
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

        The arguments and errors are those of :meth:`pgroute.Router.execute`.
        """
        limit = self.limit if timeout is None else timeout
        reads = self.lane(sql) is Lane.REPLICA
        simple = contract == "eventual" and max_lag is None and otherwise == "primary"
        if after is not None and simple:
            known = isinstance(after, POSITIONS)
            simple = reads and known and not wait and token_timeout is None
        if not simple:
            plan = self.plan(contract, max_lag, after, otherwise, None, wait, token_timeout)
            return await self.execute_as(plan, sql, params, reads, idempotent, limit)
        if not reads:
            return await self._change(None, sql, params, idempotent, limit)
        if after is not None:
            return await self._ask(AsyncReadingAfter(self, limit, after), sql, params, idempotent)
        if self._pace is not None:
            until = self.clock() + limit
            return await self._hedged(
                running.Statement(sql, params, PLAIN, True, idempotent, until)
            )
        return await self._ask(AsyncReading(self, limit), sql, params, idempotent)

    async def transaction(
        self,
        fn: Callable[[AsyncNodeConnection], Awaitable[T]],
        *,
        read_only: bool = False,
        isolation: IsolationLevel | None = None,
        timeout: float | None = None,
    ) -> T:
        """``await fn(connection)`` in a transaction; its value. Retried as a whole when that is
        safe, so ``fn`` must do nothing else that cannot be done twice."""
        limit = self.limit if timeout is None else timeout
        steps = running.transaction(
            self, fn, PLAIN, read_only=read_only, isolation=isolation, limit=limit
        )
        return await self.drive(steps)

    async def explain(self, sql: str, params: Any = None, *, analyze: bool = False) -> Explanation:
        """As :meth:`pgroute.Router.explain`."""
        if self.statements.catalog is None:
            await self._learn_statements(wait=True)
        where = self.read() if self.lane(sql) is Lane.REPLICA else self.write()
        async with where as connection:
            cursor = connection.cursor(row_factory=tuple_row)

            async def run(text: str, values: Any) -> list[Any]:
                return await (await cursor.execute(text, values)).fetchall()

            return await explain_async(
                sql,
                params,
                run,
                node=connection.node,
                statements=self.statements,
                analyze=analyze,
            )

    def session(self, after: Token | None = None) -> AsyncSession:
        """Reads that see what the session wrote and never go back in time. For one task."""
        return AsyncSession(self, after)

    async def settle(self, token: Token) -> Token:
        """The token with its position: waits for the primary's sample, if it must."""
        if not isinstance(token, PendingToken):
            return token
        await self.drive(self.settling(token.mark))
        return token.settled

    async def refresh(self) -> Topology:
        """Ask every server now, within ``probe_timeout_seconds``; the new topology."""
        self.require_open()
        await self._asked(self.settings.probe_timeout_seconds)
        return self.topology

    # How it is done

    async def drive(self, steps: Steps[T]) -> T:
        """Run steps to their end and await what they yield."""
        try:
            awaited = next(steps)
            while True:
                try:
                    value = await awaited
                except BaseException as error:  # noqa: BLE001 - the steps decide
                    awaited = steps.throw(error)
                else:
                    awaited = steps.send(value)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def sheltered(self, steps: Steps[T]) -> T:
        """Run steps to their end even when the task is cancelled meanwhile."""
        context = copy_context()
        try:
            return await sheltered(self.drive(steps), context)
        finally:
            self._last_write.set(context.get(self._last_write))  # what a task sets is its own

    async def run(self, statement: running.Statement) -> Result:
        """A statement with everything that may happen to it."""
        return await self.drive(running.execute(self, statement))

    async def execute_as(
        self, plan: Plan, sql: Query, params: Any, reads: bool, idempotent: bool, limit: float
    ) -> Result:
        """:meth:`execute` with a plan."""
        if not reads:
            return await self._change(plan, sql, params, idempotent, limit)
        return await self._ask(AsyncPlannedReading(self, limit, plan), sql, params, idempotent)

    async def _ask(
        self, reading: AsyncReading, sql: Query, params: Any, idempotent: bool
    ) -> Result:
        """A statement that reads."""
        next(self.calls)
        kept = None if reading.plan is None else reading.plan.kept()
        connection = await reading.__aenter__()
        try:
            result = await connection.ask(sql, params)
        except BaseException as error:  # noqa: BLE001 - learnt from, then raised
            again, until = reading.again(), reading.until
            statement = running.Statement(sql, params, again, True, idempotent, until)
            return await self._run_again(statement, reading, error, kept)
        await reading.leave()
        return result

    async def _change(
        self, plan: Plan | None, sql: Query, params: Any, idempotent: bool, limit: float
    ) -> Result:
        """A statement that commits by itself, on the primary."""
        writing = AsyncWriting(self, limit, plan)
        if not await writing.at_once(self.next_statement, autocommit=True):
            again, until = writing.again(), self.clock() + limit
            return await self.run(running.Statement(sql, params, again, False, idempotent, until))
        next(self.calls)
        kept = None if plan is None else plan.kept()
        try:
            result: Result = await writing.connection.ask(sql, params)
        except BaseException as error:  # noqa: BLE001 - learnt from, then raised
            again, until = writing.again(), writing.until
            statement = running.Statement(sql, params, again, False, idempotent, until)
            return await self._run_again(statement, writing, error, kept)
        await writing.leave()
        return result

    async def _hedged(self, statement: running.Statement) -> Result:
        """A read that may be asked twice at once."""
        assert self._pace is not None  # noqa: S101 - for the type checker
        try:
            return await hedged_async(self, self._pace, statement)
        except running.Failure as failure:
            return await self.drive(running.execute(self, statement, failure))

    def look_after(self, task: asyncio.Future[Any]) -> None:
        """Keep a task that nobody awaits until it has ended; its error is heard and dropped."""

        def ended(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()

        self._tasks.add(task)
        task.add_done_callback(ended)

    async def _run_again(
        self,
        statement: running.Statement,
        holder: Holder,
        error: BaseException,
        kept: Trail | None,
    ) -> Result:
        lost = running.is_lost(holder.connection)
        try:
            await self.sheltered(running.end_failed(self, holder, error, lost))
        except running.Failure as failure:
            return await self.drive(running.execute(self, statement, failure, kept))
        raise error

    async def _asked(self, limit: float) -> None:
        told = self.fleet.when(self.fleet.asked_since(self.clock()))
        self.fleet.wake()
        await self.do_wait(told, limit)

    def _settled(self, mark: Mark) -> Token:
        token = self.fleet.ledger.settle(mark)
        if token is None:
            raise TokenNotReached("the position is not known yet: await router.settle(token) first")
        return token

    def _make_pool(self, name: str, read_only: bool) -> AsyncNodePool:
        return AsyncNodePool(
            name,
            self.settings,
            read_only=read_only,
            after_connect=self.after_connect,
            on_return=self.on_return,
            cursors=self.cursors(timed_async_cursors),
            clock=self.clock,
            random=self.random,
        )

    async def do_take(self, pool: AsyncNodePool, limit: float) -> AsyncNodeConnection:
        return await pool.take(limit)

    async def do_give_back(self, pool: AsyncNodePool, connection: AsyncNodeConnection) -> None:
        await pool.give_back(connection)

    async def do_discard(self, pool: AsyncNodePool, connection: AsyncNodeConnection) -> None:
        await pool.discard(connection)

    async def do_commit(self, connection: AsyncNodeConnection, commit: Commit) -> None:
        await connection.end(commit)

    async def do_rollback(self, connection: AsyncNodeConnection) -> None:
        with suppress(psycopg.Error):
            await connection.rollback()

    async def do_begin(
        self, connection: AsyncNodeConnection, read_only: bool, isolation: IsolationLevel | None
    ) -> None:
        await connection.begin_as(isolation, explicit=read_only)

    async def do_query(
        self, connection: AsyncNodeConnection, sql: Any, params: Any, prepare: bool | None
    ) -> Result:
        await connection.commit_each(True)
        return await connection.ask(sql, params, prepare)

    async def do_call(self, fn: Callable[[Any], Any], connection: AsyncNodeConnection) -> Any:
        return await fn(connection)

    async def do_warm(self, pool: AsyncNodePool, limit: float) -> None:
        await pool.warm_up(limit)

    async def do_wait(self, future: Future[None], limit: float) -> bool:
        try:
            await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except TimeoutError:
            return False
        return True

    async def do_pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # The fleet's crew, from other threads

    def _soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Future[None]:
        """Begin ``work()`` in the loop; the future is done when it has ended in whatever way."""
        done: Future[None] = Future()

        async def quietly() -> None:
            with suppress(psycopg.Error, PgrouteError, PoolTimeout, PoolClosed, OSError):
                await work()

        def begin() -> None:
            if self._dismissed:
                done.set_result(None)
                return
            task = asyncio.ensure_future(quietly())
            task.add_done_callback(lambda _: done.set_result(None))
            self.look_after(task)

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:  # the loop is closed
            done.set_result(None)
        return done

    def renew(self, node: str, *, writes_only: bool = False) -> None:
        """Use no connection to ``node`` again that was made until now."""
        for read_only in (False,) if writes_only else (False, True):
            pool = self.pools_by_key[node, read_only]
            pool.outdate()
            self._soon(pool.renew)

    def take_back(self, pool: AsyncNodePool, connection: AsyncNodeConnection) -> None:
        """Discard a connection soon, from any thread, even if that was done before."""
        self._soon(lambda: pool.discard(connection))

    def warm(self, node: str, limit: float) -> None:
        """Have connections to ``node`` ready. Not from the loop's thread: it waits."""
        if self.closed or not self.settings.pool_sizes(read_only=True)[0]:
            return
        pool = self.pools_by_key[node, True]
        with suppress(FutureTimeout):
            self._soon(lambda: pool.warm_up(limit)).result(limit + 0.1)

    def sweep(self, now: float) -> None:
        """Put idle connections away; learn what statements do."""
        if not self.closed:
            self._soon(lambda: self._sweep(now))

    async def _sweep(self, now: float) -> None:
        for pool in self.pools_by_key.values():
            await pool.sweep(now)
        await self._learn_statements()

    @cached_property
    def _learning(self) -> asyncio.Lock:
        """Held by whoever learns: there is no use in learning the same twice at once."""
        return asyncio.Lock()

    async def _learn_statements(self, *, wait: bool = False) -> None:
        if wait or not self._learning.locked():
            async with self._learning:
                await self._learn_now()

    async def _learn_now(self) -> None:
        if self.closed or not self.statements.due():
            return
        node = self.fleet.primary or next(iter(self.fleet.replicas), None)
        if node is None:
            return
        async with self.read(node=node) as connection:
            cursor = connection.cursor(row_factory=tuple_row)

            async def run(sql: str) -> list[Any]:
                return await (await cursor.execute(sql)).fetchall()

            await self.statements.refresh_async(run)
