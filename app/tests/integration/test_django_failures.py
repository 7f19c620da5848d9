"""What a Django project gets while servers fail."""
# ruff: noqa: PT012, SIM117 - what happens within a block, and how it ends, is tested

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Thread

import pytest
from django.db import DataError, InternalError, OperationalError, connections, transaction

from pgroute import CommitUnknown, DeadlineExceeded, NodeUnavailable
from pgroute.integrations.django.leases import close_router, router
from pgroute.integrations.django.routing import visit
from pgroute.statements import Route
from tests.servers import Servers, eventually

from .django_project import User, node, project

pytestmark = pytest.mark.integration

urlpatterns: list[object] = []

SLOW_INSERT = "with w as (select pg_sleep(50)) insert into tbl_users select %s, 'cut' from w"


@pytest.fixture(autouse=True)
def on_servers(servers: Servers) -> Iterator[None]:
    with project(servers.settings(), __name__):
        yield


@contextmanager
def cut_off(servers: Servers, waits_for: str) -> Iterator[None]:
    """The server ends the block's session once that waits for an event, ``PgSleep`` or so."""
    which = f"usename = 'app_rw' and wait_event = '{waits_for}'"
    end = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {which}"

    def cut() -> None:
        eventually(lambda: servers.sql("pg1", end) == "1", what=f"somebody waits for {waits_for}")

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(cut)
        yield
        done.result()


def rows(servers: Servers, key: uuid.UUID) -> str:
    return servers.sql("pg1", f"select count(*) from tbl_users where id = '{key}'", database="app")


def wait_for_nobody(servers: Servers) -> None:
    """Let the primary commit, and wait for a standby that never comes before it says so."""
    servers.sql("pg1", "alter system set synchronous_standby_names = 'nobody'")
    servers.sql("pg1", "select pg_reload_conf()")
    eventually(
        lambda: servers.sql("pg1", "show synchronous_standby_names") == "nobody", what="reloaded"
    )


@pytest.fixture
def waiting_commits(servers: Servers) -> Iterator[None]:
    wait_for_nobody(servers)
    yield
    servers.sql("pg1", "alter system reset synchronous_standby_names")
    servers.sql("pg1", "select pg_reload_conf()")
    eventually(lambda: servers.sql("pg1", "show synchronous_standby_names") == "", what="reloaded")


@pytest.fixture
def slow_commit(servers: Servers) -> Iterator[str]:
    """A table whose commits take long."""
    servers.sql(
        "pg1",
        "create table slowly (id uuid); grant all on slowly to app_rw;"
        "create function wait() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(50); return null; end $$;"
        "create constraint trigger late after insert on slowly initially deferred "
        "for each row execute function wait()",
        database="app",
    )
    yield "slowly"
    servers.sql("pg1", "drop table slowly; drop function wait", database="app")


def execute(statement: str, *values: object, alias: str = "default") -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, values)


# A COMMIT whose answer is lost


@pytest.mark.usefixtures("waiting_commits")
def test_a_commit_that_happened_is_found_out(servers: Servers) -> None:
    heard: list[str] = []
    with visit():
        with cut_off(servers, "SyncRep"), transaction.atomic():
            execute("set local synchronous_commit = on")
            user = User.objects.create(first_name="In doubt")
            transaction.on_commit(lambda: heard.append("committed"))
        assert heard == ["committed"]
        assert User.objects.filter(id=user.id).count() == 1
    assert rows(servers, user.id) == "1"


def test_a_commit_that_did_not_happen_is_found_out(servers: Servers, slow_commit: str) -> None:
    heard: list[str] = []
    with pytest.raises(OperationalError) as raised:
        with cut_off(servers, "PgSleep"), transaction.atomic():
            execute(f"insert into {slow_commit} values (%s)", uuid.uuid4())
            transaction.on_commit(lambda: heard.append("committed"))
    assert "pgroute: the transaction was rolled back" in raised.value.__cause__.__notes__
    with transaction.atomic():  # on a new connection
        User.objects.create(first_name="Next")
    assert heard == []


def test_a_commit_of_which_nobody_can_say_is_unknown(expendable: Servers) -> None:
    """The primary goes down before it has answered; Django does not hide it by connecting anew."""
    close_router()
    with project(expendable.settings(checkout_timeout_seconds=1), __name__):
        wait_for_nobody(expendable)
        which = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"

        def stop() -> None:
            eventually(lambda: expendable.sql("pg1", which) == "1", what="it waits")
            expendable.stop("pg1")

        with ThreadPoolExecutor(1) as threads:
            with pytest.raises(CommitUnknown, match="pg1") as raised, transaction.atomic():
                execute("set local synchronous_commit = on")
                User.objects.create(first_name="In doubt")
                stopped = threads.submit(stop)
            stopped.result()
        assert raised.value.transaction_id is not None
        assert not isinstance(raised.value, OperationalError)


def test_a_commit_by_hand_is_resolved_too(servers: Servers, slow_commit: str) -> None:
    transaction.set_autocommit(False)
    execute(f"insert into {slow_commit} values (%s)", uuid.uuid4())
    with pytest.raises(OperationalError) as raised, cut_off(servers, "PgSleep"):
        transaction.commit()
    assert "pgroute: the transaction was rolled back" in raised.value.__cause__.__notes__
    transaction.rollback()
    transaction.set_autocommit(True)
    assert node("default") is None


def test_a_transaction_that_had_failed_does_not_end_as_if_it_were_done() -> None:
    with pytest.raises(InternalError, match="transaction is aborted"), transaction.atomic():
        with pytest.raises(DataError):
            execute("select 1 / 0")
    execute("select 1")  # the connection goes on
    assert node("default") == "pg1"


def test_a_statement_that_commits_by_itself_may_have_done_so(servers: Servers) -> None:
    with pytest.raises(CommitUnknown, match="pg1"), cut_off(servers, "PgSleep"):
        execute(SLOW_INSERT, uuid.uuid4())


def test_a_lost_read_is_in_no_doubt(servers: Servers) -> None:
    sql = "select count(*) from tbl_users"
    eventually(lambda: router().lane(sql) is Route.REPLICA, what="it is known to be a read")
    execute("select 1")
    with router().write() as blocking:
        blocking.execute("lock table tbl_users in access exclusive mode")
        with pytest.raises(OperationalError), cut_off(servers, "relation"):
            execute(sql)


# Connections that the router cuts


def cut() -> None:
    """What happens when the deadlines of all leases have come."""
    router().watch(router().clock() + 3600)


@pytest.mark.parametrize("alias", ["default", "replica"])
def test_a_statement_that_was_cut_at_its_deadline_says_so(alias: str) -> None:
    execute("select 1", alias=alias)
    cut()
    with pytest.raises(DeadlineExceeded, match="its connection was cut") as raised:
        execute("select 2", alias=alias)
    assert isinstance(raised.value, OperationalError)  # for those who know nothing of pgroute
    assert raised.value.limit == router().limit
    connections[alias].close()
    execute("select 1", alias=alias)


def test_a_statement_cut_within_a_transaction_says_so() -> None:
    with pytest.raises(DeadlineExceeded), transaction.atomic(), transaction.atomic():
        User.objects.create(first_name="Late")
        cut()
        User.objects.create(first_name="Later")
    with transaction.atomic():  # on a new connection
        User.objects.create(first_name="Next")


def test_a_transaction_that_was_cut_before_its_commit_says_so() -> None:
    heard: list[str] = []
    with pytest.raises(DeadlineExceeded), transaction.atomic():
        user = User.objects.create(first_name="Late")
        transaction.on_commit(lambda: heard.append("committed"))
        cut()
    assert User.objects.using("default").filter(id=user.id).count() == 0
    with transaction.atomic():
        User.objects.create(first_name="Next")
    assert heard == []


def test_what_went_wrong_before_the_cut_was_noticed_is_told() -> None:
    with pytest.raises(KeyError, match="mine"), transaction.atomic():
        User.objects.create(first_name="Late")
        cut()
        raise KeyError("mine")
    assert node("default") is None  # to connect anew may fail, and hide what went wrong


def test_whoever_keeps_the_cut_to_himself_commits_nothing() -> None:
    with pytest.raises(OperationalError, match="the connection is"), transaction.atomic():
        User.objects.create(first_name="Late")
        cut()
        with pytest.raises(DeadlineExceeded):
            execute("select 1")


def test_a_transaction_on_a_primary_that_is_none_any_more_says_so() -> None:
    with pytest.raises(NodeUnavailable, match="it is the primary no more"), transaction.atomic():
        User.objects.create(first_name="Too late")
        router().cut_writes("pg1")
        User.objects.create(first_name="Later")


# Connections that are in use for longer than any statement may take


@pytest.mark.parametrize("alias", ["default", "replica"])
def test_short_statements_go_on_past_the_deadline_of_one(servers: Servers, alias: str) -> None:
    close_router()
    with project(servers.settings(operation_timeout_seconds=1.5), __name__):
        with transaction.atomic(using=alias):
            for _ in range(6):
                execute("select pg_sleep(0.5)", alias=alias)
        for _ in range(3):
            execute("select pg_sleep(0.5)", alias=alias)
        connections[alias].close()
        assert not [vars(c) for p in router().pools_by_key.values() for c in p.idle
                    if "wait" in vars(c)]  # fmt: skip


def test_rows_of_a_server_side_cursor_are_fetched_for_as_long_as_they_last(
    servers: Servers,
) -> None:
    close_router()
    with project(servers.settings(operation_timeout_seconds=1.5), __name__):
        with transaction.atomic(), connections["default"].chunked_cursor() as cursor:
            cursor.execute("select pg_sleep(0.2) from generate_series(1, 15)")
            assert sum(len(rows) for rows in iter(lambda: cursor.fetchmany(2), [])) == 15


def test_a_connection_that_nobody_uses_is_cut_still(servers: Servers) -> None:
    close_router()
    with project(servers.settings(operation_timeout_seconds=1.5), __name__):
        execute("select 1")
        eventually(lambda: not router().busy(), what="it is cut")
        with pytest.raises(DeadlineExceeded):
            execute("select 1")


# Threads that end without closing anything


@pytest.mark.parametrize("alias", ["default", "replica"])
def test_threads_that_close_nothing_leave_their_place_to_others(
    servers: Servers, alias: str
) -> None:
    close_router()
    few = servers.settings(pool_max_size=2, checkout_timeout_seconds=3)
    with project(few, __name__), visit(node="pg2"):
        for _ in range(5):
            thread = Thread(target=copy_context().run, args=[execute, "select 1"],
                            kwargs={"alias": alias})  # fmt: skip
            thread.start()
            thread.join()
        execute("select 1", alias=alias)
        connections[alias].close()
        eventually(lambda: not router().busy(), what="no connection is held")


def test_a_thread_whose_connection_was_cut_leaves_its_place(servers: Servers) -> None:
    close_router()
    with project(servers.settings(pool_max_size=1, checkout_timeout_seconds=3), __name__):

        def late() -> None:
            execute("select 1")
            cut()

        thread = Thread(target=late)
        thread.start()
        thread.join()
        execute("select 1")


def test_a_connection_that_a_thread_shares_outlives_it() -> None:
    found: list[object] = []

    def share() -> None:
        execute("select 1")
        connections["default"].inc_thread_sharing()
        found.append(connections["default"])

    thread = Thread(target=share)
    thread.start()
    thread.join()
    (shared,) = found
    with shared.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute("select 2")
    shared.close()  # type: ignore[attr-defined]
    eventually(lambda: not router().busy(), what="no connection is held")
