"""SQLAlchemy's engines and sessions over the router, on real servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, event, func, insert, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
    sessionmaker,
)

from pgroute import DeadlineExceeded, Router
from pgroute.core.lsn import Mark
from pgroute.errors import ContractNotMet, UnknownContract
from pgroute.integrations.sqlalchemy import Engines, RoutedSession
from pgroute.statements import Route
from tests.servers import Servers, eventually, whole

pytestmark = pytest.mark.integration

PAIRS = 3000


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "tbl_users"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    first_name: Mapped[str] = mapped_column(String(255))


class Parent(Base):
    __tablename__ = "parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    children: Mapped[list[Child]] = relationship(back_populates="parent")


class Child(Base):
    __tablename__ = "children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(ForeignKey("parents.id"))
    parent: Mapped[Parent] = relationship(back_populates="children")


NAMES = select(User.first_name)


@pytest.fixture
def router(servers: Servers) -> Iterator[Router]:
    with Router(servers.settings()) as opened:
        eventually(lambda: whole(opened), what="a whole fleet")
        eventually(lambda: opened.statements.catalog is not None, what="the catalogue is read")

        def ages_are_known() -> bool:
            ages = [opened.fleet.ledger.staleness(n, opened.clock()) for n in ("pg2", "pg3")]
            return None not in ages

        eventually(ages_are_known, what="the positions of replicas are known")
        yield opened


@pytest.fixture
def engines(router: Router) -> Engines:
    return Engines(router)


def nothing_is_held(router: Router) -> None:
    eventually(
        lambda: not any(pool.in_flight for pool in router.pools_by_key.values()),
        what="no connection is held",
    )


@pytest.fixture
def sessions(engines: Engines) -> sessionmaker[RoutedSession]:
    return engines.sessionmaker()


@pytest.fixture
def nodes(engines: Engines) -> Iterator[list[str]]:
    """The nodes that statements ran on, in order."""
    seen: list[str] = []

    def note(connection: Any, *_: object) -> None:
        seen.append(connection.connection.driver_connection.node)

    event.listen(engines.sync_read, "after_cursor_execute", note)
    event.listen(engines._base, "after_cursor_execute", note)
    yield seen
    event.remove(engines._base, "after_cursor_execute", note)


def test_engines_lead_to_the_primary_and_to_replicas(engines: Engines) -> None:
    recovering = text("select pg_is_in_recovery()")
    with engines.write.connect() as connection:
        assert connection.scalar(recovering) is False
    for engine in (engines.read, engines.reading(max_lag="10s"), engines.reading(node="pg3")):
        with engine.connect() as connection:
            assert connection.scalar(recovering) is True
    with engines.reading("strong").connect() as connection:
        assert connection.scalar(recovering) is False


@pytest.mark.parametrize(
    "options", [{"max_lag": "1s"}, {"after": None}, {"node": "pg2"}, {"pgroute_contract": "strong"}]
)
def test_options_that_a_plain_engine_would_ignore_are_refused(
    engines: Engines, options: dict[str, Any]
) -> None:
    (name,) = options
    asked = text("select 1").execution_options(**options)
    for engine in (engines.read, engines.reading(max_lag="10s")):
        with engine.connect() as connection, pytest.raises(UnknownContract, match=f"^{name} is an"):
            connection.execute(asked)
        with Session(engine) as session, pytest.raises(UnknownContract, match=r"Engines\.reading"):
            session.execute(asked)
    with engines.read.connect() as connection, pytest.raises(UnknownContract, match="is an option"):
        connection.execution_options(**options).exec_driver_sql("select 1")
    with engines.write.connect() as connection:  # has everything
        connection.execute(asked)


def test_an_engine_s_transaction_commits_or_rolls_back(engines: Engines, router: Router) -> None:
    kept, lost = uuid.uuid4(), uuid.uuid4()
    insert = text("insert into tbl_users values (:id, 'Core')")
    with engines.write.begin() as connection:
        connection.execute(insert, {"id": kept})
    with engines.write.connect() as connection:
        connection.execute(insert, {"id": lost})
    with router.read("strong") as connection:
        rows = connection.execute(
            "select id from tbl_users where id = any(%s)", ([kept, lost],)
        ).fetchall()
    assert rows == [(kept,)]


def test_an_engine_s_connection_can_commit_more_than_once(engines: Engines) -> None:
    insert = text("insert into tbl_users values (gen_random_uuid(), 'Twice')")
    with engines.write.connect() as connection:
        for _ in range(2):
            connection.execute(insert)
            connection.commit()


def test_reads_land_on_replicas(sessions: sessionmaker[RoutedSession], nodes: list[str]) -> None:
    for _ in range(20):
        with sessions() as session:
            session.execute(NAMES.limit(1))
            session.execute(text("select 1"))
            session.get(User, uuid.uuid4())
    assert set(nodes) == {"pg2", "pg3"}


def test_flushes_and_what_is_no_read_go_to_the_primary(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    statements: list[Any] = [
        NAMES.limit(1).with_for_update(),
        select(func.pg_advisory_lock_shared(17)),
        text("select set_config('application_name', 'x', true)"),
        text("delete from tbl_users where false"),
    ]
    for statement in statements:
        with sessions() as session:
            session.execute(statement)
    with sessions() as session:
        session.execute(text("select pg_advisory_unlock_all()"))
        session.connection().execute(text("select 1"))
    assert set(nodes) == {"pg1"}


def test_inserts_of_many_rows_are_written_on_the_primary(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    rows = [{"first_name": "Many"}, {"first_name": "Rows"}]
    with sessions.begin() as session:
        session.execute(insert(User), rows)
        session.execute(insert(User), rows[0])
        session.execute(postgresql.insert(User).on_conflict_do_nothing(), rows)
        returned = session.scalars(insert(User).returning(User.first_name), rows)
        assert sorted(returned) == ["Many", "Rows"]
    assert set(nodes) == {"pg1"}


@pytest.fixture
def family(servers: Servers) -> Iterator[None]:
    """A parent and its two children."""
    tables = (
        "set role app_owner; create table parents (id int primary key); create table children"
        " (id int primary key, parent_id int references parents);"
        " insert into parents values (1); insert into children values (1, 1), (2, 1)"
    )
    servers.sql("pg1", tables, database="app")
    there = "select to_regclass('children') is not null"
    try:
        for name in ("pg2", "pg3"):
            eventually(
                lambda at=name: servers.sql(at, there, database="app") == "t",
                what=f"{name} has the tables",
            )
        yield
    finally:
        servers.sql("pg1", "drop table children, parents", database="app")


@pytest.mark.parametrize("options", [{}, {"max_lag": "1h"}, {"node": "pg3"}, {"yield_per": 1}])
@pytest.mark.usefixtures("family")
def test_what_is_loaded_with_a_read_comes_from_the_same_server(
    sessions: sessionmaker[RoutedSession], nodes: list[str], options: dict[str, Any]
) -> None:
    with sessions() as session:
        down = select(Parent).options(selectinload(Parent.children))
        up = select(Child).options(selectinload(Child.parent))
        parents = session.scalars(down, execution_options=options).all()
        assert [len(one.children) for one in parents] == [2]
        session.expunge_all()
        children = session.scalars(up, execution_options=options).all()
        assert [one.parent.id for one in children] == [1, 1]
    assert len(set(nodes)) == 1
    assert nodes[0] == options.get("node", nodes[0]) != "pg1"


def test_a_transaction_sees_what_it_has_written(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    with sessions() as session:
        session.execute(NAMES.limit(1))
        user = User(first_name="Unflushed")
        session.add(user)
        mine = NAMES.where(User.first_name == "Unflushed", User.id == user.id)
        assert session.scalars(mine).all() == []  # its key is made by the flush
        assert session.scalars(NAMES.where(User.id == user.id)).all() == ["Unflushed"]
        session.rollback()
    assert nodes[0] in ("pg2", "pg3")
    assert set(nodes[1:]) == {"pg1"}


def test_reads_of_a_transaction_stay_on_one_node(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    used = set()
    for _ in range(10):
        nodes.clear()
        with sessions() as session:
            for _ in range(5):
                late = {"max_lag": "".join(["1", "0s"])}  # an equal text, not the same
                session.execute(NAMES.limit(1), execution_options=late)
            with session.begin_nested():
                session.execute(NAMES.limit(1), execution_options=late)
        assert len(nodes) == 6
        assert len(set(nodes)) == 1
        used |= set(nodes)
    assert used == {"pg2", "pg3"}


def test_a_session_never_reads_its_own_writes_stale(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    """Thousands of commits, each followed by a read that carries the token: none is stale."""

    def pairs(share: int) -> int:
        stale = 0
        for number in range(share):
            key = uuid.uuid4()
            with sessions() as session:
                session.add(User(id=key, first_name=f"Pair {number}"))
                session.commit()
                stale += session.scalar(NAMES.where(User.id == key)) is None
            with sessions(after=session.token(), contract={"otherwise": "wait"}) as later:
                stale += later.scalar(NAMES.where(User.id == key)) is None
        return stale

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(pairs, [PAIRS // 4] * 4)) == 0
    on_replicas = sum(node != "pg1" for node in nodes)
    assert on_replicas > PAIRS // 10  # it is not the primary that makes it so


def test_a_session_reads_its_writes_on_a_replica_once_one_has_them(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    with sessions() as session:
        user = User(first_name="Later")
        session.add(user)
        session.commit()
        key = user.id

        def replica_has_it() -> bool:
            assert session.scalar(NAMES.where(User.id == key)) == "Later"
            session.commit()
            return nodes[-1] != "pg1"

        eventually(replica_has_it, what="a replica has caught up")


@pytest.mark.parametrize(
    "options", [{"pgroute_contract": "strong"}, {"node": "pg1"}], ids=["strong", "named"]
)
def test_options_choose_the_contract(
    sessions: sessionmaker[RoutedSession], nodes: list[str], options: dict[str, Any]
) -> None:
    with sessions() as session:
        session.execute(NAMES.limit(1), execution_options=options)
        session.execute(NAMES.limit(1).execution_options(**options))
    with sessions(contract=options) as session:
        session.execute(NAMES.limit(1))
    assert nodes == ["pg1"] * 3


def test_a_contract_that_cannot_be_met_is_an_error(
    sessions: sessionmaker[RoutedSession], servers: Servers
) -> None:
    for name in ("pg2", "pg3"):
        servers.sql(name, "select pg_wal_replay_pause()")
    try:
        with sessions() as session:
            session.add(User(first_name="Ahead"))
            session.commit()
            with pytest.raises(ContractNotMet):
                session.execute(NAMES.limit(1), execution_options={"otherwise": "raise"})
    finally:
        for name in ("pg2", "pg3"):
            servers.sql(name, "select pg_wal_replay_resume()")
    with sessions() as session, pytest.raises(UnknownContract):
        session.execute(NAMES.limit(1), execution_options={"max_lag": "5 bananas"})


def test_a_statement_that_a_replica_refuses_runs_on_the_primary(
    sessions: sessionmaker[RoutedSession],
    engines: Engines,
    nodes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statement = text("update tbl_users set first_name = 'x' where false")
    monkeypatch.setattr(engines.router.statements, "route", lambda _: Route.REPLICA)
    remembered: list[str] = []
    monkeypatch.setattr(engines.router.statements, "remember_write", remembered.append)
    with sessions() as session:
        session.execute(statement)
        session.commit()
    assert nodes == ["pg1"]
    assert remembered == [statement.text]


def test_server_side_cursors_read_on_a_replica(
    sessions: sessionmaker[RoutedSession], nodes: list[str]
) -> None:
    with sessions() as session:
        numbers = text("select * from generate_series(1, 1000)")
        rows = session.execute(numbers, execution_options={"yield_per": 100})
        assert sum(row[0] for row in rows) == 500_500
    assert set(nodes) <= {"pg2", "pg3"}


def test_isolation_of_an_engine_does_not_outlive_its_connection(engines: Engines) -> None:
    ask = text("show transaction_isolation")
    strict = engines.write.execution_options(isolation_level="SERIALIZABLE")
    with strict.connect() as connection:
        assert connection.scalar(ask) == "serializable"
    for _ in range(3):
        with engines.write.connect() as connection:
            assert connection.scalar(ask) == "read committed"


def test_an_error_names_the_node_and_leaves_the_connection_well(
    sessions: sessionmaker[RoutedSession], router: Router
) -> None:
    with sessions() as session, pytest.raises(ProgrammingError) as raised:
        session.execute(text("select * from tbl_missing"))
    assert raised.value.orig is not None
    assert [n for n in raised.value.orig.__notes__ if n.startswith("pgroute: on node pg")]
    nothing_is_held(router)


def test_no_connection_is_held_between_transactions(
    sessions: sessionmaker[RoutedSession], router: Router
) -> None:
    with sessions() as session:
        session.add(User(first_name="Done"))
        session.commit()
        session.execute(NAMES.limit(1))
        session.rollback()
        nothing_is_held(router)


def test_a_deadline_ends_a_session_s_statement(servers: Servers) -> None:
    with Router(servers.settings(operation_timeout_seconds=3)) as router:
        eventually(lambda: whole(router), what="a whole fleet")
        with Engines(router).sessionmaker()() as session:
            session.execute(text("set local statement_timeout = 0"))
            with pytest.raises(DeadlineExceeded, match="pg1"):
                session.execute(text("select pg_sleep(30)"))


def test_a_session_goes_on_past_the_deadline_of_a_statement(servers: Servers) -> None:
    sleep = "select pg_sleep(0.5)"
    with Router(servers.settings(operation_timeout_seconds=1.5)) as router:
        eventually(lambda: whole(router), what="a whole fleet")
        engines = Engines(router)
        with engines.sessionmaker()() as session:
            for _ in range(6):
                session.execute(text(sleep))
            session.commit()
            idle = [each for pool in router.pools_by_key.values() for each in pool.idle]
        assert ["wait" in vars(each) for each in idle] == [False]
        with engines.sessionmaker()() as session:
            slowly = text(f"{sleep} from generate_series(1, 6)")
            rows = session.execute(slowly, execution_options={"yield_per": 1})
            assert len(list(rows)) == 6
        with engines.reading(timeout=1.5).connect() as connection:

            def several() -> None:
                for _ in range(6):
                    connection.execute(text(sleep))

            with pytest.raises(DeadlineExceeded):
                several()


def test_a_unit_of_work_is_tried_again_as_a_whole(engines: Engines, router: Router) -> None:
    tries: list[Session] = []
    key = uuid.uuid4()

    def work(session: Session) -> str:
        tries.append(session)
        session.add(User(id=key, first_name="Unit"))
        session.flush()
        if len(tries) < 3:
            session.execute(text("do $$ begin raise sqlstate '40001'; end $$"))
        return "done"

    assert engines.transaction(work) == "done"
    assert len({id(one) for one in tries}) == len(tries) == 3
    with router.read("strong") as connection:
        count = connection.execute("select count(*) from tbl_users where id = %s", (key,))
        assert count.fetchone() == (1,)


def test_what_a_unit_of_work_rolls_back_is_not_committed(engines: Engines, router: Router) -> None:
    keys = [uuid.uuid4() for _ in range(3)]

    def work(session: Session) -> str:
        session.add(User(id=keys[0], first_name="Undone"))
        session.flush()
        session.rollback()
        session.add(User(id=keys[1], first_name="Kept"))
        session.flush()
        with pytest.raises(IntegrityError):
            session.execute(insert(User).values(id=keys[1], first_name="Twice"))
        session.rollback()
        session.add(User(id=keys[2], first_name="Kept"))
        return "refused"

    assert engines.transaction(work) == "refused"
    with router.read("strong") as connection:
        found = connection.execute("select id from tbl_users where id = any(%s)", (keys,))
        assert found.fetchall() == [(keys[2],)]


def test_who_hears_of_a_commit_may_ask_for_its_token(
    sessions: sessionmaker[RoutedSession], router: Router
) -> None:
    heard: list[object] = []
    with sessions() as session:
        event.listen(session, "after_commit", lambda _: heard.append(router._last_write.get()))
        before = router.clock()
        session.add(User(first_name="Heard"))
        session.commit()
    (mark,) = heard
    assert isinstance(mark, Mark)
    assert (mark.node, mark.ended_at >= before) == ("pg1", True)


def test_a_session_that_was_cut_before_its_commit_says_so(servers: Servers) -> None:
    with Router(servers.settings(operation_timeout_seconds=2)) as router:
        eventually(lambda: whole(router), what="a whole fleet")
        with Engines(router).sessionmaker()() as session:
            session.add(User(first_name="Late"))
            session.flush()
            eventually(lambda: not router.busy(), what="the connection is cut")
            with pytest.raises(DeadlineExceeded, match="pg1"):
                session.commit()


def test_a_unit_of_work_that_fails_is_rolled_back(engines: Engines, router: Router) -> None:
    key = uuid.uuid4()

    def work(session: Session) -> None:
        session.add(User(id=key, first_name="Unit"))
        session.flush()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        engines.transaction(work)
    with router.read("strong") as connection:
        count = connection.execute("select count(*) from tbl_users where id = %s", (key,))
        assert count.fetchone() == (0,)


@pytest.fixture
def waiting_commits(servers: Servers) -> Iterator[None]:
    """The primary commits, and waits for a standby that never comes before it says so."""

    def configure(setting: str, shown: str) -> None:
        servers.sql("pg1", f"alter system {setting}")
        servers.sql("pg1", "select pg_reload_conf()")
        eventually(
            lambda: servers.sql("pg1", "show synchronous_standby_names") == shown, what="reloaded"
        )

    configure("set synchronous_standby_names = 'nobody'", "nobody")
    yield
    configure("reset synchronous_standby_names", "")


@pytest.mark.usefixtures("waiting_commits")
def test_a_session_s_commit_whose_answer_is_lost_is_found_out(
    servers: Servers, sessions: sessionmaker[RoutedSession]
) -> None:
    def cut_it_off() -> None:
        terminate = (
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where wait_event = 'SyncRep' and usename = 'app_rw'"
        )
        eventually(lambda: servers.sql("pg1", terminate) == "1", what="it waits in its COMMIT")

    key = uuid.uuid4()
    with ThreadPoolExecutor(1) as threads, sessions() as session:
        session.execute(text("set local synchronous_commit = on"))
        session.add(User(id=key, first_name="In doubt"))
        session.flush()
        cut = threads.submit(cut_it_off)
        session.commit()
        cut.result()
        assert session.scalar(NAMES.where(User.id == key)) == "In doubt"


def test_sessions_go_on_after_a_failover(
    expendable: Servers, engines: Engines, sessions: sessionmaker[RoutedSession]
) -> None:
    with sessions() as session:
        session.add(User(first_name="Before"))
        session.flush()
        expendable.stop("pg1")
        with pytest.raises(DBAPIError):
            session.execute(NAMES.limit(1))
    with sessions() as session:
        assert session.scalars(NAMES.limit(1)).all() is not None
    expendable.sql("pg2", "select pg_promote()")

    key = uuid.uuid4()

    def work(session: Session) -> None:
        session.add(User(id=key, first_name="After"))

    engines.transaction(work)
    with sessions() as session:
        session.add(User(first_name="After too"))
        session.commit()
        assert session.scalar(NAMES.where(User.id == key)) == "After"
