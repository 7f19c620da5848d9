"""A load whose leaves are changed meanwhile: no row goes where the table does not see it."""

from __future__ import annotations

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
from tests.servers import Servers, eventually, port

Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[UUID, int]

pytestmark = pytest.mark.integration

TABLE, COLUMNS, LEAVES = "moved.people", ("id", "n"), 4
_SCHEMA = """
set role app_owner;
create schema moved;
grant usage on schema moved to public;
create table moved.people (id uuid, n int) partition by hash (id);
create table moved.p0 partition of moved.people for values with (modulus 4, remainder 0);
create table moved.p1 partition of moved.people for values with (modulus 4, remainder 1);
create table moved.p2 partition of moved.people for values with (modulus 4, remainder 2);
create table moved.p3 partition of moved.people for values with (modulus 4, remainder 3);
grant select, insert on all tables in schema moved to app_rw;
alter default privileges in schema moved grant select, insert on tables to app_rw;
"""
_DETACHED = "alter table moved.people detach partition moved.p2;"
# Each leaves a table moved.p2 that takes rows; of moved.people, it takes them from none.
AWAY = {
    "detached": _DETACHED,
    "detached concurrently": "alter table moved.people detach partition moved.p2 concurrently;",
    "made anew": "drop table moved.p2; create table moved.p2 (id uuid, n int);",
    "renamed": "alter table moved.p2 rename to old; create table moved.p2 (id uuid, n int);",
    "in another table": _DETACHED
    + "create table moved.others (id uuid, n int) partition by hash (id);"
    "alter table moved.others attach partition moved.p2 for values with (modulus 4, remainder 2);",
}
CHANGED = AWAY | {
    "dropped": "drop table moved.p2;",
    "with other bounds": _DETACHED + "alter table moved.people detach partition moved.p3;"
    "alter table moved.people attach partition moved.p2 for values with (modulus 4, remainder 3);",
}


@dataclass(frozen=True)
class Moved:
    """A table whose leaf p2 can be changed."""

    servers: Servers

    def change(self, statements: str) -> None:
        self.servers.sql("pg1", f"set role app_owner; {statements}", database="app")

    def count(self, table: str) -> str:
        return self.servers.sql("pg1", f"select count(*) from {table}", database="app")

    def connect(self, **options: Any) -> Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=port("pg1"),
            user="app_rw",
            dbname="app",
            passfile=str(self.servers.passfile),
            **options,
        )

    def partitions(self) -> Partitions:
        with self.connect() as connection:
            return Partitions.read(connection, TABLE)


@pytest.fixture
def moved(servers: Servers) -> Iterator[Moved]:
    servers.sql("pg1", _SCHEMA, database="app")
    yield Moved(servers)
    servers.sql("pg1", "drop schema moved cascade", database="app")


def people(count: int = 2_000) -> list[Row]:
    random = Random(1)
    return [(UUID(int=random.getrandbits(128)), n) for n in range(count)]


def changing(change: Callable[[], None]) -> Iterator[Row]:
    """Rows before whose first one, when leaves are chosen and none is locked, leaves change."""
    change()
    yield from people()


@pytest.mark.parametrize("change", CHANGED)
def test_leaves_that_were_read_before_they_changed_are_refused(
    router: Router, moved: Moved, change: str
) -> None:
    partitions = moved.partitions()
    moved.change(CHANGED[change])
    with pytest.raises(PartitionMismatch, match=r"moved\.p2 .* moved\.people .*: read") as error:
        load(router, TABLE, COLUMNS, people(), partitions=partitions, connections=LEAVES)
    assert "\n" not in str(error.value)
    assert moved.count(TABLE) == "0"
    again = moved.partitions()
    known = [row for row in people() if again.leaves_of([row[:1]]) != [None]]
    load(router, TABLE, COLUMNS, known, partitions=again, connections=LEAVES)
    assert moved.count(TABLE) == str(len(known))


@pytest.mark.parametrize("max_rejects", [0, None])
@pytest.mark.parametrize("change", AWAY)
def test_a_leaf_that_leaves_its_table_during_a_load_gets_no_row(
    router: Router, moved: Moved, change: str, max_rejects: int | None
) -> None:
    rows = changing(lambda: moved.change(AWAY[change]))
    with pytest.raises(
        LoadFailed, match=r"moved\.p2 .* moved\.people .*: read .*; nothing was written$"
    ) as failure:
        load(router, TABLE, COLUMNS, rows, connections=LEAVES, max_rejects=max_rejects)
    assert isinstance(failure.value.__cause__, PartitionMismatch)
    outcomes = {part.outcome for part in failure.value.report.parts}
    assert outcomes == {Outcome.ROLLED_BACK}
    assert (moved.count(TABLE), moved.count("moved.p2")) == ("0", "0")


def test_what_an_old_snapshot_shows_of_a_leaf_is_not_believed(moved: Moved) -> None:
    """A detached leaf is still attached in what a repeatable read of before sees."""
    under_way = threading.Barrier(LEAVES + 1)
    opened = iter(range(1 + LEAVES))

    @contextmanager
    def connect() -> Iterator[Connection]:
        with moved.connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            if next(opened):  # the first one reads the layout
                connection.execute("select 1")
                under_way.wait()
            yield connection

    def detach() -> None:
        under_way.wait()
        moved.change(_DETACHED)

    with pytest.raises(LoadFailed, match=r"moved\.p2 .* nothing was written"):
        load(connect, TABLE, COLUMNS, changing(detach), connections=LEAVES)
    assert (moved.count(TABLE), moved.count("moved.p2")) == ("0", "0")


def test_a_leaf_that_is_about_to_be_detached_gets_no_row(router: Router, moved: Moved) -> None:
    """DETACH CONCURRENTLY hides it from new readers first, and then waits for older ones."""
    detaching = threading.Thread(target=moved.change, args=(AWAY["detached concurrently"],))
    pending = "select count(*) from pg_inherits where inhdetachpending"

    def detach() -> None:
        detaching.start()
        eventually(
            lambda: moved.servers.sql("pg1", pending, database="app") == "1",
            what="the leaf is hidden",
        )

    with moved.connect() as reader:
        reader.execute(f"select count(*) from {TABLE}")
        with pytest.raises(LoadFailed, match=r"moved\.p2 .* nothing was written"):
            load(router, TABLE, COLUMNS, changing(detach), connections=LEAVES)
        assert moved.count("moved.p2") == "0"
    detaching.join()
