"""The small benchmark: who is asked what, what is timed, and the arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgroute import NoReadableNode, Settings
from pgroute.bench import Round, describe, describe_round, measure, run_round, tenth

SQL = "select 7"
WARM_UP = 20


class Connection:
    """Notes how it was made and what it is asked; None makes it fail."""

    def __init__(self, **made: Any) -> None:
        self.made = made
        self.executed: list[tuple[str, bool | None]] = []
        self.fetched = 0
        self.closed = False
        self.fails_after: int | None = None

    def execute(self, sql: str, *, prepare: bool | None = None) -> Connection:
        if len(self.executed) == self.fails_after:
            raise psycopg.OperationalError("gone")
        self.executed.append((sql, prepare))
        return self

    def fetchall(self) -> list[tuple[int]]:
        self.fetched += 1
        return [(7,)]

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Fleet:
    """Servers and a router, of which only the benchmark's questions arrive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.raw: list[Connection] = []
        self.routed = Connection()
        self.ticks = count()
        self.router: Any = SimpleNamespace(
            settings=Settings.make(
                nodes="pg1,pg2,pg3", database="app", write_user="app_rw", read_user="app_ro"
            ),
            fleet=SimpleNamespace(primary="pg1", replicas=("pg2", "pg3")),
            topology=SimpleNamespace(problem="nobody answers"),
            read=self._read,
        )
        monkeypatch.setattr(psycopg, "connect", self._connect)

    def _connect(self, **made: Any) -> Connection:
        self.raw.append(Connection(**made))
        return self.raw[-1]

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        yield self.routed

    def measure(self, rounds: int, calls: int) -> list[Round]:
        return list(
            measure(
                self.router,
                SQL,
                rounds=rounds,
                calls=calls,
                clock=lambda: float(next(self.ticks)),
            )
        )


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def test_both_ways_read_the_same_as_often_and_warming_up_is_not_timed(fleet: Fleet) -> None:
    done = fleet.measure(rounds=3, calls=10)
    assert done == [Round((1.0,) * 10, (1.0,) * 10)] * 3
    assert next(fleet.ticks) == 3 * 10 * 2 * 2  # before and after each read, both ways
    reads = WARM_UP + 3 * 10
    assert fleet.routed.executed == [(SQL, None)] * reads
    assert fleet.routed.fetched == reads
    for connection in fleet.raw:  # in turn; what pgroute prepares is prepared here
        assert connection.executed == [(SQL, True)] * (reads // 2)
        assert connection.fetched == reads // 2


def test_raw_reads_are_made_as_the_router_makes_its_own(fleet: Fleet) -> None:
    fleet.measure(rounds=1, calls=10)
    assert [connection.made["host"] for connection in fleet.raw] == ["pg2", "pg3"]
    for connection in fleet.raw:
        assert connection.made["autocommit"] is True
        assert connection.made["user"] == "app_ro"
        assert "default_transaction_read_only=on" in connection.made["options"]


def test_the_primary_is_read_where_there_is_no_replica(fleet: Fleet) -> None:
    fleet.router.fleet.replicas = ()
    fleet.measure(rounds=1, calls=10)
    assert [connection.made["host"] for connection in fleet.raw] == ["pg1"]


def test_where_nobody_can_be_read_the_reason_is_told(fleet: Fleet) -> None:
    fleet.router.fleet = SimpleNamespace(primary=None, replicas=())
    with pytest.raises(NoReadableNode, match="nothing to read from: nobody answers"):
        fleet.measure(rounds=1, calls=10)


def test_raw_connections_are_closed_even_when_one_fails(fleet: Fleet) -> None:
    fleet.measure(rounds=1, calls=10)
    assert [connection.closed for connection in fleet.raw] == [True, True]
    fleet.raw.clear()
    fleet.routed.fails_after = len(fleet.routed.executed) + WARM_UP + 3
    with pytest.raises(psycopg.OperationalError):
        fleet.measure(rounds=1, calls=10)
    assert [connection.closed for connection in fleet.raw] == [True, True]


def test_no_garbage_is_collected_while_the_clock_runs() -> None:
    states: list[bool] = []

    def fail() -> None:
        raise psycopg.OperationalError("gone")

    def look() -> None:
        states.append(gc.isenabled())

    run_round(look, look, 10, lambda: 0.0)
    assert states == [False] * 20
    assert gc.isenabled()
    with pytest.raises(psycopg.OperationalError):
        run_round(look, fail, 10, lambda: 0.0)
    assert gc.isenabled()


def test_reads_alternate_and_so_does_who_goes_first() -> None:
    called: list[str] = []
    ticks = count()
    done = run_round(
        lambda: called.append("raw"),
        lambda: called.append("routed"),
        4,
        lambda: float(next(ticks)),
    )
    assert called == ["routed", "raw", "raw", "routed"] * 2
    assert done == Round((1.0,) * 4, (1.0,) * 4)


def test_each_way_is_charged_with_its_own_time() -> None:
    now = [0.0]

    def lasting(seconds: float) -> None:
        now[0] += seconds

    done = run_round(lambda: lasting(1), lambda: lasting(3), 10, lambda: now[0])
    assert (set(done.raw), set(done.routed)) == ({1.0}, {3.0})
    assert done.ratio(median) == pytest.approx(3)


def test_the_tenth_percentile() -> None:
    assert tenth([float(number) for number in range(100, 0, -1)]) == 11
    assert tenth([5.0]) == 5


def rising(*steps: float) -> tuple[float, ...]:
    """Twenty-one reads in seconds: p10 is the first step, the median the second, and one read is
    half the first; in no order."""
    low, middle = (step * 1e-6 for step in steps)
    return (9.0, low / 2, *[middle] * 15, *[low] * 4)


def test_the_ratio_of_all_rounds_is_the_median_of_the_rounds() -> None:
    rounds = [
        Round(rising(100, 1000), rising(900, 1100)),
        Round(rising(200, 300), rising(200, 360)),
        Round(rising(400, 500), rising(440, 500)),
    ]
    lines = [line.split() for line in describe(rounds).splitlines()[2:]]
    assert lines == [
        ["p10", "200.0", "440.0", "1.100", "1.000", "to", "9.000"],
        ["median", "500.0", "500.0", "1.100", "1.000", "to", "1.200"],
        ["minimum", "100.0", "220.0", "1.100", "1.000", "to", "9.000"],
    ]


def test_a_round_in_one_line() -> None:
    assert describe_round(12, Round(rising(100, 300), rising(200, 330))) == (
        "round  12: raw    300.0 us, routed    330.0 us, ratio 1.100 (median)"
    )
