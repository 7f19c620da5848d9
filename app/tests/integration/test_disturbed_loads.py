"""A load whose leaves are changed meanwhile, or that is interrupted: it says what is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgroute import Router
from pgroute.errors import LoadFailed, PartitionMismatch
from pgroute.partitions import Outcome, Partitions, load
from pgroute.partitions.lanes import Lane
from tests.servers import Servers, eventually, port

Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[UUID, int]

pytestmark = pytest.mark.integration

TABLE, COLUMNS, LEAVES = "live.people", ("id", "n"), 4
_SCHEMA = """
set role app_owner;
create schema live;
grant usage on schema live to public;
create table live.people (id uuid, n int) partition by hash (id);
create table live.p0 partition of live.people for values with (modulus 4, remainder 0);
create table live.p1 partition of live.people for values with (modulus 4, remainder 1);
create table live.p2 partition of live.people for values with (modulus 4, remainder 2);
create table live.p3 partition of live.people for values with (modulus 4, remainder 3);
grant select, insert on all tables in schema live to app_rw;
alter default privileges in schema live grant select, insert on tables to app_rw;
"""
_DETACHED = "alter table live.people detach partition live.p2;"
# Each leaves a table live.p2 that takes rows; of live.people, it takes them from none.
AWAY = {
    "detached": _DETACHED,
    "detached concurrently": "alter table live.people detach partition live.p2 concurrently;",
    "made anew": "drop table live.p2; create table live.p2 (id uuid, n int);",
    "renamed": "alter table live.p2 rename to old; create table live.p2 (id uuid, n int);",
    "in another table": _DETACHED
    + "create table live.others (id uuid, n int) partition by hash (id);"
    "alter table live.others attach partition live.p2 for values with (modulus 4, remainder 2);",
}
CHANGED = AWAY | {
    "dropped": "drop table live.p2;",
    "with other bounds": _DETACHED + "alter table live.people detach partition live.p3;"
    "alter table live.people attach partition live.p2 for values with (modulus 4, remainder 3);",
}


@dataclass(frozen=True)
class Live:
    """A table whose leaf p2 can be changed."""

    servers: Servers

    def change(self, statements: str) -> None:
        self.servers.sql("pg1", f"set role app_owner; {statements}", database="app")

    def count(self, table: str) -> str:
        return self.servers.sql("pg1", f"select count(*) from {table}", database="app")

    def connect(self) -> Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=port("pg1"),
            user="app_rw",
            dbname="app",
            passfile=str(self.servers.passfile),
        )

    def partitions(self) -> Partitions:
        with self.connect() as connection:
            return Partitions.read(connection, TABLE)


@pytest.fixture
def live(servers: Servers) -> Iterator[Live]:
    servers.sql("pg1", _SCHEMA, database="app")
    yield Live(servers)
    # A transaction left open fails the test here, and does not hold it up.
    servers.sql("pg1", "set lock_timeout = '30s'; drop schema live cascade", database="app")


def people(count: int = 2_000) -> list[Row]:
    random = Random(1)
    return [(UUID(int=random.getrandbits(128)), n) for n in range(count)]


def changing(change: Callable[[], None]) -> Iterator[Row]:
    """Rows before whose first one, when leaves are chosen and none is locked, leaves change."""
    change()
    yield from people()


@pytest.mark.parametrize("change", CHANGED)
def test_leaves_that_were_read_before_they_changed_are_refused(
    router: Router, live: Live, change: str
) -> None:
    partitions = live.partitions()
    live.change(CHANGED[change])
    with pytest.raises(PartitionMismatch, match=r"live\.p2 .* live\.people .*: read") as error:
        load(router, TABLE, COLUMNS, people(), partitions=partitions, connections=LEAVES)
    assert "\n" not in str(error.value)
    assert live.count(TABLE) == "0"
    again = live.partitions()
    known = [row for row in people() if again.leaves_of([row[:1]]) != [None]]
    load(router, TABLE, COLUMNS, known, partitions=again, connections=LEAVES)
    assert live.count(TABLE) == str(len(known))


@pytest.mark.parametrize("max_rejects", [0, None])
@pytest.mark.parametrize("change", AWAY)
def test_a_leaf_that_leaves_its_table_during_a_load_gets_no_row(
    router: Router, live: Live, change: str, max_rejects: int | None
) -> None:
    rows = changing(lambda: live.change(AWAY[change]))
    with pytest.raises(
        LoadFailed, match=r"live\.p2 .* live\.people .*: read .*; nothing was written$"
    ) as failure:
        load(router, TABLE, COLUMNS, rows, connections=LEAVES, max_rejects=max_rejects)
    assert isinstance(failure.value.__cause__, PartitionMismatch)
    outcomes = {part.outcome for part in failure.value.report.parts}
    assert outcomes == {Outcome.ROLLED_BACK}
    assert (live.count(TABLE), live.count("live.p2")) == ("0", "0")


def test_what_an_old_snapshot_shows_of_a_leaf_is_not_believed(live: Live) -> None:
    """A detached leaf is still attached in what a repeatable read of before sees."""
    under_way = threading.Barrier(LEAVES + 1)
    opened = iter(range(1 + LEAVES))

    @contextmanager
    def connect() -> Iterator[Connection]:
        with live.connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            if next(opened):  # the first one reads the layout
                connection.execute("select 1")
                under_way.wait()
            yield connection

    def detach() -> None:
        under_way.wait()
        live.change(_DETACHED)

    with pytest.raises(LoadFailed, match=r"live\.p2 .* nothing was written"):
        load(connect, TABLE, COLUMNS, changing(detach), connections=LEAVES)
    assert (live.count(TABLE), live.count("live.p2")) == ("0", "0")


def test_a_leaf_that_is_about_to_be_detached_gets_no_row(router: Router, live: Live) -> None:
    """DETACH CONCURRENTLY hides it from new readers first, and then waits for older ones."""
    detaching = threading.Thread(target=live.change, args=(AWAY["detached concurrently"],))
    pending = "select count(*) from pg_inherits where inhdetachpending"

    def detach() -> None:
        detaching.start()
        eventually(
            lambda: live.servers.sql("pg1", pending, database="app") == "1",
            what="the leaf is hidden",
        )

    with live.connect() as reader:
        reader.execute(f"select count(*) from {TABLE}")
        with pytest.raises(LoadFailed, match=r"live\.p2 .* nothing was written"):
            load(router, TABLE, COLUMNS, changing(detach), connections=LEAVES)
        assert live.count("live.p2") == "0"
    detaching.join()


def outcomes_told(failure: pytest.ExceptionInfo[BaseException]) -> list[Outcome]:
    """What became of each transaction, as the interrupt has it."""
    failed = failure.value.__cause__
    assert isinstance(failed, LoadFailed)
    words = f"the load of {TABLE} was interrupted: {failed.report.words()}"
    assert str(failed) == words
    return [part.outcome for part in failed.report.parts]


def rows_told(failure: pytest.ExceptionInfo[BaseException], outcome: Outcome) -> str:
    """The rows of those that ended so."""
    assert isinstance(failure.value.__cause__, LoadFailed)
    return str(failure.value.__cause__.report.rows_with(outcome))


def test_an_interrupt_between_two_commits_tells_what_is_written(
    live: Live, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    commits = iter(range(1 + LEAVES))

    @contextmanager
    def connect() -> Iterator[Connection]:
        with live.connect() as connection:
            yield connection
            if next(commits) == 2:  # the first one has read the layout
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as failure:
        load(connect, TABLE, COLUMNS, people(), connections=LEAVES)
    done, not_done = Outcome.COMMITTED, Outcome.ROLLED_BACK
    assert outcomes_told(failure) == [done, done, not_done, not_done]
    assert live.count(TABLE) == rows_told(failure, done)
    live.change(f"begin; lock table {TABLE} nowait; rollback;")  # no transaction is open


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_before_the_first_commit_says_that_nothing_is_written(
    router: Router, live: Live, interrupt: type[BaseException]
) -> None:
    def rows() -> Iterator[Row]:
        yield from people()
        raise interrupt

    with pytest.raises(interrupt) as failure:
        load(router, TABLE, COLUMNS, rows(), connections=LEAVES, block_rows=100)
    assert outcomes_told(failure) == [Outcome.ROLLED_BACK] * LEAVES
    assert str(failure.value.__cause__).endswith("was interrupted: nothing was written")
    assert live.count(TABLE) == "0"


def test_who_interrupts_twice_does_not_wait_for_a_commit_that_hangs(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, go_on, over = iter(range(1 + LEAVES)), threading.Event(), threading.Event()

    @contextmanager
    def connect() -> Iterator[Connection]:
        with live.connect() as connection:
            yield connection
            hangs = next(commits) == 1
            if hangs:
                assert go_on.wait(60)
        if hangs:
            over.set()

    def interrupted(_: Lane) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lane, "join", interrupted)
    with pytest.raises(KeyboardInterrupt) as failure:
        load(connect, TABLE, COLUMNS, people(), connections=LEAVES)
    assert outcomes_told(failure) == [Outcome.UNKNOWN] + [Outcome.ROLLED_BACK] * (LEAVES - 1)
    go_on.set()
    assert over.wait(60)
    assert live.count(TABLE) == rows_told(failure, Outcome.UNKNOWN)
