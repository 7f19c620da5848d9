"""What ``async with router.read()`` and ``async with router.write()`` hold."""

from __future__ import annotations

from pgroute.observing.observer import Reason
from pgroute.routing.base import Holder
from pgroute.routing.connections import AsyncNodeConnection
from pgroute.routing.ending import end
from pgroute.routing.lease import FRESH_SECONDS
from pgroute.routing.leasing import give_back, lease_primary, lease_read
from pgroute.routing.routes import NoRoute, Route
from pgroute.routing.running import note


class AsyncReading(Holder):
    """``async with router.read()``: without a plan any healthy replica, without thinking."""

    __slots__ = ()

    async def __aenter__(self) -> AsyncNodeConnection:
        router = self.router
        if self.plan is not None:
            return await router.drive(lease_read(router, self))  # type: ignore[no-any-return]
        try:
            route = router.next_read()
            pool = route.pool
            connection = pool.idle.pop()
        except (IndexError, NoRoute):
            return await router.drive(lease_read(router, self))  # type: ignore[no-any-return]
        now = router.clock()
        if now - connection.used_at > FRESH_SECONDS and not pool.fit(connection, now):
            await pool.discard(connection)
            return await router.drive(lease_read(router, self))  # type: ignore[no-any-return]
        self.pool = pool
        self.route = route
        self.connection = connection
        connection.route = route.pair
        connection.used_at = now
        pool.in_flight[self] = self.until = now + self.limit
        route.count()
        return connection  # type: ignore[no-any-return]

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        pool, connection = self.pool, self.connection
        if (
            error is None
            and self.plan is None
            and not connection.pgconn.transaction_status
            and pool.keep(self, connection)
        ):
            return
        if self.plan is not None:
            note(self.router, self)
        await self.router.sheltered(end(self.router, self, error))


class AsyncWriting(Holder):
    """``async with router.write()``: a transaction on the primary."""

    __slots__ = ()

    async def at_once(self, route: Route | None, *, autocommit: bool) -> bool:
        """As :meth:`pgroute.routing.contexts.Writing.at_once`."""
        router = self.router
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
        if error is None and not connection.pgconn.transaction_status and self in pool.in_flight:
            router.wrote(self)  # it has committed by itself
            if pool.keep(self, connection):
                return
        await router.sheltered(end(router, self, error))
