"""The first statement of a transaction, which travels with its BEGIN: on real servers, beside the
same on psycopg's own cursors."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, pq
from psycopg.rows import dict_row, tuple_row

from pgroute import DeadlineExceeded, new_key
from pgroute.routing import cursors
from pgroute.routing.cursors import AsyncNodeCursor, NodeCursor
from tests.servers import Servers, eventually, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration

INSERT = "insert into tbl_users values (%s, %s)"
TAKEN = "00000000-0000-7000-8000-00000000beef"
STATEMENTS: dict[str, tuple[Any, ...]] = {
    "without parameters": ("select 1",),
    "with parameters": ("select %s::int", (7,)),
    "prepared at once": ("select %s::int", (7,), {"prepare": True}),
    "never prepared": ("select %s::int", (7,), {"prepare": False}),
    "a binary answer": ("select %s::int", (7,), {"binary": True}),
    "a changed row": ("update tbl_users set first_name = %s where id = %s", ("again", TAKEN)),
    "rows": ("select n from generate_series(1, %s) n", (3,)),
    "named parameters": ("select %(a)s::int + %(a)s::int", {"a": 4}),
    "two statements": ("select 1; select 2",),
    "nothing": ("",),
    "a comment": ("-- nothing",),
    "a syntax error": ("selec %s", (1,)),
    "an unknown table": ("select * from nowhere where id = %s", (1,)),
    "a division by zero": ("select 1 / %s::int", (0,)),
    "a taken key": (INSERT, (TAKEN, "twice")),
    "too many parameters": (f"select {', '.join(['%s'] * 70_000)}", tuple(range(70_000))),
    "a BEGIN": ("begin",),
    "a COMMIT": ("commit",),
    "a ROLLBACK to be prepared": ("rollback", None, {"prepare": True}),
    "a savepoint": ("savepoint here",),
    "a VACUUM": ("vacuum",),
    "a cursor": ("declare c cursor for select 1",),
    "a setting": ("select set_config('application_name', %s, true)", ("here",)),
    "a notice": ("do $$ begin raise notice 'seen'; end $$",),
    "a raised exception": ("do $$ begin raise exception 'seen'; end $$",),
    "dropped statements": ("deallocate all", None, {"prepare": True}),
    "a long parameter": ("select length(%s)", ("x" * 5_000_000,)),
    "a long answer": ("select repeat(%s, 5000000)", ("x",)),
    "its transaction": ("select current_setting(%s)", ("transaction_isolation",)),
}
REFUSED: dict[str, tuple[Any, ...]] = {  # by psycopg: the server never hears of them
    "too few parameters": ("select %s, %s", (1,)),
    "no placeholder": ("select 1", (1,)),
    "what cannot be adapted": ("select %s", (object(),)),
}


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def router(servers: Servers, front: str) -> Iterator[Any]:
    with opened(front, servers.settings()) as found:
        eventually(lambda: whole(found), what="a primary and two healthy replicas")
        yield found


@pytest.fixture
def where(servers: Servers) -> dict[str, Any]:
    settings = servers.settings()
    return settings.connection(settings.members[0], user="app_rw", read_only=False)


@pytest.fixture(autouse=True)
def taken(where: dict[str, Any]) -> None:
    with psycopg.connect(**where) as connection:
        connection.execute(f"{INSERT} on conflict do nothing", (TAKEN, "taken"))


Kind = Callable[[dict[str, Any], bool], "Beside"]


class Beside:
    """A connection that commits nothing, and what it tells of each statement."""

    def __init__(self, where: dict[str, Any], ours: bool) -> None:
        kind = NodeCursor if ours else psycopg.Cursor
        self.connection: Any = psycopg.connect(cursor_factory=kind, **where)
        self.connection.prepare_threshold = 1

    def run(self, work: Any) -> Any:
        return work

    def tell(self, query: str, params: Any = None, options: Any = None) -> list[Any]:
        """All that can be seen of one transaction that begins with this statement."""
        connection, run = self.connection, self.run
        notices: list[str] = []

        def note(notice: Any) -> None:
            notices.append(notice.message_primary)

        connection.add_notice_handler(note)
        cursor = connection.cursor()
        told: list[Any] = []
        try:
            run(cursor.execute(query, params, **(options or {})))
            told += [cursor.statusmessage, cursor.rowcount, str(cursor.description)]
            told.append(cursor.description and run(cursor.fetchall()))
            told.append(cursor.nextset() and run(cursor.fetchall()))
        except psycopg.Error as error:
            told += [type(error), error.sqlstate, str(error)]
        told += [connection.pgconn.transaction_status, connection.pgconn.pipeline_status]
        connection.remove_notice_handler(note)
        try:
            run(connection.execute("select 1"))
        except psycopg.Error as error:
            told.append(str(error))
        run(connection.rollback())
        return [*told, notices, connection.pgconn.transaction_status]

    def isolate(self) -> None:
        self.run(self.connection.rollback())
        self.connection.isolation_level = IsolationLevel.SERIALIZABLE

    def close(self) -> None:
        self.run(self.connection.close())


class AsyncBeside(Beside):
    """The same for asyncio."""

    def __init__(self, where: dict[str, Any], ours: bool) -> None:
        self._loop = asyncio.new_event_loop()
        kind = AsyncNodeCursor if ours else psycopg.AsyncCursor
        self.connection = self.run(psycopg.AsyncConnection.connect(cursor_factory=kind, **where))
        self.connection.prepare_threshold = 1

    def run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def isolate(self) -> None:
        self.run(self.connection.set_isolation_level(IsolationLevel.SERIALIZABLE))

    def close(self) -> None:
        super().close()
        self._loop.close()


@pytest.fixture
def both(front: str, where: dict[str, Any]) -> Iterator[tuple[Beside, Beside]]:
    kind = Beside if front == "threads" else AsyncBeside
    ours, psycopgs = kind(where, True), kind(where, False)
    yield ours, psycopgs
    ours.close()
    psycopgs.close()


@pytest.mark.parametrize("case", STATEMENTS)
def test_a_first_statement_does_as_on_a_cursor_of_psycopg(
    both: tuple[Beside, Beside], case: str
) -> None:
    ours, psycopgs = both
    for _ in range(4):  # not prepared, prepared on the way, prepared
        assert ours.tell(*STATEMENTS[case]) == psycopgs.tell(*STATEMENTS[case])
    ours.isolate()
    psycopgs.isolate()
    asked = STATEMENTS["its transaction"]
    assert ours.tell(*asked) == psycopgs.tell(*asked)
    assert ours.tell(*asked)[3] == [("serializable",)]


def test_all_of_them_on_one_connection(both: tuple[Beside, Beside]) -> None:
    ours, psycopgs = both
    for case in [*STATEMENTS, *reversed(STATEMENTS)] * 3:
        told = ours.tell(*STATEMENTS[case])
        assert told == psycopgs.tell(*STATEMENTS[case]), case


@pytest.mark.parametrize("case", REFUSED)
def test_what_psycopg_refuses_begins_nothing(both: tuple[Beside, Beside], case: str) -> None:
    ours, psycopgs = both
    told, expected = ours.tell(*REFUSED[case]), psycopgs.tell(*REFUSED[case])
    at = expected.index(pq.TransactionStatus.INTRANS)  # begun for nothing
    assert told == [*expected[:at], pq.TransactionStatus.IDLE, *expected[at + 1 :]]


@pytest.mark.parametrize("prepare", [None, True])
def test_a_copy_is_refused_as_by_psycopg(both: tuple[Beside, Beside], prepare: bool | None) -> None:
    for beside in both:
        with pytest.raises(psycopg.ProgrammingError, match="COPY cannot be used"):
            beside.run(beside.connection.execute("copy (select 1) to stdout", prepare=prepare))


def test_who_has_ended_the_session_is_told(servers: Servers, both: tuple[Beside, Beside]) -> None:
    told = []
    for beside in both:
        connection = beside.connection
        connection.prepare_threshold = 0
        for _ in range(2):
            beside.run(connection.execute("select %s::int", (7,)))
            beside.run(connection.rollback())
        number = connection.info.backend_pid
        servers.sql("pg1", f"select pg_terminate_backend({number}, 10000)")
        with pytest.raises(psycopg.OperationalError) as caught:
            beside.run(connection.execute("select %s::int", (7,)))
        told.append((type(caught.value), caught.value.sqlstate, connection.closed))
    assert told[0] == told[1] == (psycopg.errors.AdminShutdown, "57P01", True)


def test_who_ends_the_session_meanwhile_is_told(
    servers: Servers, both: tuple[Beside, Beside]
) -> None:
    for beside in both:
        connection = beside.connection
        end = f"select pg_terminate_backend({connection.info.backend_pid}) from pg_sleep(0.3)"
        ending = threading.Thread(target=servers.sql, args=("pg1", end))
        ending.start()
        with pytest.raises(psycopg.errors.AdminShutdown):
            beside.run(connection.execute("select pg_sleep(%s)", (60,)))
        ending.join()
        assert connection.closed


def answers(router: Any, folder: Path, act: Callable[[Any], None]) -> int:
    """How often the server was waited for, from BEGIN to COMMIT, on a connection that knows what
    it is asked."""
    key = new_key()
    for turn in range(8):
        with router.write() as connection:
            act(connection)
            raw = getattr(connection, "_thing", connection).pgconn
            if turn == 6:
                log = (folder / str(key)).open("w")
                raw.trace(log.fileno())
        if turn == 7:
            raw.untrace()
            log.close()
    lines = (folder / str(key)).read_text().splitlines()
    found = [line for line in lines if "ReadyForQuery" in line]
    return len(found) - 1  # the COMMIT before is traced, too


def test_a_transaction_of_one_statement_waits_twice(router: Any, tmp_path: Path) -> None:
    def insert(connection: Any) -> None:
        connection.execute(INSERT, (new_key(), "twice"))

    def without_parameters(connection: Any) -> None:
        connection.execute("select 1", prepare=False)

    assert answers(router, tmp_path, insert) == 2
    assert answers(router, tmp_path, without_parameters) == 3


def test_with_a_psycopg_made_otherwise_it_begins_as_that_does(
    router: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "_KNOWN", False)
    key = new_key()
    insert = "insert into tbl_users values (%s, 'three') on conflict do nothing"
    assert answers(router, tmp_path, lambda connection: connection.execute(insert, (key,))) == 3
    with router.read(after=router.token()) as connection:
        assert connection.execute("select %s::int", (7,)).fetchone() == (7,)


def test_rows_are_what_the_caller_wants(router: Any) -> None:
    with router.write() as connection:
        raw = getattr(connection, "_thing", connection)
        raw.row_factory = dict_row
        found = connection.execute("select %s::int as n", (7,)).fetchall()
        raw.row_factory = tuple_row
    assert found == [{"n": 7}]


def test_what_is_cut_at_its_deadline_has_changed_nothing(servers: Servers, router: Any) -> None:
    key = new_key()
    sql = "insert into tbl_users select %s, 'late' from pg_sleep(%s)"
    with pytest.raises(DeadlineExceeded), router.write(timeout=0.3) as connection:
        connection.execute(sql, (key, 3))
    assert not router.busy()
    asked = "select count(*) from pg_stat_activity where query like '%pg_sleep(%' and pid <> "
    eventually(
        lambda: servers.sql("pg1", f"{asked} pg_backend_pid() and state = 'active'") == "0",
        what="it is ended",
    )
    found = router.execute("select count(*) from tbl_users where id = %s", (key,), after=None)
    assert found.scalar() == 0


def test_an_interrupted_first_statement_leaves_its_connection_whole(where: dict[str, Any]) -> None:
    """Control-C comes to the main thread, in which this runs."""
    with psycopg.connect(cursor_factory=NodeCursor, **where) as connection:
        main = threading.main_thread().ident
        assert main is not None
        timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                connection.execute("select pg_sleep(%s)", (60,))
        finally:
            signal.signal(signal.SIGINT, before)
        connection.rollback()
        assert connection.execute("select %s::int", (7,)).fetchone() == (7,)


def test_a_cancelled_first_statement_leaves_its_connection_whole(where: dict[str, Any]) -> None:
    async def cancel() -> Any:
        connect = psycopg.AsyncConnection.connect
        async with await connect(cursor_factory=AsyncNodeCursor, **where) as connection:
            for seconds in (0.0, 0.0005, 0.001, 0.3):
                task = asyncio.create_task(connection.execute("select pg_sleep(%s)", (60,)))
                await asyncio.sleep(seconds)
                began = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - began < 30
                await connection.rollback()
                found = await connection.execute("select %s::int", (7,))
                assert await found.fetchone() == (7,)
                await connection.rollback()

    asyncio.run(cancel())
