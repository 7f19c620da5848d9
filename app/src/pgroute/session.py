"""Sessions: reads that see what was written in them and never go back in time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from psycopg import IsolationLevel

from pgroute.core.contracts import EVENTUAL, Contract, MaxLag
from pgroute.core.lsn import Mark, Token
from pgroute.core.trail import Trail
from pgroute.results import Result
from pgroute.routing import running
from pgroute.routing.async_contexts import AsyncPlannedReading, AsyncWriting
from pgroute.routing.base import Base, Steps
from pgroute.routing.connections import AsyncNodeConnection, NodeConnection
from pgroute.routing.contexts import PlannedReading, Writing
from pgroute.routing.holder import Plan
from pgroute.routing.tokens import PendingToken
from pgroute.statements import Query
from pgroute.statements import Route as Lane

if TYPE_CHECKING:
    from pgroute.async_router import AsyncRouter
    from pgroute.router import Router

T = TypeVar("T")


class _Session:
    """What both kinds share: the trail, and plans that keep to it."""

    def __init__(self, router: Base, after: Token | None) -> None:
        self._base = router
        if isinstance(after, PendingToken):
            self._trail = Trail()
            self._trail.note(after.mark)
        else:
            self._trail = Trail(after)
        # Of a read without further demands, and of a write.
        self._plain = Plan(EVENTUAL, trail=self._trail, wait=router.settings.token_timeout_seconds)

    def _plan(
        self,
        contract: str | Contract = "eventual",
        max_lag: MaxLag | None = None,
        after: Token | Mark | None = None,
        otherwise: str = "primary",
        node: str | None = None,
        wait: bool = False,
        token_timeout: float | None = None,
    ) -> Plan:
        """The plan of a caller's words, within the session."""
        return self._base.plan(
            contract, max_lag, after, otherwise, node, wait, token_timeout, self._trail
        )

    def _limit(self, timeout: float | None) -> float:
        return self._base.limit if timeout is None else timeout

    def _transaction(
        self,
        fn: Callable[[Any], Any],
        read_only: bool,
        isolation: IsolationLevel | None,
        timeout: float | None,
    ) -> Steps[Any]:
        return running.transaction(
            self._base,
            fn,
            self._plain,
            read_only=read_only,
            isolation=isolation,
            limit=self._limit(timeout),
        )

    def _token(self) -> Steps[Token | None]:
        for mark in self._trail.pending:
            yield from self._base.settling(mark)
        self._trail.settle(self._base.fleet.ledger)
        return self._trail.floor


class Session(_Session):
    """What one user or job does: it reads its own writes, and never goes back in time.

    Holds marks, no connection. ``after``: begin behind this token. For one thread at a time.
    """

    def __init__(self, router: Router, after: Token | None = None) -> None:
        super().__init__(router, after)
        self._router = router

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def read(
        self,
        contract: str | Contract = "eventual",
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> PlannedReading:
        """As :meth:`Router.read`, and never behind what the session has written or seen."""
        plain = contract == "eventual" and not options
        plan = self._plain if plain else self._plan(contract, **options)
        return PlannedReading(self._router, self._limit(timeout), plan)

    def write(self, *, timeout: float | None = None) -> Writing:
        """As :meth:`Router.write`; the session's later reads see it."""
        return Writing(self._router, self._limit(timeout), self._plain)

    def execute(
        self,
        sql: Query,
        params: Any = None,
        *,
        contract: str | Contract = "eventual",
        idempotent: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Result:
        """As :meth:`Router.execute`, within the session."""
        plain = contract == "eventual" and not options
        plan = self._plain if plain else self._plan(contract, **options)
        reads, limit = self._base.lane(sql) is Lane.REPLICA, self._limit(timeout)
        return self._router.execute_as(plan, sql, params, reads, idempotent, limit)

    def transaction(
        self,
        fn: Callable[[NodeConnection], T],
        *,
        read_only: bool = False,
        isolation: IsolationLevel | None = None,
        timeout: float | None = None,
    ) -> T:
        """As :meth:`Router.transaction`, within the session."""
        steps = self._transaction(fn, read_only, isolation, timeout)
        return self._router.drive(steps)  # type: ignore[no-any-return]

    def token(self) -> Token | None:
        """A token for all that the session has written or seen, None before the first of it.

        Waits for samples, at most ``token_timeout_seconds`` for each server it has been on.
        """
        return self._router.drive(self._token())


class AsyncSession(_Session):
    """What one user or job does: it reads its own writes, and never goes back in time.

    Holds marks, no connection. ``after``: begin behind this token. For one task at a time.
    """

    def __init__(self, router: AsyncRouter, after: Token | None = None) -> None:
        super().__init__(router, after)
        self._router = router

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def read(
        self,
        contract: str | Contract = "eventual",
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> AsyncPlannedReading:
        """As :meth:`AsyncRouter.read`, and never behind what the session has written or seen."""
        plain = contract == "eventual" and not options
        plan = self._plain if plain else self._plan(contract, **options)
        return AsyncPlannedReading(self._router, self._limit(timeout), plan)

    def write(self, *, timeout: float | None = None) -> AsyncWriting:
        """As :meth:`AsyncRouter.write`; the session's later reads see it."""
        return AsyncWriting(self._router, self._limit(timeout), self._plain)

    async def execute(
        self,
        sql: Query,
        params: Any = None,
        *,
        contract: str | Contract = "eventual",
        idempotent: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Result:
        """As :meth:`AsyncRouter.execute`, within the session."""
        plain = contract == "eventual" and not options
        plan = self._plain if plain else self._plan(contract, **options)
        reads, limit = self._base.lane(sql) is Lane.REPLICA, self._limit(timeout)
        return await self._router.execute_as(plan, sql, params, reads, idempotent, limit)

    async def transaction(
        self,
        fn: Callable[[AsyncNodeConnection], Awaitable[T]],
        *,
        read_only: bool = False,
        isolation: IsolationLevel | None = None,
        timeout: float | None = None,
    ) -> T:
        """As :meth:`AsyncRouter.transaction`, within the session."""
        steps = self._transaction(fn, read_only, isolation, timeout)
        return await self._router.drive(steps)

    async def token(self) -> Token | None:
        """A token for all that the session has written or seen, None before the first of it.

        Waits for samples, at most ``token_timeout_seconds`` for each server it has been on.
        """
        return await self._router.drive(self._token())
