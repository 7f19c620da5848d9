"""What `pgroute chaos` reports when the run itself goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pgroute import Settings
from pgroute.chaos import run
from pgroute.chaos.client import Seen, Written
from pgroute.chaos.report import Promotion, Report
from pgroute.chaos.tally import Promise
from pgroute.chaos.workload import Workload
from pgroute.cli.entry import main
from pgroute.core.topology import Fence
from pgroute.errors import NoPrimary


class Client:
    """Keeps every promise, if a test does not change it."""

    def __init__(self) -> None:
        self.rows: set[tuple[int, int]] = set()
        self.cleaned = False

    def prepare(self) -> None: ...

    def write(self, worker: int, sequence: int) -> Written:
        self.rows.add((worker, sequence))
        return Written("pg1", 1, sequence)

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        written = [sequence for of, sequence in self.rows.copy() if of == worker]
        return Seen("pg2", max(written, default=0))

    def session(self) -> object:
        return object()

    def found(self) -> set[tuple[int, int]]:
        return self.rows

    def clean(self) -> None:
        self.cleaned = True


class Witness:
    def __init__(self, *timelines: int) -> None:
        self.promotions = [Promotion("pg1", timeline, 0.0) for timeline in timelines]

    def start(self) -> None: ...

    def stop(self) -> None: ...


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(run, "RouterClient", lambda *_, **__: client)
    monkeypatch.setattr(run, "Witness", lambda *_, **__: Witness(1))
    return client


def made(
    said: list[str], sleep: Callable[[float], None] | None = None, timeline: int = 1
) -> Report:
    topology = SimpleNamespace(fence=Fence(timeline=timeline))
    router: Any = SimpleNamespace(settings=None, topology=topology)
    more: dict[str, Any] = {} if sleep is None else {"sleep": sleep}
    return run.run_chaos(router, seconds=0.3, workers=1, say=said.append, **more)


def test_a_good_run_is_good(client: Client) -> None:
    report = made([])
    assert report.broken == []
    assert report.total.writes > 0
    assert client.cleaned


def test_the_report_survives_that_its_rows_cannot_be_deleted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> None:
        raise NoPrimary("no writable server")

    monkeypatch.setattr(client, "clean", nobody)
    said: list[str] = []
    assert made(said).broken == []
    assert said[-1] == "the rows written are still there: no writable server"


def test_without_a_primary_at_the_end_nothing_is_said_to_be_kept(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> set[tuple[int, int]]:
        raise NoPrimary("no writable server")

    monkeypatch.setattr(client, "found", nobody)
    monkeypatch.setattr(run, "_SETTLE_SECONDS", 0.0)
    report = made([])
    assert report.broken == ["what became of the writes is not known: no writable server"]
    assert report.total.lost == 0
    assert not client.cleaned


def test_an_interrupt_ends_the_run_with_its_report(client: Client) -> None:
    def interrupted(_: float) -> None:
        while len(client.rows) < 3:
            pass
        raise KeyboardInterrupt

    report = made([], interrupted)
    assert report.total.writes >= 3
    assert report.broken == []
    assert client.cleaned


def test_a_run_in_which_nothing_succeeds_proves_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise NoPrimary("no privilege")

    monkeypatch.setattr(client, "write", refused)
    monkeypatch.setattr(client, "newest", refused)
    assert made([]).broken == ["no write succeeded", "no read succeeded"]


@pytest.mark.usefixtures("client")
def test_a_witness_that_did_not_see_who_accepts_writes_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "Witness", lambda *_, **__: Witness())
    assert made([]).broken == ["the witness saw nobody accept writes on timeline 1"]


@pytest.mark.usefixtures("client")
def test_a_promotion_that_only_the_router_saw_proves_nothing() -> None:
    assert made([], timeline=2).broken == ["the witness saw nobody accept writes on timeline 2"]


@pytest.mark.usefixtures("client")
def test_a_thread_that_hangs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Workload.stop
    monkeypatch.setattr(Workload, "stop", lambda self: stop(self) and False)
    assert made([]).broken == ["a thread of the workload hangs, long after its deadline"]


@pytest.fixture
def command(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """What ``pgroute chaos`` talks to instead of servers."""
    settings = Settings.make(nodes="pg1", database="app", write_user="app")
    monkeypatch.setattr(Settings, "from_environment", lambda: settings)
    topology = SimpleNamespace(fence=Fence(timeline=1))
    router = SimpleNamespace(settings=settings, topology=topology)
    monkeypatch.setattr("pgroute.cli.chaos.Router", lambda _: nullcontext(router))
    monkeypatch.setattr(sys, "argv", ["pgroute", "chaos", "--seconds", "1", "--workers", "1"])
    return client


def test_the_command_ends_well_when_every_promise_held(command: Client) -> None:
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert command.cleaned


def test_the_command_fails_with_one_sentence_on_what_broke(
    command: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "found", set)  # all that was acknowledged is gone
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("pgroute: ")
    assert said.endswith(" acknowledged writes were lost")
