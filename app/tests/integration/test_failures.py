"""What callers get while servers fail, from both routers."""
# ruff: noqa: PT012, SIM117 - what happens within a block, and how it ends, is tested

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import SerializationFailure
from psycopg_pool import TooManyRequests

from pgroute import (
    CommitUnknown,
    DeadlineExceeded,
    NodeUnavailable,
    PgrouteError,
    Settings,
    new_key,
)
from pgroute.observing.observer import Doubt, Hedge, Silent
from pgroute.statements import Route, Statements
from tests.patience import WATCHFUL
from tests.servers import Servers, eventually, port, whole

from .fronts import FRONTS, hook, opened, transaction_of

pytestmark = pytest.mark.integration

INSERT = "insert into tbl_users values (%s, %s)"
COUNT = "select count(*) from tbl_users where id = %s"


class Noted(Silent):
    """Remembers what became of doubtful commits, and what was tried again."""

    def __init__(self) -> None:
        self.doubts: list[Doubt] = []
        self.misroutes = 0

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        self.doubts.append(outcome)

    def misrouted(self, node: str, statement: str) -> None:
        self.misroutes += 1


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture(params=FRONTS)
def router(request: pytest.FixtureRequest, servers: Servers, noted: Noted) -> Iterator[Any]:
    with opened(request.param, servers.settings(), observer=noted) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


@pytest.fixture(params=FRONTS)
def watchful(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Any]:
    """A router that misses a frozen server in a moment."""
    with opened(request.param, servers.settings(**WATCHFUL)) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


def rows(servers: Servers, key: Any, node: str = "pg1") -> str:
    return servers.sql(node, f"select count(*) from tbl_users where id = '{key}'", database="app")


def terminate(servers: Servers, waits_for: str) -> None:
    """End the application's session that waits for an event, ``PgSleep`` or so, once it does."""
    which = f"usename = 'app_rw' and wait_event = '{waits_for}'"
    end = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {which}"
    eventually(lambda: servers.sql("pg1", end) == "1", what=f"somebody waits for {waits_for}")


def in_thread(act: Any) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


# Frozen servers


@pytest.mark.parametrize("front", FRONTS)
def test_reads_leave_a_frozen_replica(servers: Servers, front: str) -> None:
    """Those under way are cut; how soon is what a benchmark measures."""
    settings = servers.settings(operation_timeout_seconds=600, **WATCHFUL)
    with opened(front, settings) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        done: list[str] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                with suppress(PgrouteError, psycopg.Error), router.read() as connection:
                    connection.execute("select 1")
                    done.append(connection.node)

        reader = in_thread(read)
        try:
            eventually(lambda: "pg2" in done, what="reads on pg2")
            servers.signal("pg2", "STOP")
            eventually(lambda: router.topology.replicas == ("pg3",), what="pg2 is left out")
            before = len(done)
            eventually(lambda: len(done) > before + 100, what="reads go on")
            assert "pg2" not in done[before + 1 :]
        finally:
            stop.set()
            servers.signal("pg2", "CONT")
            reader.join()
        eventually(lambda: whole(router) and "pg2" in router.fleet.replicas, what="pg2 is back")


def test_a_statement_moves_on_from_a_frozen_replica(servers: Servers, watchful: Any) -> None:
    eventually(lambda: watchful.execute("select 1").node != "pg1", what="reads are known")
    for _ in range(4):
        watchful.execute("select 1")
    servers.signal("pg2", "STOP")
    try:
        for _ in range(20):
            assert watchful.execute("select 1").rows == [(1,)]
    finally:
        servers.signal("pg2", "CONT")
    eventually(lambda: whole(watchful), what="pg2 is back")


def test_a_write_on_a_frozen_primary_ends_at_its_deadline(servers: Servers, watchful: Any) -> None:
    router = watchful
    router.warm_up(60)
    try:
        with pytest.raises((DeadlineExceeded, CommitUnknown)):
            with router.write(timeout=2) as connection:
                connection.execute("select 1")
                servers.signal("pg1", "STOP")
                connection.execute("select 2")
    finally:
        servers.signal("pg1", "CONT")
    eventually(lambda: whole(router) and router.fleet.primary == "pg1", what="pg1 is back")
    query = "select count(*) from pg_stat_activity where query in ('select 1', 'select 2')"
    eventually(lambda: servers.sql("pg1", query) == "0", what="its socket is closed")


# A COMMIT whose answer is lost


def test_a_commit_that_happened_is_found_out(servers: Servers, router: Any, noted: Noted) -> None:
    """The server has committed and waits for a standby that never comes when it is cut off."""
    key = new_key()
    servers.sql("pg1", "alter system set synchronous_standby_names = 'nobody'")
    servers.sql("pg1", "select pg_reload_conf()")
    eventually(
        lambda: servers.sql("pg1", "show synchronous_standby_names") == "nobody", what="reloaded"
    )
    killer = in_thread(lambda: terminate(servers, "SyncRep"))
    try:
        with router.write() as connection:
            connection.execute("set local synchronous_commit = on")
            connection.execute(INSERT, (key, "committed"))
        killer.join()
    finally:
        servers.sql("pg1", "alter system reset synchronous_standby_names")
        servers.sql("pg1", "select pg_reload_conf()")
    assert noted.doubts == [Doubt.COMMITTED]
    assert rows(servers, key) == "1"


@pytest.fixture
def slow_commit(servers: Servers) -> Iterator[str]:
    """A table whose first commit takes long; later ones do not."""
    servers.sql(
        "pg1",
        "create table slowly (id uuid); grant all on slowly to app_rw;"
        "create sequence commits; grant all on commits to app_rw;"
        "create function wait() returns trigger language plpgsql as "
        "$$ begin if nextval('commits') = 1 then perform pg_sleep(50); end if; return null; end $$;"
        "create constraint trigger late after insert on slowly initially deferred "
        "for each row execute function wait()",
        database="app",
    )
    yield "slowly"
    servers.sql(
        "pg1", "drop table slowly; drop function wait; drop sequence commits", database="app"
    )


def test_a_commit_that_did_not_happen_is_found_out(
    servers: Servers, router: Any, noted: Noted, slow_commit: str
) -> None:
    killer = in_thread(lambda: terminate(servers, "PgSleep"))
    with pytest.raises(psycopg.OperationalError) as raised, router.write() as connection:
        connection.execute(f"insert into {slow_commit} values (%s)", (new_key(),))
    killer.join()
    assert "pgroute: the transaction was rolled back" in raised.value.__notes__
    assert noted.doubts == [Doubt.ROLLED_BACK]
    assert servers.sql("pg1", f"select count(*) from {slow_commit}", database="app") == "0"


def test_a_transaction_that_was_rolled_back_is_run_again(
    servers: Servers, router: Any, noted: Noted, slow_commit: str
) -> None:
    runs = []

    def insert(connection: Any) -> str:
        runs.append(connection.node)
        connection.execute(f"insert into {slow_commit} values (%s)", (new_key(),))
        return "done"

    killer = in_thread(lambda: terminate(servers, "PgSleep"))
    assert router.transaction(insert) == "done"
    killer.join()
    assert len(runs) == 2
    assert noted.doubts == [Doubt.ROLLED_BACK]
    assert servers.sql("pg1", f"select count(*) from {slow_commit}", database="app") == "1"


def test_what_a_transaction_commits_itself_is_never_done_twice(
    servers: Servers, router: Any, noted: Noted, slow_commit: str
) -> None:
    """Its own COMMIT has an answer that is lost, or is done before something else fails."""
    insert = f"insert into {slow_commit} values (%s)"
    runs: list[str] = []

    def block(connection: Any) -> None:
        runs.append("block")
        with transaction_of(connection):
            connection.execute(insert, (new_key(),))

    def by_hand(connection: Any) -> None:
        runs.append("by hand")
        connection.execute(insert, (new_key(),))
        connection.commit()
        raise SerializationFailure("of what came after")

    killer = in_thread(lambda: terminate(servers, "PgSleep"))
    with pytest.raises(CommitUnknown, match="pg1"):
        router.transaction(block)
    killer.join()
    assert noted.doubts == [Doubt.UNKNOWN]
    with pytest.raises(SerializationFailure) as raised:
        router.transaction(by_hand)
    assert raised.value.__notes__[-1] == "pgroute: not run again, a part of it has committed"
    assert runs == ["block", "by hand"]
    assert servers.sql("pg1", f"select count(*) from {slow_commit}", database="app") == "1"
    assert router.transaction(lambda connection: connection.node) == "pg1"


def test_the_end_of_a_transaction_block_in_doubt_is_told(
    servers: Servers, router: Any, noted: Noted, slow_commit: str
) -> None:
    killer = in_thread(lambda: terminate(servers, "PgSleep"))
    with pytest.raises(CommitUnknown, match="pg1"):
        with router.write() as connection, transaction_of(connection):
            connection.execute(f"insert into {slow_commit} values (%s)", (new_key(),))
    killer.join()
    assert noted.doubts == [Doubt.UNKNOWN]


def test_what_commits_midway_is_not_tried_again(servers: Servers, router: Any) -> None:
    servers.sql(
        "pg1",
        "create table steps (i int); grant all on steps to app_rw;"
        "create procedure steps() language plpgsql as $$ begin insert into steps values (1); "
        "commit; raise exception sqlstate '40001'; end $$",
        database="app",
    )
    try:
        with pytest.raises(SerializationFailure):
            router.execute("call steps()")
        assert router.execute("select count(*) from steps").one() == (1,)
    finally:
        servers.sql("pg1", "drop procedure steps; drop table steps", database="app")


def test_a_statement_that_was_cut_off_is_repeated_only_if_it_may_be(
    servers: Servers, router: Any
) -> None:
    servers.sql("pg1", "create sequence cuts; grant all on cuts to app_rw", database="app")
    slow_at_first = (
        "with w as (select pg_sleep(case when nextval('cuts') in (1, 2) then 50 else 0 end))"
        " insert into tbl_users select %s, 'cut' from w"
    )
    keys = new_key(), new_key()
    killer = in_thread(lambda: terminate(servers, "PgSleep"))
    with pytest.raises(CommitUnknown, match="pg1"):
        router.execute(slow_at_first, (keys[0],))
    killer.join()
    killer = in_thread(lambda: terminate(servers, "PgSleep"))
    assert router.execute(slow_at_first, (keys[1],), idempotent=True).rowcount == 1
    killer.join()
    assert (rows(servers, keys[0]), rows(servers, keys[1])) == ("0", "1")
    servers.sql("pg1", "drop sequence cuts", database="app")


def test_serialization_failures_are_run_again(router: Any) -> None:
    """Two transactions that read what the other writes: one of them has to begin anew."""
    from psycopg import IsolationLevel

    barrier = threading.Barrier(2, timeout=120)
    runs: list[int] = []

    def both(number: int) -> None:
        def work(connection: Any) -> None:
            first = runs.count(number) == 0
            runs.append(number)
            connection.execute("select count(*) from sales").fetchone()
            if first:
                barrier.wait()
            connection.execute(
                "insert into sales values (%s, '2023-05-05', 1)", (100_000 + number,)
            )

        router.transaction(work, isolation=IsolationLevel.SERIALIZABLE)

    threads = [in_thread(lambda n=n: both(n)) for n in (1, 2)]
    for thread in threads:
        thread.join()
    assert len(runs) > 2
    assert (
        router.execute(
            "select count(*) from sales where order_id > 100000", contract="strong"
        ).scalar()
        == 2
    )
    router.execute("delete from sales where order_id > 100000")


class Credulous(Statements):
    """Takes everything for a read until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()
        self.route = lambda sql: Route.PRIMARY if sql in self.told else Route.REPLICA

    def remember_write(self, sql: str) -> None:
        self.told.add(sql)


def test_a_commit_that_was_refused_spoils_no_later_one(servers: Servers, router: Any) -> None:
    """Neither on a new connection, where the COMMIT is prepared on the way, nor on a used one."""
    servers.sql(
        "pg1",
        "create table once (id int unique deferrable initially deferred);"
        "grant all on once to app_rw",
        database="app",
    )
    try:
        for turn in range(3):
            with pytest.raises(psycopg.errors.UniqueViolation):
                with router.write() as connection:
                    connection.execute("insert into once values (1), (1)")
            with router.write() as connection:
                connection.execute("insert into once values (%s)", (2 + turn,))
        assert servers.sql("pg1", "select count(*) from once", database="app") == "3"
    finally:
        servers.sql("pg1", "drop table once", database="app")


def _raise(router: Any) -> None:
    with suppress(KeyError), router.write() as connection:
        connection.execute(INSERT, (new_key(), "undone"))
        raise KeyError


def _roll_back_in_part(router: Any) -> None:
    with router.write() as connection:
        connection.execute("savepoint before")
        connection.execute(INSERT, (new_key(), "undone"))
        connection.execute("rollback to savepoint before")
        connection.execute(INSERT, (new_key(), "kept"))


def _roll_back_by_hand(router: Any) -> None:
    with router.write() as connection:
        connection.execute(INSERT, (new_key(), "undone"))
        connection.rollback()


def _discard(router: Any) -> None:
    router.execute("discard all")


def _deallocate(router: Any) -> None:
    router.execute("deallocate all")


@pytest.mark.parametrize("warm", [1, 10])  # by the sixth time psycopg has prepared a statement
@pytest.mark.parametrize(
    "forget", [_raise, _roll_back_in_part, _roll_back_by_hand, _discard, _deallocate]
)
def test_a_commit_does_not_need_what_was_prepared_once(
    servers: Servers, router: Any, forget: Callable[[Any], None], warm: int
) -> None:
    def write() -> None:
        key = new_key()
        with router.write() as connection:
            connection.execute(INSERT, (key, "written"))
        assert rows(servers, key) == "1"

    for _ in range(warm):
        write()
    for _ in range(2):
        forget(router)
        write()
    router.transaction(lambda connection: connection.execute(INSERT, (new_key(), "written")))


@pytest.mark.parametrize("front", FRONTS)
def test_a_misroute_corrects_itself_once(servers: Servers, front: str, noted: Noted) -> None:
    options = {"statements": Credulous(), "observer": noted}
    with opened(front, servers.settings(), **options) as router:
        eventually(lambda: whole(router), what="all well")
        for turn in range(3):
            key = new_key()
            result = router.execute(INSERT, (key, "misrouted"))
            assert (result.node, result.rowcount) == ("pg1", 1)
            assert rows(servers, key) == "1"
            assert noted.misroutes == 1, turn


@pytest.mark.parametrize("front", FRONTS)
def test_a_lease_that_is_forgotten_costs_no_connection(servers: Servers, front: str) -> None:
    """Its thread has ended in the middle, or its generator was never closed."""
    settings = servers.settings(pool_max_size=2)
    with opened(front, settings) as router:
        eventually(lambda: whole(router), what="all well")
        for _ in range(2):
            router.write(timeout=3).__enter__()
        with router.write(timeout=30) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


SLOW_ON_PG2 = f"select pg_sleep(case inet_server_port() when {port('pg2')} then 60 else 0 end)"


@pytest.mark.parametrize("front", FRONTS)
def test_a_replica_whose_reads_hang_is_left_out(servers: Servers, front: str) -> None:
    """Its probe answers, its reads do not."""
    with opened(front, servers.settings(eject_after_seconds=0.3)) as router:
        eventually(lambda: whole(router), what="all well")
        hung = 0
        for _ in range(60):
            try:
                with router.read(timeout=0.4) as connection:
                    connection.execute(SLOW_ON_PG2)
            except DeadlineExceeded as error:
                assert "pg2" in str(error)  # noqa: PT017 - some succeed
                hung += 1
        assert 3 <= hung < 20, "in turn it would have been every second one"
        eventually(lambda: "pg2" in router.fleet.replicas, what="it is tried again")


@pytest.mark.parametrize("front", FRONTS)
def test_what_statement_timeout_ends_is_asked_once_elsewhere(servers: Servers, front: str) -> None:
    settings = servers.settings(statement_timeout_seconds=0.2)
    with opened(front, settings, statements=Credulous()) as router:
        eventually(lambda: whole(router), what="all well")
        assert {router.execute(SLOW_ON_PG2).node for _ in range(4)} == {"pg3"}
        with pytest.raises(psycopg.errors.QueryCanceled):
            router.execute("select pg_sleep(60)")


@pytest.mark.parametrize("front", FRONTS)
def test_nobody_waits_for_a_replica_that_refuses_connections(servers: Servers, front: str) -> None:
    """The probe's connection is older, so the replica looks well."""
    settings = servers.settings(pool_min_size=0, connect_timeout_seconds=60)
    refuse = "sed -i '1i host all app_ro all reject' /srv/pg/pg2/pg_hba.conf"
    with opened(front, settings) as router:
        eventually(lambda: whole(router), what="all well")
        servers.run(refuse)
        servers.sql("pg2", "select pg_reload_conf()")
        try:
            until = time.monotonic() + 30
            for _ in range(20):
                with router.read() as connection:
                    assert connection.node == "pg3"
            assert time.monotonic() < until, "each would have waited for a minute"
        finally:
            servers.run("sed -i 1d /srv/pg/pg2/pg_hba.conf")
            servers.sql("pg2", "select pg_reload_conf()")


@pytest.mark.parametrize("front", FRONTS)
def test_a_late_read_is_asked_again_elsewhere(servers: Servers, front: str) -> None:
    class Hedges(Silent):
        def __init__(self) -> None:
            self.outcomes: list[Hedge] = []

        def hedged(self, node: str, outcome: Hedge) -> None:
            if node == "pg2":
                self.outcomes.append(outcome)

    seen = Hedges()
    settings = servers.settings(hedge_share=0.05, hedge_percentile=0.99)
    with opened(front, settings, statements=Credulous(), observer=seen) as router:
        eventually(lambda: whole(router), what="all well")
        for _ in range(600):  # what is usual, and more to pay with than one in a hundred costs
            router.execute("select 1")
        while Hedge.SECOND_WON not in seen.outcomes:
            assert router.execute(SLOW_ON_PG2).node == "pg3"
        query = "select count(*) from pg_stat_activity where state = 'active' and query like "
        eventually(
            lambda: servers.sql("pg2", query + "'select pg_sleep%'") == "0",
            what="the loser is cancelled",
        )
        assert router.execute("select 1").rows == [(1,)]
        eventually(lambda: not router.busy(), what="every connection is back")


# Pools


def test_the_pool_recovers_when_the_password_is_rotated(servers: Servers, tmp_path: Path) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    for front in FRONTS:
        passfile.write_text("*:*:app:app_rw:old\n*:*:app:app_ro:ro-for-tests\n")
        settings = servers.settings(passfile=passfile, checkout_timeout_seconds=5)
        with opened(front, settings) as router:
            with (
                pytest.raises(NodeUnavailable, match="password authentication failed"),
                router.write(),
            ):
                pass
            changed = passfile.with_name("new")
            changed.touch(mode=0o600)
            changed.write_text(servers.passfile.read_text())
            changed.replace(passfile)
            with router.write() as connection:
                assert connection.node == "pg1"


@pytest.mark.parametrize("front", FRONTS)
def test_new_connections_use_the_new_password(servers: Servers, front: str, tmp_path: Path) -> None:
    """libpq reads the passfile at every connect: a rotation needs no restart."""
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text(servers.passfile.read_text())
    with opened(front, servers.settings(passfile=passfile)) as router:

        def writes() -> bool:
            try:
                with router.write() as connection:
                    connection.execute("select 1")
            except (psycopg.OperationalError, PgrouteError):
                return False  # the connection that was ended under it
            return True

        assert writes()
        servers.sql("pg1", "alter role app_rw password 'rotated'")
        try:
            passfile.write_text(passfile.read_text().replace("rw-for-tests", "rotated"))
            servers.sql(
                "pg1",
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app_rw'",
            )
            eventually(writes, what="written with the new password")
        finally:
            servers.sql("pg1", "alter role app_rw password 'rw-for-tests'")


@pytest.mark.parametrize("front", FRONTS)
def test_whoever_waits_for_a_connection_gets_the_one_that_comes_back(
    servers: Servers, front: str
) -> None:
    with opened(front, servers.settings(pool_max_size=2)) as router:
        done: list[int] = []

        def work() -> None:
            for _ in range(40):
                with router.read(node="pg2") as connection:
                    connection.execute("select 1")
                done.append(1)

        threads = [in_thread(work) for _ in range(8)]
        for thread in threads:
            thread.join()
        assert len(done) == 320
        assert {report.size for report in router.pools() if report.node == "pg2"} <= {1, 2}


@pytest.mark.parametrize("front", FRONTS)
def test_only_so_many_may_wait(servers: Servers, front: str) -> None:
    settings = servers.settings(pool_max_size=1, pool_max_waiting=1)
    with opened(front, settings) as router:

        def wait_for_it() -> None:
            with router.read(node="pg2"):
                pass

        with router.read(node="pg2"):
            waiting = in_thread(wait_for_it)
            pool = router.pools_by_key["pg2", True]
            eventually(
                lambda: pool._pool and pool._pool.get_stats().get("requests_waiting") == 1,
                what="one waits",
            )
            with pytest.raises(NodeUnavailable) as raised:
                router.read(node="pg2").__enter__()
            assert isinstance(raised.value.__cause__, TooManyRequests)
        waiting.join()


@pytest.mark.parametrize("front", FRONTS)
def test_hooks_see_every_connection(servers: Servers, front: str) -> None:
    heard: list[str] = []

    hooks: dict[str, Any] = {
        "after_connect": hook(front, lambda _: heard.append("connected")),
        "on_return": hook(front, lambda _: heard.append("returned")),
    }
    with opened(front, servers.settings(pool_min_size=0), **hooks) as router:
        for _ in range(2):
            with router.read(node="pg3") as connection:
                connection.execute("select 1")
    assert heard.count("returned") >= 2
    assert heard[0] == "connected"


@pytest.mark.parametrize("front", FRONTS)
def test_connections_begin_as_configured(servers: Servers, front: str) -> None:
    settings = servers.settings(
        application_name="a name",
        statement_timeout_seconds=7,
        lock_timeout_seconds=2,
        idle_in_transaction_session_timeout_seconds=9,
        time_zone="Asia/Tokyo",
        search_path="public, pg_temp",
    )
    with opened(front, settings) as router:
        for context in (router.read(), router.write()):
            with context as connection:
                got = [
                    connection.execute(f"show {name}").fetchone()[0]
                    for name in (
                        "application_name",
                        "statement_timeout",
                        "lock_timeout",
                        "idle_in_transaction_session_timeout",
                        "timezone",
                        "search_path",
                    )
                ]
            assert got == ["a name", "7s", "2s", "9s", "Asia/Tokyo", "public, pg_temp"]


@pytest.mark.parametrize("front", FRONTS)
def test_close_waits_for_what_is_in_use(servers: Servers, front: str) -> None:
    with opened(front, servers.settings()) as router:
        entered, leave = threading.Event(), threading.Event()
        seen: list[Any] = []

        def work() -> None:
            with router.write() as connection:
                connection.execute("select 1")
                entered.set()
                leave.wait(30)
                seen.append(connection.execute("select 2").fetchone())

        worker = in_thread(work)
        assert entered.wait(30)
        closer = in_thread(router.close)
        eventually(lambda: router.closed, what="closing")
        closer.join(1)
        assert closer.is_alive()  # else it has not waited: it needs no second for anything else
        leave.set()
        worker.join()
        closer.join()
        assert seen == [(2,)]


def test_closing_leaves_no_thread_and_no_file(servers: Servers) -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is enough

    with opened("threads", servers.settings()):
        pass
    before = files(), threading.active_count()
    for front in FRONTS * 2:
        with opened(front, servers.settings()) as router:
            router.warm_up()
    eventually(lambda: (files(), threading.active_count()) <= before, what="all is let go")


@pytest.mark.parametrize("front", FRONTS)
def test_settings_are_what_the_environment_says(servers: Servers, front: str) -> None:
    environment = {
        "PGROUTE_DSN": f"host=127.0.0.1 port={servers.settings().members[1].port} dbname=app",
        "PGROUTE_WRITE_USER": "app_rw",
        "PGROUTE_READ_USER": "app_ro",
        "PGROUTE_PASSFILE": str(servers.passfile),
    }
    with opened(front, Settings.from_environment(environment)) as router:
        assert router.topology.primary is None
        with router.read() as connection:  # a standby alone: eventual is all it can promise
            assert connection.execute("select current_user").fetchone() == ("app_ro",)
