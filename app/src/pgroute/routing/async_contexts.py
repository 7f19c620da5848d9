"""What ``async with router.read()`` and ``async with router.write()`` hold."""

from __future__ import annotations

from typing import Any

from psycopg import pq

from pgroute.core.lsn import Mark, Token
from pgroute.observing.observer import Reason
from pgroute.routing.commit import Commit
from pgroute.routing.connections import AsyncNodeConnection
from pgroute.routing.ending import WELL, end, ending_failed, let_go
from pgroute.routing.holder import Holder, Plan
from pgroute.routing.leasing import give_back, lease_primary, lease_read
from pgroute.routing.routes import NoRoute, Route


class AsyncReading(Holder):
    """``async with router.read()``: any healthy replica, without thinking when there is one."""

    __slots__ = ()

    async def __aenter__(self) -> AsyncNodeConnection:
        router = self.router
        try:
            return router.take_read(self, router.next_read())  # type: ignore[no-any-return]
        except (IndexError, NoRoute):
            return await self._enter_slowly()

    async def _enter_slowly(self) -> AsyncNodeConnection:
        return await self.router.drive(lease_read(self.router, self))  # type: ignore[no-any-return]

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        pool, connection = self.pool, self.connection
        connection.spare = None
        if (
            error is None
            and not connection.pgconn.transaction_status
            and pool.keep(self, connection)
        ):
            return
        await self.router.sheltered(end(self.router, self, error))

    async def leave(self) -> None:
        """End the lease of a single statement that went well."""
        pool, connection = self.pool, self.connection
        if connection.pgconn.transaction_status or not pool.keep(self, connection):
            await self.router.sheltered(end(self.router, self, None))


class AsyncReadingAfter(AsyncReading):
    """``async with router.read(after=...)``: the replica whose turn it is when it surely has all
    that the token stands for; else whatever :func:`lease_read` finds."""

    __slots__ = ("after",)

    def __init__(self, router: Any, limit: float, after: Token | Mark) -> None:
        super().__init__(router, limit)
        self.after = after

    async def __aenter__(self) -> AsyncNodeConnection:
        router = self.router
        router.fleet.want()
        try:
            route = router.proven(self.after)
            if route is not None:
                return router.take_read(self, route)  # type: ignore[no-any-return]
        except (IndexError, NoRoute):
            pass
        return await self._enter_slowly()

    async def _enter_slowly(self) -> AsyncNodeConnection:
        self.plan = self.again()
        return await super()._enter_slowly()

    def again(self) -> Plan:
        return self.router.plan_after(self.after)  # type: ignore[no-any-return]


class AsyncPlannedReading(AsyncReading):
    """``async with router.read(...)``: whatever meets the contract."""

    __slots__ = ()

    async def __aenter__(self) -> AsyncNodeConnection:
        connection = self.router.take_planned(self, self.plan)
        if connection is None:
            connection = await self._enter_slowly()
        return connection  # type: ignore[no-any-return]

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.router.saw(self)
        await super().__aexit__(kind, error, trace)

    async def leave(self) -> None:
        self.router.saw(self)
        await super().leave()


class AsyncWriting(Holder):
    """``async with router.write()``: a transaction on the primary."""

    __slots__ = ()

    async def at_once(self, route: Route | None, *, autocommit: bool) -> bool:
        """As :meth:`pgroute.routing.contexts.Writing.at_once`."""
        router = self.router
        if self.plan is not None and not router.has_all(self.plan):
            return False
        if not router.take_at_once(self, route, autocommit=autocommit):
            return False
        if router.fleet.topology.primary == self.route.node:
            return True
        await router.drive(give_back(router, self))
        return False

    async def __aenter__(self) -> AsyncNodeConnection:
        router = self.router
        if await self.at_once(router.next_write, autocommit=False):
            return self.connection  # type: ignore[no-any-return]
        steps = lease_primary(router, self, read_only=False, reason=Reason.WRITE)
        return await router.drive(steps)  # type: ignore[no-any-return]

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        router, connection, pool = self.router, self.connection, self.pool
        connection.spare = None
        status = connection.pgconn.transaction_status
        if error is not None or status not in WELL or self not in pool.in_flight:
            await router.sheltered(end(router, self, error))
            return
        if status == pq.TransactionStatus.INTRANS:
            commit = Commit()
            try:
                await connection.end(commit)
            except BaseException as failure:  # noqa: BLE001 - learnt from, then raised
                await router.sheltered(ending_failed(router, self, commit, failure))
                return
        router.wrote(self)
        if not pool.keep(self, connection):
            await router.sheltered(let_go(router, self))

    async def leave(self) -> None:
        """End the lease of a single statement that went well."""
        router, connection, pool = self.router, self.connection, self.pool
        if not connection.pgconn.transaction_status and self in pool.in_flight:
            router.wrote(self)
            if pool.keep(self, connection):
                return
        await router.sheltered(end(router, self, None))
