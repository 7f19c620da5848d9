"""What ``with router.read()`` and ``with router.write()`` hold, for threads."""

from __future__ import annotations

from pgroute.base import Holder
from pgroute.connections import NodeConnection
from pgroute.ending import end
from pgroute.lease import FRESH_SECONDS
from pgroute.leasing import lease_primary, lease_read
from pgroute.observer import Reason
from pgroute.routes import NoRoute
from pgroute.running import note


class Reading(Holder):
    """``with router.read()``: any healthy replica, without thinking when there is one."""

    __slots__ = ()

    def __enter__(self) -> NodeConnection:
        router = self.router
        try:
            route = router.next_read()
            pool = route.pool
            connection = pool.idle.pop()
        except (IndexError, NoRoute):
            return self._enter_slowly()
        now = router.clock()
        if now - connection.used_at > FRESH_SECONDS and not pool.fit(connection, now):
            pool.discard(connection)
            return self._enter_slowly()
        self.pool = pool
        self.route = route
        self.connection = connection
        connection.route = route.pair
        pool.in_flight[self] = self.until = now + self.limit
        route.count()
        return connection  # type: ignore[no-any-return]

    def _enter_slowly(self) -> NodeConnection:
        return self.router.drive(lease_read(self.router, self))  # type: ignore[no-any-return]

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        pool, connection = self.pool, self.connection
        if (
            error is None
            and not connection.pgconn.transaction_status
            and pool.keep(self, connection)
        ):
            return
        self.router.drive(end(self.router, self, error))


class PlannedReading(Holder):
    """``with router.read(...)``: whatever meets the contract."""

    __slots__ = ()

    def __enter__(self) -> NodeConnection:
        return self.router.drive(lease_read(self.router, self))  # type: ignore[no-any-return]

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        note(self.router, self)  # also of a block that failed: it may have seen something
        self.router.drive(end(self.router, self, error))


class Writing(Holder):
    """``with router.write()``: a transaction on the primary."""

    __slots__ = ()

    def __enter__(self) -> NodeConnection:
        steps = lease_primary(self.router, self, read_only=False, reason=Reason.WRITE)
        return self.router.drive(steps)  # type: ignore[no-any-return]

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.router.drive(end(self.router, self, error))
