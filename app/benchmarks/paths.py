"""The ways to read or write one row that are timed against each other.

A path is opened once and then called thousands of times; all it does per call is what a user
would write. Each reads or writes the same row of the same table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import sqlalchemy
from hasql.driver.asyncpg import PoolManager as HasqlAsyncpg
from hasql.driver.psycopg3 import PoolManager as HasqlPsycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from benchmarks.peers import hasql_dsn
from benchmarks.proxies import Proxy
from pgroute import AsyncRouter, Router, Settings
from pgroute.observing.metrics import RouterMetrics
from tests.servers import eventually, whole

SELECT = "select first_name from tbl_users where id = %s"
INSERT = "insert into tbl_users values (%s, %s)"
NAME = "measured"

RAW = "raw psycopg"
RAW_IN_TURN = "raw psycopg, two replicas in turn"
RAW_ASYNC = "raw psycopg, async"
RAW_INSERT = "raw psycopg, one statement"
RAW_WRITE = "raw psycopg, transaction"
RAW_INSERT_ASYNC = "raw psycopg, one statement, async"
RAW_WRITE_ASYNC = "raw psycopg, transaction, async"
_RAW_ASYNCPG = "raw asyncpg"
_REPLICA = 1  # the second server of the settings


@dataclass(frozen=True)
class Path:
    """One way. ``call`` is given a key; what it gives back is awaited when ``is_async``."""

    name: str
    baseline: str
    call: Callable[[UUID], Any]
    is_async: bool = False


def one_replica(settings: Settings) -> Settings:
    """The primary and the replica that the raw connection leads to, for the timed routers.

    Two replicas in turn are slower than one, with or without a router; that is timed apart.
    """
    nodes = settings.nodes.split(",")
    return Settings.make(**settings.model_dump() | {"nodes": ",".join(nodes[: _REPLICA + 1])})


def conninfo(settings: Settings, *, user: str, server: int = _REPLICA) -> str:
    """A libpq string to one server with the session settings that the router's connections have:
    a statement that may time out costs the server a timer."""
    parameters = settings.connection(
        settings.members[server], user=user, read_only=user == settings.reader
    )
    return make_conninfo(**parameters)


def through(proxy: Proxy, settings: Settings) -> str:
    """A libpq string to a proxy, which takes no session settings."""
    return make_conninfo(
        host=settings.members[0].host,
        port=proxy.port,
        user=settings.reader,
        dbname=settings.database_name,
        passfile=str(settings.passfile),
    )


def prepared(connection: psycopg.Connection[Any]) -> Callable[[UUID], Any]:
    """Read over this connection with a prepared statement."""
    execute = connection.execute

    def read(key: UUID) -> Any:
        return execute(SELECT, (key,), prepare=True).fetchone()

    return read


def sync_reads(settings: Settings, proxies: Sequence[Proxy], stack: ExitStack) -> list[Path]:
    """Reads without an event loop."""
    where = conninfo(settings, user=settings.reader)
    paths = [Path(RAW, RAW, prepared(_connect(where, stack)))]
    paths.append(Path("raw psycopg, one cursor for all", RAW, _one_cursor(where, stack)))
    paths += _two_in_turn(settings, stack)
    paths += _pgroute_reads(settings, stack)
    paths += _psycopg_pool(where, stack)
    paths += _sqlalchemy(where, stack)
    for proxy in proxies:
        paths.append(Path(proxy.name, RAW, prepared(_connect(through(proxy, settings), stack))))
    return paths


def _one_cursor(where: str, stack: ExitStack) -> Callable[[UUID], Any]:
    """What a new cursor for each statement costs: psycopg's own ``execute`` makes one."""
    execute = _connect(where, stack).cursor().execute
    return lambda key: execute(SELECT, (key,), prepare=True).fetchone()


def _connect(where: str, stack: ExitStack) -> psycopg.Connection[Any]:
    return stack.enter_context(psycopg.connect(where, autocommit=True))


def _two_in_turn(settings: Settings, stack: ExitStack) -> list[Path]:
    """What it costs the servers alone when two of them answer in turn."""
    reads = [
        prepared(_connect(conninfo(settings, user=settings.reader, server=at), stack))
        for at in (1, 2)
    ]

    def read(key: UUID) -> Any:
        reads.reverse()
        return reads[0](key)

    return [Path(RAW_IN_TURN, RAW, read)]


def _pgroute_reads(settings: Settings, stack: ExitStack) -> list[Path]:
    one, all_three = one_replica(settings), settings
    router, spread = (
        stack.enter_context(Router(each, observer=metrics(each))) for each in (one, all_three)
    )
    eventually(lambda: len(router.topology.replicas) == 1, what="a healthy replica")
    eventually(lambda: whole(spread), what="a primary and two healthy replicas")
    token = router.settle(router.token())

    def read(key: UUID) -> Any:
        with router.read() as connection:
            return connection.execute(SELECT, (key,)).fetchone()

    def read_spread(key: UUID) -> Any:
        with spread.read() as connection:
            return connection.execute(SELECT, (key,)).fetchone()

    def read_after(key: UUID) -> Any:
        with router.read(after=token) as connection:
            return connection.execute(SELECT, (key,)).fetchone()

    def execute(key: UUID) -> Any:
        return router.execute(SELECT, (key,)).one()

    def execute_after(key: UUID) -> Any:
        return router.execute(SELECT, (key,), after=token).one()

    session = router.session(after=token)

    def in_session(key: UUID) -> Any:
        with session.read() as connection:
            return connection.execute(SELECT, (key,)).fetchone()

    return [
        Path("pgroute read()", RAW, read),
        Path("pgroute read(), two replicas in turn", RAW_IN_TURN, read_spread),
        Path("pgroute read(after=token)", RAW, read_after),
        Path("pgroute read() in a session", RAW, in_session),
        Path("pgroute execute()", RAW, execute),
        Path("pgroute execute(after=token)", RAW, execute_after),
    ]


def metrics(settings: Settings) -> RouterMetrics:
    """Metrics as the service has them."""
    return RouterMetrics(tuple(node.name for node in settings.members))


def _psycopg_pool(where: str, stack: ExitStack) -> list[Path]:
    pool, checked = (
        stack.enter_context(
            ConnectionPool(
                where, min_size=1, max_size=4, kwargs={"autocommit": True}, check=check, open=True
            )
        )
        for check in (None, ConnectionPool.check_connection)
    )

    def get_and_put(key: UUID) -> Any:
        connection = pool.getconn()
        try:
            return connection.execute(SELECT, (key,)).fetchone()
        finally:
            pool.putconn(connection)

    def in_block(key: UUID) -> Any:
        with pool.connection() as connection:
            return connection.execute(SELECT, (key,)).fetchone()

    def in_checked_block(key: UUID) -> Any:
        with checked.connection() as connection:
            return connection.execute(SELECT, (key,)).fetchone()

    return [
        Path("psycopg_pool getconn/putconn", RAW, get_and_put),
        Path("psycopg_pool with connection()", RAW, in_block),
        Path("psycopg_pool, check on checkout", RAW, in_checked_block),
    ]


def _sqlalchemy(where: str, stack: ExitStack) -> list[Path]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(where),
        isolation_level="AUTOCOMMIT",
    )
    stack.callback(engine.dispose)
    statement = sqlalchemy.text("select first_name from tbl_users where id = :id")

    def read(key: UUID) -> Any:
        with engine.connect() as connection:
            return connection.execute(statement, {"id": key}).fetchone()

    return [Path("SQLAlchemy Core, connect per query", RAW, read)]


async def async_reads(settings: Settings, stack: AsyncExitStack) -> list[Path]:
    """Reads in an event loop."""
    where = conninfo(settings, user=settings.reader)
    connection = await psycopg.AsyncConnection.connect(where, autocommit=True)
    await stack.enter_async_context(connection)

    async def raw(key: UUID) -> Any:
        cursor = await connection.execute(SELECT, (key,), prepare=True)
        return await cursor.fetchone()

    pool = AsyncConnectionPool(
        where, min_size=1, max_size=4, kwargs={"autocommit": True}, open=False
    )
    await stack.enter_async_context(pool)

    async def in_block(key: UUID) -> Any:
        async with pool.connection() as pooled:
            return await (await pooled.execute(SELECT, (key,))).fetchone()

    return [
        Path(RAW_ASYNC, RAW_ASYNC, raw, is_async=True),
        *await _pgroute_async(settings, stack),
        Path("psycopg_pool with connection(), async", RAW_ASYNC, in_block, is_async=True),
        *await _hasql(settings, stack),
    ]


async def _pgroute_async(settings: Settings, stack: AsyncExitStack) -> list[Path]:
    settings = one_replica(settings)
    router = await stack.enter_async_context(AsyncRouter(settings, observer=metrics(settings)))
    token = await router.settle(router.token())

    async def read(key: UUID) -> Any:
        async with router.read() as connection:
            return await (await connection.execute(SELECT, (key,))).fetchone()

    async def read_after(key: UUID) -> Any:
        async with router.read(after=token) as connection:
            return await (await connection.execute(SELECT, (key,))).fetchone()

    async def execute(key: UUID) -> Any:
        return (await router.execute(SELECT, (key,))).one()

    async def execute_after(key: UUID) -> Any:
        return (await router.execute(SELECT, (key,), after=token)).one()

    session = router.session(after=token)

    async def in_session(key: UUID) -> Any:
        async with session.read() as connection:
            return await (await connection.execute(SELECT, (key,))).fetchone()

    return [
        Path("pgroute read(), async", RAW_ASYNC, read, is_async=True),
        Path("pgroute read(after=token), async", RAW_ASYNC, read_after, is_async=True),
        Path("pgroute read() in a session, async", RAW_ASYNC, in_session, is_async=True),
        Path("pgroute execute(), async", RAW_ASYNC, execute, is_async=True),
        Path("pgroute execute(after=token), async", RAW_ASYNC, execute_after, is_async=True),
    ]


async def _hasql(settings: Settings, stack: AsyncExitStack) -> list[Path]:
    dsn = hasql_dsn(settings, settings.reader)
    parameters = settings.connection(
        settings.members[_REPLICA], user=settings.reader, read_only=True
    )
    same = {name: parameters[name] for name in ("options", "passfile", "connect_timeout")}
    options = {**same, "autocommit": True}
    on_psycopg = await stack.enter_async_context(
        HasqlPsycopg(dsn, pool_factory_kwargs={"kwargs": options})  # type: ignore[no-untyped-call]
    )
    session = settings.session(read_only=True)
    asyncpg_options = {"passfile": str(settings.passfile), "server_settings": session}
    on_asyncpg = await stack.enter_async_context(
        HasqlAsyncpg(dsn, pool_factory_kwargs=asyncpg_options)  # type: ignore[no-untyped-call]
    )
    node = settings.members[_REPLICA]
    raw = await asyncpg.connect(
        host=node.host,
        port=node.port,
        user=settings.reader,
        database=settings.database_name,
        **asyncpg_options,
    )
    stack.push_async_callback(raw.close)
    select = SELECT.replace("%s", "$1")

    async def read_psycopg(key: UUID) -> Any:
        async with on_psycopg.acquire_replica() as connection:
            return await (await connection.execute(SELECT, (key,))).fetchone()

    async def read_asyncpg(key: UUID) -> Any:
        async with on_asyncpg.acquire_replica() as connection:
            return await connection.fetchrow(select, key)

    async def read_raw(key: UUID) -> Any:
        return await raw.fetchrow(select, key)

    return [
        Path("hasql 0.10 on psycopg", RAW_ASYNC, read_psycopg, is_async=True),
        Path(_RAW_ASYNCPG, RAW_ASYNC, read_raw, is_async=True),
        Path("hasql 0.10 on asyncpg", RAW_ASYNC, read_asyncpg, is_async=True),
    ]


def writes(settings: Settings, stack: ExitStack) -> list[Path]:
    """One inserted row: by a statement that commits by itself, and by one in a transaction."""
    where = conninfo(settings, user=settings.writer, server=0)
    single = stack.enter_context(psycopg.connect(where, autocommit=True))
    connection = stack.enter_context(psycopg.connect(where))
    pool = stack.enter_context(ConnectionPool(where, min_size=1, max_size=4, open=True))
    one, two = (stack.enter_context(Router(settings, observer=metrics(settings))) for _ in range(2))

    def raw_statement(key: UUID) -> None:
        single.execute(INSERT, (key, NAME), prepare=True)

    cursor = stack.enter_context(psycopg.connect(where, autocommit=True)).cursor()

    def one_cursor(key: UUID) -> None:
        cursor.execute(INSERT, (key, NAME), prepare=True)

    def statement(key: UUID) -> None:
        one.execute(INSERT, (key, NAME))

    def statement_with_token(key: UUID) -> object:
        one.execute(INSERT, (key, NAME))
        return one.token()

    def raw(key: UUID) -> None:
        connection.execute(INSERT, (key, NAME), prepare=True)
        connection.commit()

    def pooled(key: UUID) -> None:
        with pool.connection() as taken:
            taken.execute(INSERT, (key, NAME))

    def routed(key: UUID) -> None:
        with two.write() as taken:
            taken.execute(INSERT, (key, NAME))

    def with_token(key: UUID) -> object:
        with two.write() as taken:
            taken.execute(INSERT, (key, NAME))
        return two.token()

    return [
        Path(RAW_INSERT, RAW_INSERT, raw_statement),
        Path("raw psycopg, one cursor for all", RAW_INSERT, one_cursor),
        Path("pgroute execute()", RAW_INSERT, statement),
        Path("pgroute execute() and token()", RAW_INSERT, statement_with_token),
        Path(RAW_WRITE, RAW_WRITE, raw),
        Path("psycopg_pool with connection()", RAW_WRITE, pooled),
        Path("pgroute write()", RAW_WRITE, routed),
        Path("pgroute write() and token()", RAW_WRITE, with_token),
    ]


async def async_writes(settings: Settings, stack: AsyncExitStack) -> list[Path]:
    """As :func:`writes`, in an event loop."""
    where = conninfo(settings, user=settings.writer, server=0)
    return [
        *await _raw_async_writes(where, stack),
        *await _pooled_async_writes(where, stack),
        *await _pgroute_async_writes(settings, stack),
    ]


async def _raw_async_writes(where: str, stack: AsyncExitStack) -> list[Path]:
    connect = psycopg.AsyncConnection.connect
    single = await stack.enter_async_context(await connect(where, autocommit=True))
    connection = await stack.enter_async_context(await connect(where))
    cursor = (await stack.enter_async_context(await connect(where, autocommit=True))).cursor()

    async def statement(key: UUID) -> None:
        await single.execute(INSERT, (key, NAME), prepare=True)

    async def one_cursor(key: UUID) -> None:
        await cursor.execute(INSERT, (key, NAME), prepare=True)

    async def transaction(key: UUID) -> None:
        await connection.execute(INSERT, (key, NAME), prepare=True)
        await connection.commit()

    name = "raw psycopg, one cursor for all, async"
    return [
        Path(RAW_INSERT_ASYNC, RAW_INSERT_ASYNC, statement, is_async=True),
        Path(name, RAW_INSERT_ASYNC, one_cursor, is_async=True),
        Path(RAW_WRITE_ASYNC, RAW_WRITE_ASYNC, transaction, is_async=True),
    ]


async def _pooled_async_writes(where: str, stack: AsyncExitStack) -> list[Path]:
    pool = AsyncConnectionPool(where, min_size=1, max_size=4, open=False)
    await stack.enter_async_context(pool)

    async def pooled(key: UUID) -> None:
        async with pool.connection() as taken:
            await taken.execute(INSERT, (key, NAME))

    name = "psycopg_pool with connection(), async"
    return [Path(name, RAW_WRITE_ASYNC, pooled, is_async=True)]


async def _pgroute_async_writes(settings: Settings, stack: AsyncExitStack) -> list[Path]:
    one, two = [
        await stack.enter_async_context(AsyncRouter(settings, observer=metrics(settings)))
        for _ in range(2)
    ]

    async def statement(key: UUID) -> None:
        await one.execute(INSERT, (key, NAME))

    async def statement_with_token(key: UUID) -> object:
        await one.execute(INSERT, (key, NAME))
        return one.token()

    async def block(key: UUID) -> None:
        async with two.write() as taken:
            await taken.execute(INSERT, (key, NAME))

    async def block_with_token(key: UUID) -> object:
        async with two.write() as taken:
            await taken.execute(INSERT, (key, NAME))
        return two.token()

    statements = {
        "pgroute execute(), async": statement,
        "pgroute execute() and token(), async": statement_with_token,
    }
    blocks = {
        "pgroute write(), async": block,
        "pgroute write() and token(), async": block_with_token,
    }
    return [
        *(Path(name, RAW_INSERT_ASYNC, call, is_async=True) for name, call in statements.items()),
        *(Path(name, RAW_WRITE_ASYNC, call, is_async=True) for name, call in blocks.items()),
    ]


def run(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> Any:
    """Wait for something asynchronous from outside the loop."""

    async def wait() -> Any:
        return await awaitable

    return loop.run_until_complete(wait())
