"""Leases of a router under SQLAlchemy's connections: engines, dialects and the ends of leases.

SQLAlchemy's own pool is none (NullPool): to connect is to lease, to close is to give back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.pool import PoolResetState
from sqlalchemy.util.concurrency import await_only

from pgroute.core.candidates import Selection, Then, select
from pgroute.core.contracts import Contract, Otherwise
from pgroute.core.topology import Role
from pgroute.errors import PgrouteError, TokenError
from pgroute.integrations.renewing import renew_no_more, renew_with_use
from pgroute.routing.base import Steps
from pgroute.routing.commit import Commit
from pgroute.routing.ending import explain, resolve
from pgroute.routing.shelter import sheltered
from pgroute.routing.tokens import unsettled


@dataclass(frozen=True, slots=True)
class Want:
    """The connection that an engine is to lease: from a router or from a session of one."""

    source: Any
    write: bool
    how: Mapping[str, Any] = field(default_factory=dict)
    transaction: bool = False

    def lease(self) -> Any:
        """The router's context manager."""
        return self.source.write(**self.how) if self.write else self.source.read(**self.how)

    @property
    def contract(self) -> Contract:
        """What a server has to meet."""
        how = {name: value for name, value in self.how.items() if name != "node"}
        name = how.pop("contract", "eventual")
        return Contract.of(name, **{**how, "after": unsettled(how.get("after"))})

    def is_for(self, node: str) -> bool:
        """Whether it names no other server."""
        return self.how.get("node") in (None, node)

    @property
    def waits(self) -> bool:
        """Whether its lease waits for a replica that meets it."""
        return not self.is_for("") or self.contract.otherwise is not Otherwise.PRIMARY


class Given:
    """In the place of a router: hands out a connection whose transaction is somebody else's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.done = False  # the function has returned: what SQLAlchemy tidies up is to be kept

    def write(self) -> Self:
        return self

    def __enter__(self) -> Any:
        return self._connection

    def __exit__(self, *_: object) -> None:
        return

    async def __aenter__(self) -> Any:
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        return


@contextmanager
def server_errors() -> Iterator[None]:
    """The server's own errors instead of SQLAlchemy's, for the router to decide on."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise


wanted: ContextVar[Want] = ContextVar("pgroutewanted")


class Leasing(Engine):
    """An engine whose option ``pgroute_want`` says what its connections are."""

    def raw_connection(self) -> Any:
        token = wanted.set(self.get_execution_options()["pgroute_want"])
        try:
            return super().raw_connection()
        finally:
            wanted.reset(token)


class _LeasingOption(Leasing, OptionEngine):
    """The same with more options."""


Leasing._option_cls = _LeasingOption


class Held:
    """A lease under a DBAPI connection: kept on psycopg's connection while SQLAlchemy has it."""

    __slots__ = ("error", "kept", "lease", "want")

    def __init__(self, want: Want, lease: Any, connection: Any) -> None:
        self.want = want
        self.lease = lease
        self.error: BaseException | None = None
        self.kept = (
            connection.autocommit,
            connection.isolation_level,
            connection.read_only,
            connection.deferrable,
        )
        if not self.is_given and "timeout" not in want.how:
            renew_with_use(lease)

    @property
    def in_autocommit(self) -> bool:
        return not self.want.write and not self.want.transaction

    @property
    def is_given(self) -> bool:
        """Whether the transaction, and so its end, belongs to somebody else."""
        return isinstance(self.want.source, Given)


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a transaction reads."""

    engine: Engine
    held: Held

    @property
    def node(self) -> str:
        """The server."""
        return str(self.held.lease.route.node)

    def goes_on(self, want: Want) -> bool:
        """Whether the newest reading's connection does for another read, too."""
        if self.held.lease.connection.closed or not self._suits(want):
            return False
        return want.contract.is_eventual or self.meets(want)

    def is_open_to(self, want: Want) -> bool:
        """Whether one may come back with another read, once the server meets it."""
        lease = self.held.lease
        return (
            self._suits(want)
            and not lease.connection.in_transaction  # shows what it has shown first
            and lease in lease.pool.in_flight
            and lease.connection.epoch == lease.pool.epoch
        )

    def meets(self, want: Want) -> bool:
        """Whether the server is known to meet a read, and to have all that was seen."""
        lease = self.held.lease
        chosen = _select(lease, want)
        if chosen is None or lease.route.role is Role.REPLICA:
            return chosen is not None and self.node in chosen.candidates
        # A server may be the primary again, on a timeline that the connection does not know.
        known = lease.timeline == lease.router.fleet.topology.fence.timeline
        return known and self.node == chosen.primary and chosen.then is not Then.LOOK_AGAIN

    def _suits(self, want: Want) -> bool:
        streams_only_there = want.transaction and self.held.in_autocommit
        return want.is_for(self.node) and not streams_only_there


def _select(lease: Any, want: Want) -> Selection | None:
    """The servers for a read of the lease's session; None when its token is unproven."""
    router, fleet = lease.router, lease.router.fleet
    try:
        return select(
            want.contract,
            fleet.topology,
            fleet.ledger,
            now=router.clock(),
            trail=lease.plan.apart.trail,
        )
    except TokenError:  # whoever leases finds it again, and tells
        return None


def until_met(lease: Any, want: Want) -> Steps[None]:
    """Wait until a replica meets a read of the lease's session, as long as a lease would."""
    router = lease.router

    def met() -> bool:
        chosen = _select(lease, want)
        return chosen is None or any(map(want.is_for, chosen.candidates))

    router.fleet.want()
    yield router.do_wait(router.fleet.when(met), router.settings.token_timeout_seconds)


_Psycopg: Any = PGDialect_psycopg  # SQLAlchemy's dialects have no types
_AsyncPsycopg: Any = PGDialectAsync_psycopg


class _Dialect(_Psycopg):  # type: ignore[misc]
    """psycopg's dialect; closing a connection gives it back to the router."""

    supports_statement_cache = True

    def on_connect(self) -> None:
        """Nothing: the router's connections are made, and made ready, by the router."""
        return

    def do_close(self, dbapi_connection: Any) -> None:
        driver = self.get_driver_connection(dbapi_connection)
        held, driver.held = driver.held, None
        if held is not None:
            self._end(driver, held)

    def do_terminate(self, dbapi_connection: Any) -> None:
        self.do_close(dbapi_connection)

    def do_rollback(self, dbapi_connection: Any) -> None:
        held = held_by(dbapi_connection)
        if held is None or not (held.is_given and held.want.source.done):
            super().do_rollback(dbapi_connection)

    def do_commit(self, dbapi_connection: Any) -> None:
        held = held_by(dbapi_connection)
        if held is None:
            super().do_commit(dbapi_connection)
        elif held.is_given:
            raise InvalidRequestError("the transaction commits when its function has returned")
        elif held.want.write:
            self._commit(held.lease)
        else:  # nothing was changed: a replica that is gone by now must not spoil the commit
            with suppress(psycopg.Error):
                super().do_rollback(dbapi_connection)

    def _commit(self, lease: Any) -> None:
        lease.router.drive(_commit(lease))

    # A read outside of a transaction has nothing to go back to.

    def do_savepoint(self, connection: Any, name: str) -> None:
        if not _in_autocommit(connection):
            super().do_savepoint(connection, name)

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        if not _in_autocommit(connection):
            super().do_rollback_to_savepoint(connection, name)

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        if not _in_autocommit(connection):
            super().do_release_savepoint(connection, name)

    def _end(self, driver: Any, held: Held) -> None:
        if held.is_given:
            return
        with suppress(psycopg.Error, PgrouteError):  # what went wrong was raised where it did
            if not driver.closed:
                driver.rollback()
                autocommit, isolation_level, read_only, deferrable = held.kept
                driver.autocommit = autocommit
                driver.isolation_level = isolation_level
                driver.read_only = read_only
                driver.deferrable = deferrable
        renew_no_more(driver)
        error = held.error
        with suppress(psycopg.Error, PgrouteError):
            held.lease.__exit__(type(error) if error else None, error, None)


class _AsyncDialect(_Dialect, _AsyncPsycopg):  # type: ignore[misc]
    """The same for asyncio."""

    supports_statement_cache = True
    has_terminate = True  # where nobody can wait, give_up has done it by then

    def _commit(self, lease: Any) -> None:
        await_only(lease.router.drive(_commit(lease)))

    def _end(self, driver: Any, held: Held) -> None:
        if held.is_given:
            return
        await_only(sheltered(self._end_async(driver, held)))

    async def _end_async(self, driver: Any, held: Held) -> None:
        with suppress(psycopg.Error, PgrouteError):
            if not driver.closed:
                await driver.rollback()
                autocommit, isolation_level, read_only, deferrable = held.kept
                await driver.set_autocommit(autocommit)
                await driver.set_isolation_level(isolation_level)
                await driver.set_read_only(read_only)
                await driver.set_deferrable(deferrable)
        renew_no_more(driver)
        error = held.error
        with suppress(psycopg.Error, PgrouteError):
            await held.lease.__aexit__(type(error) if error else None, error, None)


registry.register("postgresql.pgroute", __name__, "_Dialect")
registry.register("postgresql.pgroute_async", __name__, "_AsyncDialect")


def _commit(lease: Any) -> Steps[None]:
    """COMMIT as the router does it: CommitUnknown when its answer is lost and nobody can say."""
    router, connection = lease.router, lease.connection
    if not connection.in_transaction:
        return
    if lease not in lease.pool.in_flight:
        error = psycopg.OperationalError("the connection was cut before the COMMIT")
        raise explain(router, lease, error, cut=True, lost=True)
    commit = Commit()
    try:
        yield router.do_commit(connection, commit)
    except psycopg.Error as error:
        if not connection.closed:
            raise
        told = explain(router, lease, error, cut=lease not in lease.pool.in_flight, lost=True)
        if not commit.sent:
            raise told from error
        yield from resolve(router, lease, commit, told)
    else:
        router.wrote(lease)  # now: whoever is told of the commit may ask for a token


def _driver(connection: Any) -> Any:
    """psycopg's connection under whatever SQLAlchemy has put over it."""
    proxied = connection.connection if isinstance(connection, Connection) else connection
    return getattr(proxied, "driver_connection", proxied)


def held_by(connection: Any) -> Held | None:
    """The lease under whatever SQLAlchemy gives for a connection."""
    held: Held | None = getattr(_driver(connection), "held", None)
    return held


def _in_autocommit(connection: Any) -> bool:
    held = held_by(connection)
    return held is not None and held.in_autocommit


def note_error(context: ExceptionContext) -> None:
    """Keep the error for the end of the lease, which tells the router; name the node.

    Of a connection that the router has cut it raises the router's error instead.
    """
    connection = context.connection
    if connection is None or connection.invalidated:
        return
    driver = _driver(connection)
    held = getattr(driver, "held", None)
    if held is None or held.is_given:
        return
    held.error = error = context.original_exception
    lease = held.lease
    if lease not in lease.pool.in_flight:
        told = explain(lease.router, lease, error, cut=True, lost=True)
        if told is not error:
            raise told from error
    note = f"pgroute: on node {driver.node}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def give_up(dbapi_connection: Any, _: object, state: PoolResetState) -> None:
    """End a lease that nobody has ended and the garbage collector has found, without waiting."""
    held = held_by(dbapi_connection)
    if state.asyncio_safe or held is None or held.is_given:
        return
    driver, lease = _driver(dbapi_connection), held.lease
    driver.held = None
    lease.pool.in_flight.pop(lease, None)
    lease.router._soon(lambda: lease.pool.discard(driver))
