"""The promises of tokens, sessions and commits, kept by both routers on real servers while
things go wrong."""
# ruff: noqa: PT012 - what happens within a block, and how it ends, is what is tested

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgroute import CommitUnknown, Role, Token, TokenNotReached, TokenUnproven
from pgroute.observing.observer import Doubt, Silent
from pgroute.routing import leasing
from pgroute.routing.shown import UNDER_WAY
from tests.servers import Servers, eventually, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration

COUNTER = """
create table if not exists counter (id int primary key, n bigint not null);
grant select on counter to public;
grant insert, update, delete on counter to app_rw;
truncate counter;
insert into counter values (1, 0);
"""
GATE = 4711  # an advisory lock: commits wait while a test holds it
SLOW_COMMIT = f"""
create or replace function wait_at_commit() returns trigger language plpgsql as
$$ begin perform pg_advisory_xact_lock({GATE}); %s return null; end $$;
create constraint trigger waits after update on counter deferrable initially deferred
for each row execute function wait_at_commit();
"""
WAITING = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
QUICK_COMMIT = "drop trigger waits on counter; drop function wait_at_commit"
COUNT = "update counter set n = n + 1 where id = 1 returning n"
RECEIVERS = "select count(*) from pg_stat_wal_receiver"
LOOK = "select n from counter where id = 1"
PAUSED = "select pg_get_wal_replay_pause_state()"
POSITION = "select pg_current_wal_insert_lsn()"
CROWD = """
create schema crowd;
do $$ begin
    for i in 1..3000 loop execute format('create table crowd.c%s (n int)', i); end loop;
end $$;
"""
LONG_COMMIT = f"""
begin;
{COUNT};
set client_min_messages = warning;
drop schema crowd cascade;
select pg_advisory_xact_lock({GATE});
commit;
"""


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def router(servers: Servers, front: str) -> Iterator[Any]:
    with opened(front, servers.settings()) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


@pytest.fixture
def counter(servers: Servers, router: Any) -> Iterator[Any]:
    servers.sql("pg1", COUNTER, database="app")
    everywhere = servers.sql("pg1", POSITION)
    for name in ("pg2", "pg3"):
        wait_for_replay(servers, name, everywhere)
    yield router
    servers.sql("pg1", "drop table counter cascade", database="app")


def wait_for_replay(servers: Servers, name: str, position: str) -> None:
    asked = f"select pg_last_wal_replay_lsn() >= '{position}'"
    eventually(lambda: servers.sql(name, asked) == "t", what=f"{position} on {name}")


def stands_at_the_end(servers: Servers, name: str) -> bool:
    """Stop its replay after all that there is; whether there is nothing more by then."""
    servers.sql(name, "select pg_wal_replay_resume()")
    wait_for_replay(servers, name, servers.sql("pg1", POSITION))
    servers.sql(name, "select pg_wal_replay_pause()")
    eventually(lambda: servers.sql(name, PAUSED) == "paused", what=f"{name} stands still")
    rest = f"select '{servers.sql('pg1', POSITION)}' - pg_last_wal_replay_lsn() < 100"
    return servers.sql(name, rest) == "t"


@contextmanager
def closed_gate(servers: Servers) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Commits wait in their trigger until this connection is closed."""
    primary = servers.settings().members[0]
    parameters = servers.settings().connection(primary, user="app_rw", read_only=False)
    with psycopg.connect(autocommit=True, **parameters) as gate:
        gate.execute("select pg_advisory_lock(%s)", (GATE,))
        yield gate


def at_the_gate(servers: Servers) -> bool:
    return servers.sql("pg1", WAITING, database="app") == "1"


def count(router: Any) -> int:
    with router.write() as connection:
        row = connection.execute(COUNT).fetchone()
    assert row is not None
    return int(row[0])


def test_every_write_is_read_after_its_token(counter: Any) -> None:
    seen = Counter[str]()
    for turn in range(600):
        written = count(counter)
        token = counter.token()
        if turn % 3 == 0:
            token = Token.parse(str(counter.settle(token)))  # settled: a replica may have it by now
        with counter.read(after=token) as connection:
            row = connection.execute(LOOK).fetchone()
            seen[connection.node] += 1
        assert row is not None
        assert row[0] >= written
    assert seen["pg2"] + seen["pg3"] > 0


def test_a_session_does_not_go_back_from_what_its_replica_has_not_counted(
    servers: Servers, counter: Any
) -> None:
    """A replica shows a commit that removes many files 0.06 s before it counts it as replayed."""
    servers.sql("pg1", CROWD, database="app")
    with ThreadPoolExecutor() as pool:
        with closed_gate(servers):
            committed = pool.submit(servers.sql, "pg1", LONG_COMMIT, database="app")
            eventually(lambda: at_the_gate(servers), what="the COMMIT is next")
            eventually(lambda: stands_at_the_end(servers, "pg3"), what="pg3 lacks the COMMIT only")
        try:
            with counter.session() as session:
                while looked(session, node="pg2") == 0:
                    pass
                time.sleep(0.03)  # it is asked for its position, and still at work on that commit
                with pytest.raises(TokenNotReached):
                    looked(session, node="pg3", token_timeout=0.01)
                assert {looked(session) for _ in range(50)} == {1}
        finally:
            servers.sql("pg3", "select pg_wal_replay_resume()")
        committed.result()


@pytest.fixture
def uncommitted(servers: Servers, counter: Any) -> Iterator[Any]:
    """A router to servers where a count has been committed that replicas show: its COMMIT waits
    for a synchronous standby that does not exist, so the primary does not show it."""
    configure(servers, "set synchronous_standby_names = 'nobody'")
    with ThreadPoolExecutor() as pool:
        committed = pool.submit(count_surely, counter)
        try:
            yield counter
        finally:
            configure(servers, "reset synchronous_standby_names")
            assert committed.result() == 1


def configure(servers: Servers, what: str) -> None:
    before = "select pg_conf_load_time()"
    loaded = servers.sql("pg1", before)
    servers.sql("pg1", f"alter system {what}")
    servers.sql("pg1", "select pg_reload_conf()")
    eventually(lambda: servers.sql("pg1", before) > loaded, what="reloaded")


def count_surely(router: Any) -> int:
    with router.write(timeout=60) as connection:
        connection.execute("set local synchronous_commit = on")
        row = connection.execute(COUNT).fetchone()
    return int(row[0])


def test_a_session_does_not_miss_on_the_primary_what_a_replica_shows_already(
    servers: Servers, uncommitted: Any
) -> None:
    with uncommitted.session() as session, ThreadPoolExecutor() as pool:
        while looked(session, node="pg2") == 0:
            pass
        with uncommitted.read("strong") as connection:
            assert connection.execute(LOOK).fetchone() == (0,)
        soon = pool.submit(wait_and_configure, servers, "reset synchronous_standby_names")
        assert looked(session, contract="strong") == 1
        soon.result()


def wait_and_configure(servers: Servers, what: str) -> None:
    time.sleep(0.1)
    configure(servers, what)


def test_a_session_does_not_wait_for_who_waits_for_a_lock(
    servers: Servers, counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "COMMITTING_SECONDS", 1e9)  # else it would not wait for long
    long = f"begin; {COUNT}; select pg_advisory_xact_lock({GATE}); rollback"
    with ThreadPoolExecutor() as pool, counter.session() as session:
        with closed_gate(servers):
            done = pool.submit(servers.sql, "pg1", long, database="app")
            eventually(lambda: at_the_gate(servers), what="it is under way")
            assert looked(session, node="pg2") == 0
            assert looked(session, contract="strong", timeout=20) == 0
            assert not done.done()
        done.result()


def test_a_session_whose_connection_is_lost_while_it_asks_gets_another(
    counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = getattr(counter, "_thing", counter)  # the asynchronous one itself
    ask, asked = router.do_query, Counter[str]()

    def ask_what_is_cut_once(connection: Any, sql: str, *rest: Any) -> Any:
        if sql == UNDER_WAY:
            asked[connection.node] += 1
            if asked.total() == 1:
                connection.cut()
        return ask(connection, sql, *rest)

    monkeypatch.setattr(router, "do_query", ask_what_is_cut_once)
    with counter.session() as session:
        looked(session, node="pg2")
        for _ in range(3):
            assert looked(session, contract="strong") == 0
    assert asked == {"pg1": 2}  # and no more, once the primary is known to show all
    assert not counter.busy()


def test_a_session_reads_on_where_nobody_is_told_who_commits(
    servers: Servers, counter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    servers.sql("pg1", "revoke select on pg_locks from public", database="app")
    try:
        with counter.session() as session:
            looked(session, node="pg2")
            assert looked(session, contract="strong") == 0
    finally:
        servers.sql("pg1", "grant select on pg_locks to public", database="app")
    assert "pg1 does not tell who is committing: permission denied" in caplog.text


@pytest.mark.usefixtures("uncommitted")
@pytest.mark.parametrize("contract", [{"contract": "strong"}, {"node": "pg1"}])
def test_a_session_is_told_who_surely_commits_and_has_not(
    servers: Servers, front: str, contract: dict[str, str]
) -> None:
    """Where the same role reads and writes, it is told of its own backends' waits."""
    with (
        opened(front, servers.settings(read_user="app_rw")) as router,
        router.session() as session,
    ):
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        while looked(session, node="pg2") == 0:
            pass
        with pytest.raises(TokenNotReached, match="waits for a synchronous standby"):
            looked(session, token_timeout=0.7, **contract)
        assert looked(session, node="pg2") == 1


def looked(session: Any, **options: Any) -> int:
    with session.read(**options) as connection:
        (n,) = connection.execute(LOOK).fetchone()
    return int(n)


def test_a_session_never_goes_back_while_replay_stops_and_goes(
    servers: Servers, counter: Any
) -> None:
    stop = threading.Event()

    def keep_counting() -> None:
        while not stop.is_set():
            count(counter)

    writer = threading.Thread(target=keep_counting)
    writer.start()
    nodes = Counter[str]()
    try:
        with counter.session() as session:
            last = -1
            turn = 0
            while turn < 1200 or (len(nodes) == 1 and turn < 30_000):
                if turn % 300 == 100:
                    servers.sql("pg2", "select pg_wal_replay_pause()")
                if turn % 300 == 200:
                    servers.sql("pg2", "select pg_wal_replay_resume()")
                if turn % 7 == 0:
                    counter.settle(
                        session.token()
                    )  # settled: another replica may have all of it by now
                with session.read() as connection:
                    row = connection.execute(LOOK).fetchone()
                    nodes[connection.node] += 1
                assert row is not None
                assert row[0] >= last
                last, turn = row[0], turn + 1
    finally:
        stop.set()
        writer.join()
        servers.sql("pg2", "select pg_wal_replay_resume()")
    assert len(nodes) > 1
    eventually(lambda: whole(counter), what="both replicas")


@pytest.mark.parametrize(
    ("then", "committed"), [("", True), ("raise exception 'no';", False)], ids=["done", "refused"]
)
@pytest.mark.usefixtures("counter")
def test_a_commit_whose_answer_is_lost_is_asked_for(
    servers: Servers, front: str, then: str, committed: bool
) -> None:
    told: list[Doubt] = []

    class Noted(Silent):
        def in_doubt(self, node: str, outcome: Doubt) -> None:
            told.append(outcome)

    servers.sql("pg1", SLOW_COMMIT % then, database="app")
    try:
        with (
            opened(front, servers.settings(), observer=Noted()) as router,
            closed_gate(servers) as gate,
        ):
            eventually(lambda: router.topology.primary == "pg1", what="a primary")

            def cut_off(connection: Any) -> None:
                eventually(lambda: at_the_gate(servers), what="the COMMIT is under way")
                connection.cut()
                gate.close()

            def write() -> None:
                with router.write() as connection:
                    connection.execute(COUNT)
                    cutting = threads.submit(cut_off, connection)
                cutting.result()

            with ThreadPoolExecutor(1) as threads:
                if committed:
                    write()
                else:
                    with pytest.raises(psycopg.OperationalError) as caught:
                        write()
                    assert "pgroute: the transaction was rolled back" in caught.value.__notes__
    finally:
        servers.sql("pg1", QUICK_COMMIT, database="app")
    assert told == [Doubt.COMMITTED if committed else Doubt.ROLLED_BACK]
    assert servers.sql("pg1", LOOK, database="app").strip() == ("1" if committed else "0")


def test_a_commit_in_doubt_over_a_crash_is_never_called_done(
    expendable: Servers, front: str
) -> None:
    expendable.sql("pg1", COUNTER, database="app")
    expendable.sql("pg1", SLOW_COMMIT % "", database="app")
    settings = expendable.settings(checkout_timeout_seconds=10)
    with opened(front, settings) as router, closed_gate(expendable):
        eventually(lambda: router.topology.primary == "pg1", what="a primary")

        def crash() -> None:
            eventually(lambda: at_the_gate(expendable), what="the COMMIT is under way")
            expendable.stop("pg1")
            expendable.start("pg1")

        crashing = threading.Thread(target=crash)
        with pytest.raises((CommitUnknown, psycopg.OperationalError)), router.write() as held:
            held.execute(COUNT)
            crashing.start()
        crashing.join()
    assert expendable.sql("pg1", LOOK, database="app").strip() == "0"


def test_a_token_of_a_lost_write_is_never_served(expendable: Servers, front: str) -> None:
    """The write reached no replica before one of them was promoted."""
    expendable.sql("pg1", COUNTER, database="app")
    with opened(front, expendable.settings()) as router:
        eventually(lambda: whole(router), what="a primary and two replicas")
        kept = str(router.settle(router.token()))
        position = Token.parse(kept).position
        for name in ("pg2", "pg3"):
            eventually(
                lambda name=name: (
                    (view := router.fleet.ledger.view(name)) is not None
                    and view.position >= position
                ),
                what=f"all of it on {name}",
            )
            expendable.sql(name, "alter system set primary_conninfo to ''")
            expendable.sql(name, "select pg_reload_conf()")
            eventually(
                lambda name=name: expendable.sql(name, RECEIVERS).strip() == "0",
                what=f"{name} cut off",
            )
        count(router)
        lost = str(router.settle(router.token()))
        expendable.stop("pg1")
        expendable.control("pg2", "promote")
        eventually(lambda: router.topology.primary == "pg2", what="pg2 as primary")
        state = router.topology.node("pg2")
        assert state is not None
        assert state.role is Role.PRIMARY
        with pytest.raises(TokenUnproven), router.read(after=Token.parse(lost)):
            raise AssertionError("a read after a lost write was served")
        with router.read(after=Token.parse(kept)) as connection:
            assert connection.execute(LOOK).fetchone() == (0,)
