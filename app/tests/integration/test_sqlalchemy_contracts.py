"""What a session's reads ask for: who may say so, and that no transaction goes back in time."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from sqlalchemy import Connection, Result, Select, String, event, select
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, ORMExecuteState, Session, mapped_column

from pgroute import Router
from pgroute.errors import TokenNotReached, TokenUnproven
from pgroute.integrations.sqlalchemy import Engines, RoutedSession
from tests.servers import NAMES as NODES
from tests.servers import Servers, eventually, whole

pytestmark = pytest.mark.integration

Sees = Callable[..., bool]
Options = dict[str, Any]
PLAIN: Options = {}
STRONG: Options = {"pgroute_contract": "strong"}
LAX: Options = {"max_lag": "1h"}
LAXER: Options = {"max_lag": "2h"}
PG3: Options = {"node": "pg3"}
CURSOR: Options = {"yield_per": 10}
ROUNDS = 6  # what is left to the turn of replicas comes up in each of them


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "tbl_users"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    first_name: Mapped[str] = mapped_column(String(255))


NAMES = select(User.first_name)


def know_ages(router: Router) -> None:
    ledger = router.fleet.ledger

    def known() -> bool:
        return None not in [ledger.staleness(name, router.clock()) for name in ("pg2", "pg3")]

    eventually(known, what="the ages of replicas are known")


@contextmanager
def routing(servers: Servers, **settings: Any) -> Iterator[Router]:
    with Router(servers.settings(**settings)) as opened:
        eventually(lambda: whole(opened), what="a whole fleet")
        eventually(lambda: opened.statements.catalog is not None, what="the catalogue is read")
        yield opened


@pytest.fixture
def router(servers: Servers) -> Iterator[Router]:
    with routing(servers) as opened:
        know_ages(opened)
        yield opened


@pytest.fixture
def engines(router: Router) -> Engines:
    return Engines(router)


@pytest.fixture
def nodes(engines: Engines) -> Iterator[list[str]]:
    """The nodes that statements ran on, in order."""
    seen: list[str] = []

    def note(connection: Any, *_: object) -> None:
        seen.append(connection.connection.driver_connection.node)

    event.listen(engines._base, "after_cursor_execute", note)
    yield seen
    event.remove(engines._base, "after_cursor_execute", note)


@pytest.fixture
def news(servers: Servers, router: Router) -> Iterator[uuid.UUID]:
    """The key of a row that pg1 and pg3 show, and pg2, which has stopped replaying, does not."""
    servers.sql("pg2", "select pg_wal_replay_pause()")
    paused = "select pg_get_wal_replay_pause_state() = 'paused'"
    try:
        eventually(lambda: servers.sql("pg2", paused) == "t", what="pg2 has stopped")
        key = uuid.uuid4()
        router.execute("insert into tbl_users values (%s, 'News')", (key,))
        ask = f"select count(*) from tbl_users where id = '{key}'"
        eventually(lambda: servers.sql("pg3", ask, database="app") == "1", what="pg3 has it")
        yield key
    finally:
        servers.sql("pg2", "select pg_wal_replay_resume()")


def seen_by(session: Session, key: uuid.UUID) -> Sees:
    def sees(options: Options = PLAIN) -> bool:
        asked = session.scalars(NAMES.where(User.id == key), execution_options=options)
        return asked.first() is not None

    return sees


@pytest.mark.parametrize(
    "turn",
    [
        (STRONG, PLAIN),
        (PG3, PLAIN),
        (PG3, LAX, PLAIN),
        (STRONG, LAX, PG3, PLAIN),
        (PG3, CURSOR, PLAIN),
        (LAX, STRONG, LAX),
        (LAXER, PG3, LAX, LAXER),
    ],
    ids=str,
)
def test_what_a_transaction_has_seen_it_sees_again(
    engines: Engines, news: uuid.UUID, turn: tuple[Options, ...]
) -> None:
    for _ in range(ROUNDS):
        with engines.sessionmaker()() as session:
            sees = seen_by(session, news)
            seen = [sees(options) for options in turn]
            assert seen == sorted(seen), seen
            assert seen[-1]


def test_after_a_token_a_plain_read_sees_as_much(
    engines: Engines, router: Router, news: uuid.UUID
) -> None:
    token = router.token()
    for _ in range(ROUNDS):
        with engines.sessionmaker()() as session:
            sees = seen_by(session, news)
            sees(LAX)
            assert [sees({"after": token}), sees(), sees(LAX)] == [True] * 3


@pytest.fixture
def stops(servers: Servers) -> Iterator[Callable[[str], None]]:
    """Stops the replay of a replica until the test ends."""
    stopped: list[str] = []

    def stop(name: str) -> None:
        stopped.append(name)
        servers.sql(name, "select pg_wal_replay_pause()")
        paused = "select pg_get_wal_replay_pause_state() = 'paused'"
        eventually(lambda: servers.sql(name, paused) == "t", what=f"{name} has stopped")

    yield stop
    for name in stopped:
        servers.sql(name, "select pg_wal_replay_resume()")


@pytest.mark.parametrize("limit", ["1s", 0])
def test_a_limit_of_lag_holds_for_each_read_of_a_transaction(
    engines: Engines,
    router: Router,
    nodes: list[str],
    stops: Callable[[str], None],
    limit: str | int,
) -> None:
    late = {"max_lag": limit}
    ledger = router.fleet.ledger
    with engines.sessionmaker()() as session:
        key = uuid.uuid4()
        sees = seen_by(session, key)

        def on_replica() -> bool:
            session.rollback()
            sees(late)
            return nodes[-1] != "pg1"

        eventually(on_replica, what="a replica is read")
        node = nodes[-1]
        stops(node)
        router.execute("insert into tbl_users values (%s, 'Later')", (key,))

        def is_late() -> bool:
            seconds = ledger.staleness(node, router.clock())
            size = ledger.lag_bytes(node, router.clock())
            return bool(seconds is not None and seconds > 1 and size)

        eventually(is_late, what=f"{node} is known to lag")
        assert sees(late)
        assert nodes[-1] != node


def test_a_read_that_names_a_server_waits_for_what_was_seen(
    servers: Servers, news: uuid.UUID
) -> None:
    with (
        routing(servers, token_timeout_seconds=1) as impatient,
        Engines(impatient).sessionmaker()() as session,
    ):
        sees = seen_by(session, news)
        assert sees(STRONG)
        with pytest.raises(TokenNotReached, match="pg2"):
            sees({"node": "pg2"})
        assert sees()  # and the transaction goes on where it was


def test_savepoints_and_flushes_leave_what_was_seen(
    engines: Engines, nodes: list[str], news: uuid.UUID
) -> None:
    for _ in range(ROUNDS):
        with engines.sessionmaker()() as session:
            sees = seen_by(session, news)
            with session.begin_nested() as savepoint:
                assert sees(PG3)
                savepoint.rollback()
            assert sees()
            with session.begin_nested():
                assert sees(LAX)
            nodes.clear()
            session.add(User(first_name="Flushed"))
            assert [sees(), sees(PG3)] == [True, True]
            assert set(nodes) == {"pg1"}
            session.rollback()
            assert sees()
            session.commit()
            assert sees(LAX)


def test_a_server_that_is_lost_has_shown_what_it_has_shown(
    expendable: Servers, engines: Engines, news: uuid.UUID
) -> None:
    with engines.sessionmaker()() as session:
        sees = seen_by(session, news)
        assert sees(PG3)
        expendable.stop("pg3")
        with pytest.raises(DBAPIError):
            sees()
        assert sees(LAX)
        assert sees()
        session.rollback()
        assert sees()


@pytest.fixture
def session(engines: Engines) -> Iterator[RoutedSession]:
    with engines.sessionmaker()() as opened:
        yield opened


@pytest.fixture
def held(session: RoutedSession) -> set[Connection]:
    """The connections of the session's transaction."""
    found: set[Connection] = set()
    event.listen(session, "after_begin", lambda _, __, connection: found.add(connection))
    return found


def test_a_strong_read_does_not_stay_on_an_old_primary(
    expendable: Servers, engines: Engines, router: Router, nodes: list[str]
) -> None:
    with engines.sessionmaker()() as session:
        sees = seen_by(session, uuid.uuid4())
        sees(STRONG)
        expendable.sql("pg2", "select pg_promote()")
        eventually(lambda: router.topology.primary == "pg2", what="pg2 is the primary")
        with pytest.raises(TokenUnproven):  # what pg1 has shown may be lost
            sees(STRONG)
    assert nodes == ["pg1"]


def test_reads_share_a_connection_until_one_asks_for_more(
    session: RoutedSession, held: set[Connection], nodes: list[str]
) -> None:
    def read(**options: Any) -> int:
        session.execute(NAMES.limit(1), execution_options=options).all()
        return len(held)

    assert [read(), read(otherwise="wait"), read(node=nodes[0])] == [1, 1, 1]
    assert [read(max_lag="1h"), read(), read(max_lag="2h")] == [1, 1, 1]
    assert [read(yield_per=5), read(), read(yield_per=5, max_lag="1h")] == [2, 2, 2]
    assert [read(**STRONG), read(max_lag="5h"), read(), read(**STRONG)] == [3, 3, 3, 3]


def test_reads_come_back_to_the_connection_of_the_server_that_they_name(
    session: RoutedSession, held: set[Connection], nodes: list[str]
) -> None:
    turn = [{"node": "pg2"}, PG3, STRONG, PLAIN] * ROUNDS
    for options in turn:
        session.execute(NAMES.limit(1), execution_options=options)
    assert nodes == ["pg2", "pg3", "pg1", "pg1"] * ROUNDS
    assert len(held) == 3


def test_reads_come_back_without_a_second_connection(servers: Servers) -> None:
    with routing(servers, pool_max_size=1) as narrow:
        know_ages(narrow)
        engines, found = Engines(narrow), list[str]()

        def note(connection: Any, *_: object) -> None:
            found.append(connection.connection.driver_connection.node)

        event.listen(engines._base, "after_cursor_execute", note)
        with engines.sessionmaker()() as session:
            turn = ["pg2", "pg3", "pg2", "pg3"]
            waits = {"max_lag": "1h", "otherwise": "wait"}
            options: list[Options] = [{"node": name} for name in turn]
            for each in [*options, waits, LAX, STRONG, PG3, STRONG, waits]:
                session.execute(NAMES.limit(1), execution_options=each)
    assert found == [*turn, "pg3", "pg3", "pg1", "pg3", "pg1", "pg1"]


def test_tokens_do_not_make_a_transaction_hold_more_connections(
    session: RoutedSession, held: set[Connection], router: Router
) -> None:
    for _ in range(ROUNDS):
        router.execute("insert into tbl_users values (gen_random_uuid(), 'Newer')")
        token = router.token()
        str(token)  # its position is known from now on
        session.execute(NAMES.limit(1), execution_options={"after": token})
    assert len(held) <= len(NODES)


@pytest.mark.parametrize("how", ["cut", "outdated"])
def test_reads_do_not_come_back_to_a_connection_that_is_lost(
    session: RoutedSession, held: set[Connection], router: Router, nodes: list[str], how: str
) -> None:
    def read(options: Options) -> None:
        session.execute(NAMES.limit(1), execution_options=options)

    read({"node": "pg2"})
    read(STRONG)
    pool = router.pools_by_key["pg2", True]
    if how == "cut":
        (lease,) = pool.overdue(float("inf"))
        lease.connection.cut()
    else:
        pool.outdate()
    read({"node": "pg2"})
    assert nodes == ["pg2", "pg1", "pg2"]
    assert len(held) == 3


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ"])
def test_reads_do_not_come_back_to_an_old_snapshot(router: Router, level: str) -> None:
    key = uuid.uuid4()
    engines = Engines(router, execution_options={"isolation_level": level})
    with engines.sessionmaker()() as session:
        sees = seen_by(session, key)
        assert not sees(PG3)
        router.execute("insert into tbl_users values (%s, 'Later')", (key,))
        assert [sees(STRONG), sees(PG3)] == [True, True]


def by_update(state: ORMExecuteState) -> None:
    state.update_execution_options(node=state.session.info["node"])


def by_statement(state: ORMExecuteState) -> None:
    statement = cast(Select[Any], state.statement)
    state.statement = statement.execution_options(node=state.session.info["node"])


def by_invoking(state: ORMExecuteState) -> Result[Any]:
    return state.invoke_statement(execution_options={"node": state.session.info["node"]})


@pytest.mark.parametrize("target", ["class", "maker", "session"])
@pytest.mark.parametrize("listener", [by_update, by_statement, by_invoking])
def test_listeners_choose_the_contract(
    engines: Engines, nodes: list[str], target: str, listener: Any
) -> None:
    sessions = engines.sessionmaker()
    turn = ["pg2", "pg2", "pg3", "pg3"]  # as no policy would
    for name in turn:
        with sessions(info={"node": name}) as session:
            heard = {"class": RoutedSession, "maker": sessions, "session": session}[target]
            event.listen(heard, "do_orm_execute", listener, retval=True)
            try:
                session.execute(NAMES.limit(1))
            finally:
                event.remove(heard, "do_orm_execute", listener)
    assert nodes == turn


def test_a_listener_with_an_answer_of_its_own_is_believed(
    engines: Engines, nodes: list[str]
) -> None:
    def from_memory(_: ORMExecuteState) -> Result[Any]:
        return IteratorResult(SimpleResultMetaData(["first_name"]), iter([("Remembered",)]))

    with engines.sessionmaker()() as session:
        event.listen(session, "do_orm_execute", from_memory, retval=True)
        assert session.scalar(NAMES.limit(1)) == "Remembered"
    assert nodes == []
