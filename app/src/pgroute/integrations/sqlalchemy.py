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
* Reads share one connection, to one server, until one of them asks for what that server is not
  known to meet, or for a server-side cursor. It and all later reads use another connection then,
  to a server that has everything seen so far: a transaction's reads never go back in time.
* Each read sees what was committed when it started (a replica's connection is in autocommit, and
  in a transaction from the first server-side cursor on).
* From a session's first commit on, its reads see at least what it wrote, and never less than it
  has read before, on a replica when one is far enough. :meth:`RoutedSession.token` carries that
  on to another process, ``after=token`` takes it up there.

Execution options: ``pgroute_contract``, ``max_lag``, ``after``, ``otherwise``, ``node``, as in
``Router.read``; on a statement, on ``Session.execute``, by a listener to ``do_orm_execute``, or on
the session for all of its reads.

``operation_timeout_seconds`` counts anew from each exchange with the server: a session may go on
for hours, no statement of it may, and a connection that nobody uses for so long is cut. With
``reading(timeout=...)`` and ``transaction(timeout=...)`` the time is that of the whole.

There is one pool of connections, the router's. Errors of routing are pgroute's own, errors of the
server are SQLAlchemy's.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import Result
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.util.concurrency import await_only

from pgroute.core.lsn import Token
from pgroute.errors import ConfigurationError, UnknownContract
from pgroute.integrations.sqlalchemy_leases import (
    Given,
    Held,
    Leasing,
    Reading,
    Want,
    give_up,
    held_by,
    note_error,
    server_errors,
    until_met,
    wanted,
)
from pgroute.routing.base import Steps
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
# As many values as there are, each within what its type puts around it.
_LATE_VALUES = re.compile(r"__\[POSTCOMPILE_(\S+?)(?:~~(.*?)~~REPL~~(.*?)~~)?\]")
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
        self._base = Leasing(
            made.pool,
            made.dialect,
            made.url,
            logging_name=options.get("logging_name"),
            echo=options.get("echo"),
            query_cache_size=options.get("query_cache_size", 500),
            execution_options=options.get("execution_options"),
            hide_parameters=made.hide_parameters,
        )
        event.listen(self._base, "handle_error", note_error)
        event.listen(self._base, "before_cursor_execute", self._refuse_options)
        event.listen(made.pool, "reset", give_up)
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
            given = Given(connection)
            engine = self.leasing(given, write=True)
            with server_errors(), Session(engine, expire_on_commit=False) as session:
                value = fn(session)
                session.flush()
                given.done = True
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
    ) -> Engine:
        """An engine whose connections come from ``source``, a router or a session of one."""
        return self.getting(Want(source, write, how or {}))

    def getting(self, want: Want) -> Engine:
        """An engine whose connections are what is wanted."""
        return self._base.execution_options(pgroute_want=want)

    def may_read(self, statement: Any) -> bool:
        """Whether a replica may answer ``statement``, by its text."""
        text = self._text(statement)
        return text is not None and self.router.lane(text) is Route.REPLICA

    def remember_write(self, statement: Any) -> None:
        """Send statements of this shape to the primary: a replica refused one."""
        self.router.statements.remember_write(self._text(statement))

    def _text(self, statement: Any) -> str | None:
        """The text of all statements of a shape; None when it has none, or surely writes."""
        if statement.is_dml:
            return None
        try:
            shape = statement._generate_cache_key().key
            text = self._texts.get(shape)
            if text is None:
                compiled = str(statement.compile(dialect=self._base.dialect))
                text = _LATE_VALUES.sub(r"\2%(\1)s\3", compiled)
                if len(self._texts) >= _KNOWN_SHAPES:
                    self._texts.clear()
                self._texts[shape] = text
        except Exception:  # noqa: BLE001 - what is wrong with it is told by who executes it
            return None
        return text

    def drive(self, steps: Steps[None]) -> None:
        """Run the router's steps to their end."""
        self.router.drive(steps)

    def _refuse_options(self, connection: Connection, *details: Any) -> None:
        """Options of a read that nobody has looked at: it may be older than they allow."""
        held, options = held_by(connection), details[-2].execution_options
        if held is None or held.want.write or held.want.source is not self.router:
            return
        for name in _OPTIONS:
            if name in options:
                raise UnknownContract(
                    f"{name} is an option of a RoutedSession's statements: name the contract of a "
                    "plain engine by Engines.reading(...)"
                )

    def _create(self) -> Any:
        want = wanted.get()
        lease = want.lease()
        connection = lease.__enter__()
        connection.held = Held(want, lease, connection)
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
            given = Given(connection)
            engine = AsyncEngine(self.leasing(given, write=True))
            with server_errors():
                async with AsyncSession(engine, expire_on_commit=False) as session:
                    value = await fn(session)
                    await session.flush()
                    given.done = True
                    return value

        found: T = await self.router.transaction(attempt, **how)
        return found

    def drive(self, steps: Steps[None]) -> None:
        """Run the router's steps to their end."""
        await_only(self.router.drive(steps))

    def _create(self) -> Any:
        async def lease(*_: Any, **__: Any) -> Any:
            want = wanted.get()
            lease = want.lease()
            connection = await lease.__aenter__()
            connection.held = Held(want, lease, connection)
            if not want.write:
                await connection.set_autocommit(not want.transaction)
            return connection

        return self._base.dialect.loaded_dbapi.connect(async_creator_fn=lease)


class RoutedSession(Session):
    """A session that reads on replicas and writes on the primary; see the module.

    ``contract``: what its reads ask for where they say nothing themselves, as execution options:
    ``RoutedSession(engines=engines, contract={"max_lag": "500ms"})``, where "contract" does for
    "pgroute_contract"; UnknownContract for what is no option. ``after``: a token that all
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
        self._contract = _contract_of(contract or {})
        self._writing = engines.leasing(self._marks, write=True)
        self._readings: list[Reading] = []  # the transaction's, the newest last
        self._on_primary = False

    def token(self) -> Token | None:
        """A token for all that the session has written and read, None before the first of it."""
        token: Token | None = self._marks.token()
        return token

    def _execute_internal(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """Goes through :func:`_route` last: other listeners may set the options it looks at."""
        if options.get("_add_event") is None:
            options["_add_event"] = _route
        return super()._execute_internal(statement, params, **options)

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
            statement = pgroute.statement.get_execution_options()
            return self._engine_for({**statement, **pgroute.local_execution_options})
        self._on_primary = True
        return self._writing

    def _engine_for(self, given: Mapping[str, Any]) -> Engine:
        options = {**self._contract, **given}
        how = {_OPTIONS[name]: options[name] for name in _OPTIONS if name in options}
        streams = bool(options.get("stream_results") or options.get("yield_per"))
        want = Want(self._marks, False, how, streams)
        if not self._readings:
            return self._engines.getting(want)
        *earlier, newest = self._readings
        self._engines.router.fleet.want()
        if newest.goes_on(want):
            return newest.engine
        self._engines.router.saw(newest.held.lease)  # what it has shown binds the next one
        back = [reading for reading in earlier if reading.is_open_to(want)]
        if back and want.waits and not any(reading.meets(want) for reading in back):
            self._engines.drive(until_met(newest.held.lease, want))
        for reading in back:
            if reading.meets(want):
                self._readings.remove(reading)
                self._readings.append(reading)
                return reading.engine
        return self._engines.getting(want)


def _contract_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """A session's contract by the names of options. A misspelt one would be none at all."""
    found = {"pgroute_contract" if name == "contract" else name: given[name] for name in given}
    if unknown := sorted(found.keys() - _OPTIONS.keys()):
        known = ", ".join(_OPTIONS)
        raise UnknownContract(f"{unknown[0]} is no part of a contract: it may have {known}")
    return found


class AsyncRoutedSession(AsyncSession):
    """SQLAlchemy's AsyncSession over a :class:`RoutedSession`."""

    sync_session_class = RoutedSession

    async def token(self) -> Token | None:
        """As :meth:`RoutedSession.token`."""
        marks: Any = cast(RoutedSession, self.sync_session)._marks
        token: Token | None = await marks.token()
        return token


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


@event.listens_for(RoutedSession, "after_begin")
def _follow(session: Session, _: SessionTransaction, connection: Connection) -> None:
    """Later reads stay where this one has found a connection."""
    held = held_by(connection)
    if isinstance(session, RoutedSession) and held is not None:
        want = held.want
        if want.source is session._marks and not want.write:
            newest = session._readings[-1] if session._readings else None
            if newest is None or newest.engine is not connection.engine:
                session._readings.append(Reading(connection.engine, held))


@event.listens_for(RoutedSession, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    """The next transaction chooses its servers anew."""
    if transaction.parent is None and isinstance(session, RoutedSession):
        session._on_primary = False
        session._readings.clear()
