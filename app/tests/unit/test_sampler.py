"""The thread that asks the servers: over sockets that a test answers or lets be silent."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.pq import ConnStatus, ExecStatus

from pgroute import Node, Settings
from pgroute.core.topology import Answer, Silence
from pgroute.routing.sampler import Sampler
from tests.servers import eventually


class Server:
    """One end of a socket, and the libpq connection that the sampler believes to have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.refuses: str | None = None
        self.position = 1000
        self.questions = 0
        self.connections = 0
        self._owed = 0
        self._results: list[Any] = []
        self._lock = threading.Lock()
        self.near: socket.socket
        self.far: socket.socket

    def connect(self) -> Any:
        if self.refuses:
            raise psycopg.OperationalError(self.refuses)
        self.connections += 1
        self.near, self.far = socket.socketpair()
        self._owed, self._results = 0, []
        pgconn = SimpleNamespace(
            socket=self.near.fileno(),
            status=ConnStatus.OK,
            send_prepare=lambda *_: self._ask(ExecStatus.COMMAND_OK),
            send_query_prepared=lambda *_: self._ask(ExecStatus.TUPLES_OK),
            consume_input=self._consume,
            is_busy=lambda: not self._results,
            get_result=lambda: self._results.pop(0),
        )
        return SimpleNamespace(pgconn=pgconn, close=self._closed)

    def thaw(self) -> None:
        with self._lock:
            self.frozen = False
            self.far.send(b"x" * self._owed)
            self._owed = 0

    def _ask(self, status: ExecStatus) -> None:
        with self._lock:
            self.questions += 1
            self._next = status
            if self.frozen:
                self._owed += 1
            else:
                self.far.send(b"x")

    def _consume(self) -> None:
        if not self.near.recv(100):
            raise psycopg.OperationalError("server closed the connection unexpectedly\n")
        cells = [b"f", str(self.position).encode(), b"1", b"7", b"f", None]
        result = SimpleNamespace(status=self._next, get_value=lambda _, column: cells[column])
        self._results += [result, None]

    def _closed(self) -> None:
        self.near.close()
        self.far.close()


class Heard:
    """What the sampler says."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, float, Answer]] = []
        self.silences: list[tuple[str, str, bool]] = []
        self.ticks = 0

    def answered(self, answer: Answer, *, started_at: float) -> None:
        self.answers.append((answer.node, started_at, answer))

    def fell_silent(self, silence: Silence, *, lost: bool) -> None:
        self.silences.append((silence.node, silence.why, lost))

    def tick(self, now: float) -> None:
        self.ticks += 1

    def of(self, node: str) -> int:
        return sum(1 for name, _, _ in self.answers if name == node)


class Stage(Sampler):
    """A sampler of made-up servers."""

    def __init__(self, settings: Settings, heard: Heard, executor: ThreadPoolExecutor) -> None:
        self.servers = {node.name: Server(node.name) for node in settings.members}
        super().__init__(settings, heard, executor)

    def _connected(self, node: Node) -> Any:
        return self.servers[node.name].connect()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def make(heard: Heard) -> Iterator[Callable[..., Stage]]:
    executor = ThreadPoolExecutor(3)
    made: list[Stage] = []

    def begin(**options: Any) -> Stage:
        values = {"nodes": "a=h,b=h:1", "database": "app", "write_user": "app"}
        stage = Stage(Settings.make(**(values | options)), heard, executor)
        made.append(stage)
        stage.start()
        eventually(lambda: heard.of("a") and heard.of("b"), what="both have answered")
        return stage

    yield begin
    for stage in made:
        stage.stop(5)
    executor.shutdown()


def test_an_answer_bears_the_time_of_its_question(make: Callable[..., Stage], heard: Heard) -> None:
    before = time.monotonic()
    make()
    assert {answer.position for _, _, answer in heard.answers} == {1000}
    assert all(before <= started <= time.monotonic() for _, started, _ in heard.answers)


def test_a_silent_server_is_told_of_and_the_others_go_on_being_asked(
    make: Callable[..., Stage], heard: Heard
) -> None:
    stage = make(eject_after_seconds=0.1, probe_timeout_seconds=30)
    stage.servers["a"].frozen = True
    eventually(lambda: heard.silences, what="a is silent")
    assert heard.silences == [("a", "no answer within 0.1 s", False)]
    others = heard.of("b")
    eventually(lambda: heard.of("b") > others + 2, what="b is asked on")
    known = heard.of("a")
    stage.servers["a"].thaw()
    eventually(lambda: heard.of("a") > known, what="a has answered the old question")
    assert len(heard.silences) == 1
    assert stage.servers["a"].connections == 1


def test_a_question_that_is_never_answered_ends_in_a_new_connection(
    make: Callable[..., Stage], heard: Heard
) -> None:
    stage = make(eject_after_seconds=0.05, probe_timeout_seconds=0.2)
    stage.servers["a"].frozen = True
    eventually(lambda: ("a", True) in [(n, lost) for n, _, lost in heard.silences], what="given up")
    stage.servers["a"].frozen = False
    known = heard.of("a")
    eventually(lambda: heard.of("a") > known, what="a answers on a new connection")
    assert stage.servers["a"].connections >= 2


def test_a_lost_connection_is_told_of_at_once(make: Callable[..., Stage], heard: Heard) -> None:
    stage = make(refresh_interval_seconds=60)  # nobody asks: the socket tells
    stage.servers["a"].refuses = "connection refused"
    stage.servers["a"].far.shutdown(socket.SHUT_RDWR)
    eventually(lambda: heard.silences, what="the end of the connection is heard")
    assert heard.silences[0] == ("a", "server closed the connection unexpectedly", True)
    eventually(
        lambda: ("a", "connection refused", True) in heard.silences, what="no new connection"
    )
    stage.servers["a"].refuses = None
    known = heard.of("a")
    eventually(lambda: heard.of("a") > known, what="a is back")


def test_samples_come_quickly_while_they_are_wanted(
    make: Callable[..., Stage], heard: Heard
) -> None:
    stage = make(refresh_interval_seconds=60)
    known = heard.of("a")

    def ten_more() -> bool:
        stage.want()  # for a second, in which a busy machine may not come to ten
        return heard.of("a") >= known + 10

    eventually(ten_more, what="ten samples, though one a minute is enough for those who want none")


def test_everybody_is_asked_at_once_when_woken(make: Callable[..., Stage], heard: Heard) -> None:
    stage = make(refresh_interval_seconds=60)
    eventually(lambda: all(s.questions >= 2 for s in stage.servers.values()), what="at rest")
    known = heard.of("a"), heard.of("b")
    stage.wake()
    eventually(lambda: heard.of("a") > known[0] and heard.of("b") > known[1], what="asked")


def test_deadlines_are_looked_at_though_nothing_is_asked(
    make: Callable[..., Stage], heard: Heard
) -> None:
    make(refresh_interval_seconds=60)
    ticks = heard.ticks
    eventually(lambda: heard.ticks >= ticks + 5, what="five looks")


def test_what_is_rung_at_the_end_reaches_no_file_of_others(make: Callable[..., Stage]) -> None:
    stage = make()
    out, into = os.pipe()
    number = stage._bell_in
    stage.stop(60)
    os.dup2(into, number)  # as any file that is opened now may get the number
    try:
        stage.wake()
        stage.want()
        os.set_blocking(out, False)
        with pytest.raises(BlockingIOError):
            os.read(out, 1)
    finally:
        for file in {out, into, number}:
            os.close(file)
