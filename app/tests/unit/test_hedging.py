"""Reads that may be asked twice: their deadline and their context are the caller's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest
from psycopg.errors import ReadOnlySqlTransaction

from pgroute import DeadlineExceeded, RouterClosed
from pgroute.routing.hedging import Pace, Threads
from pgroute.statements import Route as Lane

from .staged import ALL_WELL, Staged

READ = "select 1"
THREADS = 4
PATIENCE = 5.0  # seconds, in which anything that is not held up has ended

_caller: ContextVar[str] = ContextVar("caller", default="nobody")


class Hedging(Staged):
    """Hedges as soon as it can, and pays for all of it. What replicas do is ``answer``."""

    def __init__(self, threads: int = THREADS) -> None:
        super().__init__(ALL_WELL, hedge_share=0.05)
        self._pace = Pace(self.hedge_delay)
        self._pace.reads = 10_000
        self._hedger = Threads(threads)
        self.answer: Callable[[str], None] = lambda _: None
        for node in ("pg2", "pg3"):
            connection = self.connection(node)
            connection.execute = self._answering(connection)  # type: ignore[method-assign]

    def lane(self, sql: object) -> Lane:
        return Lane.REPLICA if sql == READ else Lane.PRIMARY

    def late_after(self, seconds: float) -> None:
        self.hedge_delay.seconds = seconds

    def _answering(self, connection: Any) -> Callable[..., Any]:
        execute = connection.execute

        def answering(*how: Any, **options: Any) -> Any:
            self.answer(connection.node)
            return execute(*how, **options)

        return answering


class Hanging:
    """Replicas that answer nobody until they may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.waiting = threading.Semaphore(0)

    def __call__(self, _: str) -> None:
        self.waiting.release()
        self.may.wait(60)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    found = Hanging()
    yield found
    found.may.set()


def soon(work: Callable[[], Any]) -> Future[Any]:
    """``work()`` in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the future's to raise
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_a_read_does_not_queue_behind_those_that_hang(hanging: Hanging) -> None:
    router = Hedging()
    router.answer = hanging
    others = [soon(lambda: router.execute(READ)) for _ in range(THREADS)]
    for _ in others:
        assert hanging.waiting.acquire(timeout=PATIENCE)
    router.answer = lambda _: None
    assert soon(lambda: router.execute(READ, timeout=1)).result(PATIENCE).node in ("pg2", "pg3")
    hanging.may.set()
    for other in others:
        other.result(PATIENCE)
    assert router.execute(READ).rows
    assert not router.busy()


def test_a_read_that_nobody_cuts_ends_at_its_deadline_all_the_same(hanging: Hanging) -> None:
    router = Hedging()
    router.answer = hanging
    started = time.monotonic()
    late = soon(lambda: router.execute(READ, timeout=0.2))
    assert isinstance(late.exception(PATIENCE), DeadlineExceeded)
    assert 0.2 <= time.monotonic() - started < 2.0


def test_a_second_attempt_that_has_no_thread_is_left_out(hanging: Hanging) -> None:
    router = Hedging(threads=1)
    router.late_after(0.01)
    router.answer = hanging
    read = soon(lambda: router.execute(READ))
    assert hanging.waiting.acquire(timeout=PATIENCE)
    assert not hanging.waiting.acquire(timeout=0.2)
    hanging.may.set()
    assert read.result(PATIENCE).rows


def test_both_attempts_know_who_asked_and_change_nothing_of_it() -> None:
    router, seen = Hedging(), list[str]()
    router.late_after(0.01)
    both = threading.Barrier(2)

    def answer(_: str) -> None:
        seen.append(_caller.get())
        _caller.set("an attempt")
        both.wait(PATIENCE)

    router.answer = answer
    for caller in ("one", "another"):
        _caller.set(caller)
        router.execute(READ)
        assert _caller.get() == caller
    assert seen == ["one", "one", "another", "another"]


def test_a_misrouted_write_is_in_the_caller_s_token() -> None:
    router = Hedging()

    def refuse(_: str) -> None:
        raise ReadOnlySqlTransaction("refused")

    router.answer = refuse
    assert router.execute(READ).node == "pg1"
    mark = router._last_write.get()
    assert mark is not None
    assert mark.node == "pg1"
    assert router.token().timeline == mark.timeline


def test_a_router_that_is_being_closed_says_so() -> None:
    router = Hedging()
    router._hedger.stop()
    for _ in range(THREADS + 1):
        with pytest.raises(RouterClosed):
            router.execute(READ)
