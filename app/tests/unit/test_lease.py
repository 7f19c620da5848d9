"""The idle connections in front of a pool: who holds one, and who may still be cut."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from pgroute import Settings
from pgroute.routing.lease import FRESH_SECONDS, Front

from .staged import ACTIVE, Clock, Connection


class Shelf(Front[Any]):
    """A front that notes what it hands over."""

    def __init__(self, on_return: Any = None, **options: Any) -> None:
        settings = Settings.make(nodes="h", database="app", write_user="app", **options)
        self.time = Clock()
        super().__init__("h", settings, read_only=True, on_return=on_return, clock=self.time)
        self.handed_over: list[Any] = []

    def hand_over(self) -> None:
        self.handed_over.append(self.idle_one())


class Holder:
    """Whoever has a connection."""

    verdict: str | None = None

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


def lent(shelf: Shelf, until: float = 1000.0) -> Holder:
    holder = Holder(Connection("h", autocommit=True))
    shelf.in_flight[holder] = until
    return holder


def test_what_comes_back_is_handed_out_again() -> None:
    shelf = Shelf()
    holder = lent(shelf)
    assert shelf.keep(holder, cast(Any, holder.connection))
    assert shelf.idle_one() is holder.connection
    assert shelf.idle_one() is None
    assert shelf.in_flight == {}


def test_what_comes_back_goes_to_whoever_waits() -> None:
    shelf = Shelf()
    shelf.waiting.append(None)
    holder = lent(shelf)
    holder.connection.used_at = 3.0
    assert shelf.keep(holder, cast(Any, holder.connection))
    assert shelf.handed_over == [holder.connection]
    assert shelf.worked_at == 3.0
    holder.connection.used_at = 4.0
    shelf.put_back(cast(Any, holder.connection))
    assert shelf.worked_at == 4.0


OPEN = {
    "_num_transactions": 1,
    "_pipeline": object(),
    "_tpc": object(),
    "lock": SimpleNamespace(locked=lambda: True),
}


@pytest.mark.parametrize(
    "reason", ["old", "outdated", "untidy", "cut", "closed", "hook", "mode", *OPEN]
)
def test_what_needs_thought_is_not_taken_back_at_once(reason: str) -> None:
    shelf = Shelf(on_return=(lambda _: None) if reason == "hook" else None)
    holder = lent(shelf)
    connection = holder.connection
    if reason == "old":
        connection.expires_at = shelf.time.now - 1
        shelf.retire(shelf.time.now)
    elif reason == "outdated":
        shelf.outdate()
    elif reason == "untidy":
        connection.untidy = True
    elif reason in OPEN:
        setattr(connection, reason, OPEN[reason])
    elif reason == "mode":
        connection.autocommit = False
    elif reason == "cut":
        assert shelf.overdue(2000.0) == [holder]
    elif reason == "closed":
        shelf.shut()
    else:
        shelf.outdate()  # a hook is called in every epoch
        connection.epoch = shelf.epoch
    assert not shelf.keep(holder, cast(Any, connection))
    assert not shelf.idle


def test_only_what_is_past_its_time_retires() -> None:
    shelf = Shelf()
    old, young, lent_out = Connection("h"), Connection("h"), lent(shelf).connection
    old.expires_at = lent_out.expires_at = 50.0
    young.expires_at = 51.0
    shelf.idle.extend((old, young))
    for connection in (old, young, lent_out):
        connection.used_at = shelf.time.now  # so that nobody looks whether it lives
    shelf.retire(50.5)
    fit = [shelf.fit(cast(Any, one), shelf.time.now) for one in (old, young, lent_out)]
    assert fit == [False, True, False]


def test_a_holder_is_cut_once_and_only_after_its_time() -> None:
    shelf = Shelf()
    early, late = lent(shelf, 5.0), lent(shelf, 7.0)
    assert shelf.overdue(4.9) == []
    assert shelf.overdue(5.0) == [early]
    assert shelf.overdue(6.9) == []
    assert shelf.overdue(7.0) == [late]
    assert shelf.overdue(100.0) == []


def test_only_those_who_wait_for_the_server_are_cut_for_its_silence() -> None:
    shelf = Shelf()
    idle, busy = lent(shelf), lent(shelf)
    busy.connection.status(ACTIVE)
    assert shelf.everyone("silent", busy_only=True) == [busy]
    assert (idle.verdict, busy.verdict) == (None, "silent")
    assert shelf.everyone("fenced", busy_only=False) == [idle]


def test_what_is_put_back_goes_to_whoever_waits_meanwhile() -> None:
    shelf = Shelf()
    connection = cast(Any, Connection("h"))
    shelf.put_back(connection)
    assert (list(shelf.idle), shelf.handed_over) == ([connection], [])
    shelf.idle.clear()
    shelf.waiting.append(None)
    shelf.put_back(connection)
    assert (list(shelf.idle), shelf.handed_over) == ([], [connection])
    shelf.waiting.clear()
    shelf.shut()
    shelf.put_back(connection)
    assert shelf.handed_over == [connection] * 2


def test_an_idle_connection_is_asked_whether_it_lives_unless_it_was_just_used() -> None:
    shelf = Shelf()
    connection = Connection("h")
    asked: list[int] = []
    connection.is_alive = lambda: bool(asked.append(1))  # type: ignore[method-assign, func-returns-value]
    connection.used_at = shelf.time.now
    assert shelf.fit(cast(Any, connection), shelf.time.now + FRESH_SECONDS / 2)
    assert asked == []
    assert not shelf.fit(cast(Any, connection), shelf.time.now + FRESH_SECONDS * 2)
    assert asked == [1]


def test_what_is_idle_for_long_is_put_away() -> None:
    shelf = Shelf()
    for used_at in (1.0, 50.0, 99.5):
        connection = Connection("h")
        connection.used_at = used_at
        shelf.idle.append(connection)
    away = shelf.long_idle(100.0)
    assert [(found.used_at, found.done) for found in away] == [
        (1.0, ["forget"]),
        (50.0, ["forget"]),
    ]
    assert [(found.used_at, found.done) for found in shelf.all_idle()] == [(99.5, [])]


def test_no_connection_is_held_by_two_and_none_is_lost() -> None:
    shelf = Shelf()
    connections = [Connection("h", autocommit=True) for _ in range(3)]
    shelf.idle.extend(connections)
    held: dict[int, object] = {}
    twice: list[int] = []

    def work() -> None:
        for turn in range(3000):
            connection = shelf.idle_one()
            if connection is None:
                continue
            mine = object()
            if held.setdefault(id(connection), mine) is not mine:
                twice.append(turn)
            holder = Holder(connection)
            shelf.in_flight[holder] = float("inf")
            held.pop(id(connection), None)
            assert shelf.keep(holder, connection)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert twice == []
    assert sorted(map(id, shelf.all_idle())) == sorted(map(id, connections))


def test_a_refused_password_is_tried_again_once_the_passfile_has_changed(tmp_path: Path) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    shelf = Shelf(passfile=passfile)
    assert not shelf.password_changed()
    shelf.connected(psycopg.OperationalError('FATAL: password authentication failed for "app"'))
    assert shelf.why_no_connection(1) == 'FATAL: password authentication failed for "app"'
    assert not shelf.password_changed()
    passfile.write_text("*:*:*:*:new")
    assert shelf.password_changed()
    shelf.connected(None)
    assert not shelf.password_changed()


def test_another_refusal_has_nothing_to_do_with_the_passfile(tmp_path: Path) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    shelf = Shelf(passfile=passfile)
    shelf.connected(psycopg.OperationalError("connection refused"))
    passfile.write_text("*:*:*:*:new")
    assert not shelf.password_changed()


def test_connections_do_not_expire_all_at_once() -> None:
    shelf = Shelf(pool_lifetime_seconds=100)
    ends = {shelf.expiry() for _ in range(20)}
    assert len(ends) > 10
    assert all(90 <= end - shelf.time.now <= 100 for end in ends)


def test_a_pool_says_how_large_it_may_be() -> None:
    shelf = Shelf(pool_max_size=7)
    assert shelf.why_no_connection(0.5) == (
        "no free connection within 0.5 s (7 at most, all in use)"
    )
    assert SimpleNamespace(**shelf.pool_arguments(shelf_settings(), None)).max_size == 7


def shelf_settings() -> Settings:
    return Settings.make(nodes="h", database="app", write_user="app", pool_max_size=7)
