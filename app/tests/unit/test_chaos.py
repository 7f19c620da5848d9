"""The chaos workload's judgement, and that its threads notice what a client does wrong."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

import pytest

from pgroute.chaos.client import Refused, Seen, Written
from pgroute.chaos.report import Promotion, Report, Window, judge
from pgroute.chaos.tally import Outcome, Promise, Read, Record, Tally, Write
from pgroute.chaos.workload import Workload
from tests.servers import eventually

WINDOW = Window("all", 0.0, 100.0)
PROMOTIONS = [Promotion("pg1", 1, 0.0), Promotion("pg2", 2, 10.0)]


def write(sequence: int, began: float, ended: float, timeline: int | None) -> Write:
    error = None if timeline is not None else "OperationalError: gone"
    return Write(1, sequence, began, ended, "pg1", timeline, error)


def judged(*writes: Write, present: set[tuple[int, int]]) -> Report:
    return judge(Record(list(writes), [], []), [WINDOW], PROMOTIONS, present)


@pytest.mark.parametrize(
    ("attempt", "field"),
    [
        (write(1, 11, 12, 1), "wrong_node"),
        (write(1, 9, 12, 1), "dead_branch"),
        (write(1, 8, 9, 1), "lost_with_primary"),
        (write(1, 11, 12, 2), "lost"),
        (write(1, 11, 12, None), "failed_writes"),
    ],
)
def test_write_that_is_not_there_is_counted_as(attempt: Write, field: str) -> None:
    total = judged(attempt, present=set()).total
    fields = ("wrong_node", "dead_branch", "lost_with_primary", "lost", "failed_writes")
    assert {name: getattr(total, name) for name in fields} == {
        name: int(name == field) for name in fields
    }


def test_write_of_the_old_timeline_that_was_replicated_is_kept() -> None:
    report = judged(write(1, 8, 9, 1), present={(1, 1)})
    assert report.total.writes == 1
    assert not report.broken
    assert report.total.lost_with_primary == 0


def test_write_on_the_wrong_node_is_said() -> None:
    report = judged(write(1, 11, 12, 1), present={(1, 1)})
    assert report.broken == ["1 writes were acknowledged by the wrong node"]


def test_first_write_is_counted_from_the_promotion() -> None:
    report = judged(
        write(1, 9, 9.5, 1), write(2, 9.9, 10.25, 2), write(3, 11, 12, 2), present={(1, 2), (1, 3)}
    )
    assert report.total.first_write == pytest.approx(0.25)


def stale(promise: Promise, *, missing: int, at: float = 20.0) -> Tally:
    tally = Tally()
    tally.read(Read(promise, Outcome.STALE, at - 0.1, at, "pg2", "", 1, missing))
    return tally


@pytest.mark.parametrize("promise", [Promise.AFTER, Promise.MONOTONIC, Promise.MAX_LAG])
def test_stale_read_is_said(promise: Promise) -> None:
    report = judge(stale(promise, missing=7).record(), [WINDOW], PROMOTIONS, {(1, 7)})
    assert report.total.stale[promise] == 1
    assert len(report.broken) == 1


def test_lag_cannot_reach_back_to_what_the_failover_has_lost() -> None:
    tally = stale(Promise.MAX_LAG, missing=7)
    tally.wrote(write(7, 8, 9, 1))
    report = judge(tally.record(), [WINDOW], PROMOTIONS, set())
    assert report.total.stale[Promise.MAX_LAG] == 0
    assert report.total.lost_with_primary == 1


def test_failures_belong_to_their_window() -> None:
    tally = Tally()
    for moment in (1.0, 4.0, 21.0):
        tally.read(
            Read(Promise.EVENTUAL, Outcome.FAILED, moment - 1, moment, None, "Late: x", 0, 0)
        )
    windows = [Window("first", 0, 10), Window("second", 20, 30), Window("third", 30, 40)]
    lines = judge(tally.record(), windows, PROMOTIONS, set()).lines
    assert [line.failed_reads for line in lines] == [2, 1, 0]
    assert [line.last_failed_read for line in lines] == [4.0, 1.0, None]
    assert lines[0].errors == {"Late": 2}


@pytest.mark.parametrize("at", [0.01, 100.01])
def test_what_is_stale_at_the_edge_of_a_window_counts(at: float) -> None:
    window = Window("all", 0.007, 100.02)  # the middles of both buckets are outside
    tally = stale(Promise.MAX_LAG, missing=7, at=at)
    report = judge(tally.record(), [window], PROMOTIONS, {(1, 7)})
    assert report.broken == ["1 reads exceeded the accepted lag"]
    tally.wrote(write(7, 8, 9, 1))  # lost in the failover: nobody promised to find it
    assert judge(tally.record(), [window], PROMOTIONS, set()).broken == []


def test_many_failures_hide_neither_the_last_one_nor_what_was_stale() -> None:
    tally = stale(Promise.AFTER, missing=7, at=99.0)
    for moment in range(30_000):
        at = 1 + moment / 1000
        tally.read(Read(Promise.EVENTUAL, Outcome.FAILED, at, at, None, "Late: x", 0, 0))
    late = Read(Promise.AFTER, Outcome.STALE, 99.0, 99.1, "pg2", "", 1, 8)
    tally.read(late)
    total = judge(tally.record(), [WINDOW], PROMOTIONS, None).lines[0]
    assert (total.stale[Promise.AFTER], total.errors) == (2, {"Late": 30_000})
    assert total.last_failed_read == pytest.approx(30.999)


class Fake:
    """A client over a dictionary; ``behind`` says how far a read lags."""

    def __init__(self, behind: Callable[[Promise], int]) -> None:
        self._behind = behind
        self._lock = threading.Lock()
        self._rows: dict[int, int] = defaultdict(int)

    def write(self, worker: int, sequence: int) -> Written:
        with self._lock:
            self._rows[worker] = sequence
        return Written("pg1", 1, sequence)

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        return Seen("pg2", self._rows[worker] - self._behind(promise))

    def session(self) -> object:
        return object()


def run(client: Fake, *, until: Callable[[Tally], bool]) -> Record:
    tally = Tally()
    workload = Workload(client, tally, workers=1, pause_seconds=0.001, max_lag_seconds=0.0)
    workload.start()
    try:
        eventually(lambda: until(tally), what="enough reads")
    finally:
        assert workload.stop()
    return tally.record()


def outcomes(record: Record) -> dict[Promise, set[Outcome]]:
    found: dict[Promise, set[Outcome]] = defaultdict(set)
    for count in record.reads:
        found[count.promise].add(count.outcome)
    return found


def test_faithful_client_keeps_every_promise() -> None:
    def enough(tally: Tally) -> bool:  # of each: on a busy machine a thread may begin late
        asked = {count.promise for count in tally.record().reads}
        return asked == set(Promise) and tally.counts().reads[Outcome.KEPT] > 200

    record = run(Fake(lambda _: 0), until=enough)
    assert outcomes(record) == {promise: {Outcome.KEPT} for promise in Promise}


@pytest.mark.parametrize("broken", [Promise.AFTER, Promise.MAX_LAG])
def test_client_that_lags_is_caught(broken: Promise) -> None:
    record = run(
        Fake(lambda promise: 5 if promise is broken else 0),
        until=lambda tally: tally.counts().reads[Outcome.STALE] > 5,
    )
    assert {p for p, seen in outcomes(record).items() if Outcome.STALE in seen} == {broken}


def test_client_that_goes_back_in_time_is_caught() -> None:
    turn = iter(range(10**9))
    client = Fake(lambda p: 5 * (next(turn) % 2) if p is Promise.MONOTONIC else 0)
    record = run(client, until=lambda tally: tally.counts().reads[Outcome.STALE] > 5)
    assert Outcome.STALE in outcomes(record)[Promise.MONOTONIC]


def test_refusal_is_not_a_failure_and_begins_anew() -> None:
    class Refusing(Fake):
        def newest(self, worker: int, promise: Promise, held: object) -> Seen:
            if promise is Promise.AFTER:
                raise Refused("the token is of an older timeline", for_good=True)
            return super().newest(worker, promise, held)

    record = run(
        Refusing(lambda _: 0), until=lambda tally: tally.counts().reads[Outcome.REFUSED] > 5
    )
    assert outcomes(record)[Promise.AFTER] == {Outcome.REFUSED}
