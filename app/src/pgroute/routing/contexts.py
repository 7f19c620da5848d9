"""What ``with router.read()`` and ``with router.write()`` hold, for threads."""

from __future__ import annotations

from typing import Any

from psycopg import pq

from pgroute.core.lsn import Mark, Token
from pgroute.observing.observer import Reason
from pgroute.routing.commit import Commit
from pgroute.routing.connections import NodeConnection
from pgroute.routing.ending import WELL, end, ending_failed, let_go
from pgroute.routing.holder import Holder, Plan
from pgroute.routing.leasing import give_back, lease_primary, lease_read
from pgroute.routing.routes import NoRoute, Route


class Reading(Holder):
    """``with router.read()``: any healthy replica, without thinking when there is one."""

    __slots__ = ()

    def __enter__(self) -> NodeConnection:
        router = self.router
        try:
            return router.take_read(self, router.next_read())  # type: ignore[no-any-return]
        except (IndexError, NoRoute):
            return self._enter_slowly()

    def _enter_slowly(self) -> NodeConnection:
        return self.router.drive(lease_read(self.router, self))  # type: ignore[no-any-return]

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        pool, connection = self.pool, self.connection
        connection.spare = None
        if (
            error is None
            and not connection.pgconn.transaction_status
            and pool.keep(self, connection)
        ):
            return
        self.router.drive(end(self.router, self, error))

    def leave(self) -> None:
        """End the lease of a single statement that went well."""
        pool, connection = self.pool, self.connection
        if connection.pgconn.transaction_status or not pool.keep(self, connection):
            self.router.drive(end(self.router, self, None))


class ReadingAfter(Reading):
    """``with router.read(after=...)``: the replica whose turn it is when it surely has all that the
    token stands for; else whatever :func:`lease_read` finds."""

    __slots__ = ("after",)

    def __init__(self, router: Any, limit: float, after: Token | Mark) -> None:
        super().__init__(router, limit)
        self.after = after

    def __enter__(self) -> NodeConnection:
        router = self.router
        router.fleet.want()
        try:
            route = router.proven(self.after)
            if route is not None:
                return router.take_read(self, route)  # type: ignore[no-any-return]
        except (IndexError, NoRoute):
            pass
        return self._enter_slowly()

    def _enter_slowly(self) -> NodeConnection:
        self.plan = self.again()
        return super()._enter_slowly()

    def again(self) -> Plan:
        return self.router.plan_after(self.after)  # type: ignore[no-any-return]


class PlannedReading(Reading):
    """``with router.read(...)``: whatever meets the contract."""

    __slots__ = ()

    def __enter__(self) -> NodeConnection:
        connection = self.router.take_planned(self, self.plan)
        if connection is None:
            connection = self._enter_slowly()
        return connection  # type: ignore[no-any-return]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.router.saw(self)
        super().__exit__(kind, error, trace)

    def leave(self) -> None:
        self.router.saw(self)
        super().leave()


class Writing(Holder):
    """``with router.write()``: a transaction on the primary."""

    __slots__ = ()

    def at_once(self, route: Route | None, *, autocommit: bool) -> bool:
        """Take an idle connection to the primary, without thinking when there is one."""
        router = self.router
        if self.plan is not None and not router.has_all(self.plan):
            return False
        if not router.take_at_once(self, route, autocommit=autocommit):
            return False
        # Asked once it is in the books: whoever cuts an old primary's connections has seen it.
        if router.fleet.topology.primary == self.route.node:
            return True
        router.drive(give_back(router, self))
        return False

    def __enter__(self) -> NodeConnection:
        router = self.router
        if self.at_once(router.next_write, autocommit=False):
            return self.connection  # type: ignore[no-any-return]
        steps = lease_primary(router, self, read_only=False, reason=Reason.WRITE)
        return router.drive(steps)  # type: ignore[no-any-return]

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        router, connection, pool = self.router, self.connection, self.pool
        connection.spare = None
        status = connection.pgconn.transaction_status
        if error is not None or status not in WELL:
            router.drive(end(router, self, error))
            return
        if status == pq.TransactionStatus.INTRANS:
            if self not in pool.in_flight:
                router.drive(end(router, self, error))
                return
            commit = Commit()
            try:
                connection.end(commit)
            except BaseException as failure:  # noqa: BLE001 - learnt from, then raised
                router.drive(ending_failed(router, self, commit, failure))
                return
        router.wrote(self)
        if not pool.keep(self, connection):
            router.drive(let_go(router, self))

    def leave(self) -> None:
        """End the lease of a single statement that went well."""
        router, connection, pool = self.router, self.connection, self.pool
        if not connection.pgconn.transaction_status and self in pool.in_flight:
            router.wrote(self)
            if pool.keep(self, connection):
                return
        router.drive(end(router, self, None))
