"""What Prometheus is told of reads that are asked twice, on real servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgroute import DeadlineExceeded
from pgroute.observing.metrics import RouterMetrics
from pgroute.observing.observer import Hedge
from pgroute.statements import Route, Statements
from tests.servers import NAMES, Servers, eventually, port, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration

SHARE = 0.05
USUAL = 200  # reads: SHARE of them may be asked twice
LATE = 1.2  # seconds: longer than any read is given before it is asked again


class OnlyReads(Statements):
    """Takes every statement for one that only reads."""

    def __init__(self) -> None:
        super().__init__()
        self.route = lambda _: Route.REPLICA

    def remember_write(self, sql: str) -> None:
        raise AssertionError(f"a replica refused {sql}")


class Counted:
    """A router that hedges, and what it exposes."""

    def __init__(self, router: Any, metrics: RouterMetrics) -> None:
        self.router = router
        self.reads = 0
        self._metrics = metrics

    def read(self, sql: str) -> Any:
        self.reads += 1
        return self.router.execute(sql, timeout=30)

    def hedges(self, node: str, outcome: Hedge) -> float:
        labels = {"node": node, "outcome": outcome}
        return self._metrics.registry.get_sample_value("pgroute_hedges_total", labels) or 0

    def asked_twice(self) -> float:
        return sum(self.hedges(node, each) for node in NAMES for each in set(Hedge) - {"capped"})

    def second_connections(self, node: str) -> float:
        labels = {"node": node, "role": "replica", "reason": "hedge"}
        return self._metrics.registry.get_sample_value("pgroute_routed_total", labels) or 0


@pytest.fixture(params=FRONTS)
def counted(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Counted]:
    metrics = RouterMetrics(NAMES)
    settings = servers.settings(hedge_share=SHARE, hedge_percentile=0.99)
    with opened(request.param, settings, statements=OnlyReads(), observer=metrics) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        found = Counted(router, metrics)
        for _ in range(USUAL):  # what is usual, and something to pay with
            found.read("select 1")
        yield found


def sleeping(pg2: float, pg3: float) -> str:
    """A read that takes so many seconds, by the server that it runs on."""
    return (
        f"select pg_sleep(case inet_server_port() when {port('pg2')} then {pg2} "
        f"when {port('pg3')} then {pg3} end)"
    )


def until(counted: Counted, sql: str, node: str, outcome: Hedge) -> None:
    """Read until it was counted once more."""
    before = counted.hedges(node, outcome)
    for _ in range(30):
        counted.read(sql)
        if counted.hedges(node, outcome) > before:
            return
    raise AssertionError(f"{node} {outcome} was not counted")


def test_who_answered_first_is_counted_and_so_is_every_second_attempt(counted: Counted) -> None:
    until(counted, sleeping(pg2=60, pg3=0), "pg2", Hedge.SECOND_WON)
    until(counted, sleeping(pg2=LATE, pg3=60), "pg2", Hedge.FIRST_WON)
    # A second attempt is a connection that was handed out, for this reason.
    by_pg2 = [counted.hedges("pg2", each) for each in set(Hedge) - {Hedge.CAPPED}]
    assert counted.second_connections("pg3") == sum(by_pg2)
    assert counted.second_connections("pg1") == 0


def test_a_loser_whose_cancellation_may_be_heard_late_is_closed(
    counted: Counted, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    with psycopg.connect(
        host="127.0.0.1",
        port=port("pg2"),
        user="app_ro",
        dbname="app",
        passfile=str(servers.passfile),
        autocommit=True,
    ) as blocker:
        blocker.execute("select pg_advisory_lock(1)")

        def unheard(connection: Any) -> None:
            pids.append(connection.info.backend_pid)
            blocker.execute("select pg_advisory_unlock(1)")  # the loser ends well after all
            raise psycopg.errors.CancellationTimeout("the server was not reached in time")

        async def unheard_async(connection: Any, **_: object) -> None:
            unheard(connection)

        monkeypatch.setattr(psycopg.Connection, "cancel_safe", lambda one, **_: unheard(one))
        monkeypatch.setattr(psycopg.AsyncConnection, "cancel_safe", unheard_async)
        until(counted, "select pg_advisory_xact_lock_shared(1)", "pg2", Hedge.SECOND_WON)
        eventually(lambda: not counted.router.busy(), what="every connection is back")
    (pid,) = pids
    alive = f"select count(*) from pg_stat_activity where pid = {pid}"
    eventually(lambda: servers.sql("pg2", alive) == "0", what="the loser's connection is closed")


def test_a_read_that_fails_both_times_is_counted_as_asked_twice(counted: Counted) -> None:
    before = counted.asked_twice()
    failing = f"select 1 / length(({sleeping(LATE, LATE)})::text)"
    with pytest.raises(psycopg.errors.DivisionByZero):
        counted.read(failing)
    assert sum(counted.hedges(node, Hedge.NEITHER) for node in NAMES) == 1
    assert counted.asked_twice() == before + 1


def test_a_read_that_never_ends_ends_at_the_caller_s_deadline(counted: Counted) -> None:
    for number in range(3):  # each replica has its turn
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            counted.router.execute(f"select pg_sleep(60), {number}", timeout=0.5)
        assert 0.5 <= time.monotonic() - started < 1.5
    eventually(lambda: not counted.router.busy(), what="every connection is back")


def test_what_the_budget_refuses_is_counted_and_it_holds(counted: Counted) -> None:
    until(counted, sleeping(LATE, LATE), "pg2", Hedge.CAPPED)
    assert 0 < counted.asked_twice() <= SHARE * counted.reads
