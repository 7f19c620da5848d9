"""SQLAlchemy 2 over a router: engines and sessions with pgroute's contracts.

::

    engines = Engines(router)                       # AsyncEngines(async_router): the same names
    Session = engines.sessionmaker()

    with Session.begin() as session:
        session.add(User(name="Ada"))               # flushed and committed on the primary
    with Session() as session:
        session.scalars(select(User))               # a replica
        session.scalars(select(User).execution_options(max_lag="500ms"))
        session.scalars(select(User), execution_options={"pgroute_contract": "strong"})

Where a session's statements go:

* Flushes, and whatever is not known to be a read, go to the primary; so does everything after
  that until the transaction ends, which thus sees what it wrote.
* Reads of one contract share one connection, to one server, until the transaction ends. Each of
  them sees what was committed when it started (a replica's connection is in autocommit, and in a
  transaction only for server-side cursors).
* From a session's first commit on, its reads see at least what it wrote, and never less than it
  has read before, on a replica when one is far enough. :meth:`RoutedSession.token` carries that
  on to another process, ``after=token`` takes it up there.

Execution options: ``pgroute_contract``, ``max_lag``, ``after``, ``otherwise``, ``node``, as in
``Router.read``; on a statement, on ``Session.execute``, or on the session for all of its reads.

There is one pool of connections, the router's. Errors of routing are pgroute's own, errors of the
server are SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.engine import ExceptionContext, Result
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.util.concurrency import await_only, in_greenlet

from pgroute.base import Steps
from pgroute.commit import Commit
from pgroute.core.lsn import Token
from pgroute.ending import explain, resolve
from pgroute.errors import ConfigurationError, PgrouteError
from pgroute.statements import Route

T = TypeVar("T")

_OPTIONS = {
    "pgroute_contract": "contract",
    "max_lag": "max_lag",
    "after": "after",
    "otherwise": "otherwise",
    "node": "node",
}
_KNOWN_SHAPES = 2000
# What connections are made of is the router's business.
_REFUSED = {"connect_args", "creator", "async_creator", "module", "use_native_hstore"}
_REFUSED |= {"json_serializer", "json_deserializer", "native_inet_types", "client_encoding"}


class Engines:
    """A router's engines: ``write`` (the primary), ``read`` (a replica), and sessions over both.

    ``options`` go to ``sqlalchemy.create_engine``; ConfigurationError for those of a pool or a
    connection, which are the router's. Opening and closing the router is its owner's business.
    """

    _drivername = "postgresql+pgroute"

    def __init__(self, router: Any, **options: Any) -> None:
        for name in options:
            if name in _REFUSED or name.startswith("pool"):
                raise ConfigurationError(f"{name}: connections are made and kept by the router")
        self.router = router
        self._texts: dict[Any, str] = {}
        made = create_engine(
            f"{self._drivername}://",
            creator=self._create,
            poolclass=NullPool,
            use_native_hstore=False,
            **options,
        )
        self._base = _Leasing(
            made.pool,
            made.dialect,
            made.url,
            logging_name=options.get("logging_name"),
            echo=options.get("echo"),
            query_cache_size=options.get("query_cache_size", 500),
            execution_options=options.get("execution_options"),
            hide_parameters=made.hide_parameters,
        )
        event.listen(self._base, "handle_error", _note_error)
        self.sync_write = self.leasing(router, write=True)
        self.sync_read = self.leasing(router)

    @property
    def write(self) -> Any:
        """The engine of the primary."""
        return self.sync_write

    @property
    def read(self) -> Any:
        """The engine of any healthy replica."""
        return self.sync_read

    def reading(self, contract: Any = "eventual", **how: Any) -> Any:
        """The engine of servers that meet a contract: arguments as of ``Router.read``."""
        return self.leasing(self.router, how={"contract": contract, **how})

    def sessionmaker(self, **options: Any) -> sessionmaker[RoutedSession]:
        """Makes :class:`RoutedSession`; ``options`` as of ``sqlalchemy.orm.sessionmaker``."""
        return sessionmaker(class_=RoutedSession, engines=self, **options)

    def transaction(self, fn: Callable[[Session], T], **how: Any) -> T:
        """``fn(session)`` in a transaction on the primary; its value, flushed before the COMMIT.

        Retried as a whole when that is safe, with a new session each time; a COMMIT in doubt is
        resolved, or CommitUnknown. ``how``: as of ``Router.transaction``. ``fn`` must not commit.
        """

        def attempt(connection: Any) -> T:
            engine = self.leasing(_Given(connection), write=True)
            with _server_errors(), Session(engine, expire_on_commit=False) as session:
                value = fn(session)
                session.flush()
                return value

        found: T = self.router.transaction(attempt, **how)
        return found

    # For sessions

    def leasing(
        self,
        source: Any,
        *,
        write: bool = False,
        how: Mapping[str, Any] | None = None,
        transaction: bool = False,
    ) -> Engine:
        """An engine whose connections come from ``source``, a router or a session of one."""
        want = _Want(source, write, how or {}, transaction)
        return self._base.execution_options(pgroute_want=want)

    def may_read(self, statement: Any) -> bool:
        """Whether a replica may answer ``statement``, by its text."""
        return bool(self.router.lane(self._text(statement)) is Route.REPLICA)

    def remember_write(self, statement: Any) -> None:
        """Send statements of this shape to the primary: a replica refused one."""
        self.router.statements.remember_write(self._text(statement))

    def _text(self, statement: Any) -> str:
        """The text of a statement as psycopg gets it, the first one of its shape."""
        shape = statement._generate_cache_key()
        text = None if shape is None else self._texts.get(shape.key)
        if text is None:
            options = {"render_postcompile": True}
            text = str(statement.compile(dialect=self._base.dialect, compile_kwargs=options))
            if shape is not None:
                if len(self._texts) >= _KNOWN_SHAPES:
                    self._texts.clear()
                self._texts[shape.key] = text
        return text

    def _create(self) -> Any:
        want = _wanted.get()
        lease = want.lease()
        connection = lease.__enter__()
        connection.held = _Held(want, lease, connection)
        if not want.write:
            connection.autocommit = not want.transaction
        return connection


class AsyncEngines(Engines):
    """The same over an AsyncRouter: ``write`` and ``read`` are AsyncEngines."""

    _drivername = "postgresql+pgroute_async"

    @property
    def write(self) -> AsyncEngine:
        """The engine of the primary."""
        return AsyncEngine(self.sync_write)

    @property
    def read(self) -> AsyncEngine:
        """The engine of any healthy replica."""
        return AsyncEngine(self.sync_read)

    def reading(self, contract: Any = "eventual", **how: Any) -> AsyncEngine:
        """The engine of servers that meet a contract: arguments as of ``AsyncRouter.read``."""
        return AsyncEngine(super().reading(contract, **how))

    def sessionmaker(  # type: ignore[override]
        self, **options: Any
    ) -> async_sessionmaker[AsyncRoutedSession]:
        """Makes :class:`AsyncRoutedSession`; ``options`` as of ``async_sessionmaker``."""
        return async_sessionmaker(class_=AsyncRoutedSession, engines=self, **options)

    async def transaction(  # type: ignore[override]
        self, fn: Callable[[AsyncSession], Awaitable[T]], **how: Any
    ) -> T:
        """As :meth:`Engines.transaction`, for a coroutine function of an AsyncSession."""

        async def attempt(connection: Any) -> T:
            engine = AsyncEngine(self.leasing(_Given(connection), write=True))
            with _server_errors():
                async with AsyncSession(engine, expire_on_commit=False) as session:
                    value = await fn(session)
                    await session.flush()
                    return value

        found: T = await self.router.transaction(attempt, **how)
        return found

    def _create(self) -> Any:
        async def lease(*_: Any, **__: Any) -> Any:
            want = _wanted.get()
            lease = want.lease()
            connection = await lease.__aenter__()
            connection.held = _Held(want, lease, connection)
            if not want.write:
                await connection.set_autocommit(not want.transaction)
            return connection

        return self._base.dialect.loaded_dbapi.connect(async_creator_fn=lease)


class RoutedSession(Session):
    """A session that reads on replicas and writes on the primary; see the module.

    ``contract``: what its reads ask for where they say nothing themselves, as execution options:
    ``RoutedSession(engines=engines, contract={"max_lag": "500ms"})``. ``after``: a token that all
    of its reads must see, such as another session's :meth:`token`.
    """

    def __init__(
        self,
        *arguments: Any,
        engines: Engines,
        contract: Mapping[str, Any] | None = None,
        after: Token | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._engines = engines
        self._marks = engines.router.session(after=after)
        self._contract = dict(contract or {})
        self._writing = engines.leasing(self._marks, write=True)
        self._reading: dict[Any, Engine] = {}
        self._on_primary = False

    def token(self) -> Token | None:
        """A token for all that the session has written and read, None before the first of it."""
        token: Token | None = self._marks.token()
        return token

    def get_bind(
        self,
        mapper: Any = None,
        *,
        clause: Any = None,
        bind: Any = None,
        pgroute: ORMExecuteState | None = None,
        **others: Any,
    ) -> Any:
        """The engine that a statement goes to. Called after the session's autoflush."""
        if bind is not None:
            return bind
        own = self._on_primary or self._flushing
        if not own and pgroute is not None and self._engines.may_read(pgroute.statement):
            return self._engine_for(pgroute.execution_options)
        self._on_primary = True
        return self._writing

    def _engine_for(self, given: Mapping[str, Any]) -> Engine:
        options = {**self._contract, **given}
        how = {_OPTIONS[name]: options[name] for name in _OPTIONS if name in options}
        transaction = bool(options.get("stream_results") or options.get("yield_per"))
        # By identity: comparing tokens may mean waiting for them.
        key = (transaction, *((name, id(value)) for name, value in how.items()))
        engine = self._reading.get(key)
        if engine is None:
            engine = self._engines.leasing(self._marks, how=how, transaction=transaction)
            self._reading[key] = engine
        return engine


class AsyncRoutedSession(AsyncSession):
    """SQLAlchemy's AsyncSession over a :class:`RoutedSession`."""

    sync_session_class = RoutedSession

    async def token(self) -> Token | None:
        """As :meth:`RoutedSession.token`."""
        marks: Any = cast(RoutedSession, self.sync_session)._marks
        token: Token | None = await marks.token()
        return token


@event.listens_for(RoutedSession, "do_orm_execute")
def _route(state: ORMExecuteState) -> Result[Any] | None:
    """Let get_bind see the statement; run it again on the primary when a replica refuses it."""
    session = state.session
    if not isinstance(session, RoutedSession) or "bind" in state.bind_arguments:
        return None
    state.bind_arguments["pgroute"] = state
    try:
        return state.invoke_statement()
    except DBAPIError as error:
        if session._on_primary or not isinstance(error.orig, ReadOnlySqlTransaction):
            raise
        session._engines.remember_write(state.statement)
        session._on_primary = True
        return state.invoke_statement()


@event.listens_for(RoutedSession, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    """The next transaction chooses its servers anew."""
    if transaction.parent is None and isinstance(session, RoutedSession):
        session._on_primary = False
        session._reading.clear()


# Leases under SQLAlchemy


@dataclass(frozen=True, slots=True)
class _Want:
    """The connection that an engine is to lease: from a router or from a session of one."""

    source: Any
    write: bool
    how: Mapping[str, Any] = field(default_factory=dict)
    transaction: bool = False

    def lease(self) -> Any:
        """The router's context manager."""
        return self.source.write(**self.how) if self.write else self.source.read(**self.how)


class _Given:
    """In the place of a router: hands out a connection whose transaction is somebody else's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

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
def _server_errors() -> Iterator[None]:
    """The server's own errors instead of SQLAlchemy's, for the router to decide on."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise


_wanted: ContextVar[_Want] = ContextVar("pgroute_wanted")


class _Leasing(Engine):
    """An engine whose option ``pgroute_want`` says what its connections are."""

    def raw_connection(self) -> Any:
        token = _wanted.set(self.get_execution_options()["pgroute_want"])
        try:
            return super().raw_connection()
        finally:
            _wanted.reset(token)


class _LeasingOption(_Leasing, OptionEngine):
    """The same with more options."""


_Leasing._option_cls = _LeasingOption


class _Held:
    """A lease under a DBAPI connection: kept on psycopg's connection while SQLAlchemy has it."""

    __slots__ = ("error", "kept", "lease", "want")

    def __init__(self, want: _Want, lease: Any, connection: Any) -> None:
        self.want = want
        self.lease = lease
        self.error: BaseException | None = None
        self.kept = (
            connection.autocommit,
            connection.isolation_level,
            connection.read_only,
            connection.deferrable,
        )

    @property
    def in_autocommit(self) -> bool:
        return not self.want.write and not self.want.transaction

    @property
    def is_given(self) -> bool:
        """Whether the transaction, and so its end, belongs to somebody else."""
        return isinstance(self.want.source, _Given)


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
        held = _held(dbapi_connection)
        if held is None or not held.is_given:
            super().do_rollback(dbapi_connection)

    def do_commit(self, dbapi_connection: Any) -> None:
        held = _held(dbapi_connection)
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

    def _end(self, driver: Any, held: _Held) -> None:
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
        error = held.error
        with suppress(psycopg.Error, PgrouteError):
            held.lease.__exit__(type(error) if error else None, error, None)


class _AsyncDialect(_Dialect, _AsyncPsycopg):  # type: ignore[misc]
    """The same for asyncio."""

    supports_statement_cache = True

    def _commit(self, lease: Any) -> None:
        await_only(lease.router.drive(_commit(lease)))

    def do_terminate(self, dbapi_connection: Any) -> None:
        if in_greenlet():
            self.do_close(dbapi_connection)
        else:  # left behind and found by the garbage collector: nobody can wait any more
            self.get_driver_connection(dbapi_connection).cut()

    def _end(self, driver: Any, held: _Held) -> None:
        if held.is_given:
            return
        await_only(self._end_async(driver, held))

    async def _end_async(self, driver: Any, held: _Held) -> None:
        with suppress(psycopg.Error, PgrouteError):
            if not driver.closed:
                await driver.rollback()
                autocommit, isolation_level, read_only, deferrable = held.kept
                await driver.set_autocommit(autocommit)
                await driver.set_isolation_level(isolation_level)
                await driver.set_read_only(read_only)
                await driver.set_deferrable(deferrable)
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


def _driver(connection: Any) -> Any:
    """psycopg's connection under whatever SQLAlchemy has put over it."""
    proxied = connection.connection if isinstance(connection, Connection) else connection
    return getattr(proxied, "driver_connection", proxied)


def _held(connection: Any) -> _Held | None:
    held: _Held | None = getattr(_driver(connection), "held", None)
    return held


def _in_autocommit(connection: Any) -> bool:
    held = _held(connection)
    return held is not None and held.in_autocommit


def _note_error(context: ExceptionContext) -> None:
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
