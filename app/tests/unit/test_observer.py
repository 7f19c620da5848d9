"""Several observers at once, and what observing costs when nobody wants it."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from pgroute import AsyncRouter, Router
from pgroute.config import Settings
from pgroute.core.topology import Role
from pgroute.errors import NoReadableNode
from pgroute.observing.instruments import instruments
from pgroute.observing.logs import Log
from pgroute.observing.metrics import RouterMetrics
from pgroute.observing.observer import (
    Doubt,
    Fault,
    Hedge,
    Observer,
    Purpose,
    Query,
    Reason,
    Silent,
    Wait,
    each_of,
    together,
)

QUERY = Query("pg2", Role.REPLICA, Reason.READ, "select ?", 1, 0.5)
CALLS: dict[str, tuple[Any, ...]] = {
    "routed": ("pg2", Role.REPLICA, Reason.READ),
    "failed": ("pg2", Fault.OVERDUE),
    "refused": (Purpose.READ, NoReadableNode("gone")),
    "waited": ("pg2", Wait.TOKEN, 0.1),
    "retried": ("pg2", "next_node", "57P01"),
    "hedged": ("pg2", Hedge.SECOND_WON),
    "spilled": (Reason.LAG_EXCEEDED, True),
    "misrouted": ("pg2", "select f()"),
    "in_doubt": ("pg1", Doubt.UNKNOWN),
    "breaker_turned": ("pg2", "open"),
    "primary_changed": ("pg1", "pg2"),
    "queried": (QUERY,),
}


@dataclass
class Noted(Silent):
    """Remembers every call."""

    asks: bool = True
    heard: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    @property
    def wants_queries(self) -> bool:
        return self.asks


def _noting(name: str) -> Any:
    def note(self: Noted, *arguments: Any) -> None:
        self.heard.append((name, arguments))

    return note


for _name in CALLS:
    setattr(Noted, _name, _noting(_name))


def test_every_method_of_the_protocol_is_tried_here() -> None:
    methods = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)}
    assert {name for name in methods if not name.startswith("_")} == {*CALLS, "counter"}


@pytest.mark.parametrize("name", CALLS)
def test_together_tells_every_observer_in_order(name: str) -> None:
    first, second = Noted(), Noted()
    getattr(together(first, second), name)(*CALLS[name])
    assert first.heard == second.heard == [(name, CALLS[name])]


@pytest.mark.parametrize("name", CALLS)
def test_silence_says_nothing_and_raises_nothing(name: str) -> None:
    getattr(Silent(), name)(*CALLS[name])


def test_one_observer_is_not_wrapped() -> None:
    only = Noted()
    assert together(only) is only
    assert together(Silent(), only, Silent()) is only
    assert type(together()) is Silent


def test_a_counter_counts_as_routed_does() -> None:
    first, second = Noted(), Noted()
    count = together(first, second).counter(*CALLS["routed"])
    count()
    count()
    assert first.heard == second.heard == [("routed", CALLS["routed"])] * 2


def test_a_counter_of_one_who_counts_is_that_one_s_own() -> None:
    counting, other = Noted(), Log()
    assert other.counter(*CALLS["routed"]) is Silent().counter(*CALLS["routed"])
    counter = together(other, counting).counter(*CALLS["routed"])
    assert isinstance(counter, partial)
    assert counter.func == counting.routed


def test_queries_go_to_those_who_want_them() -> None:
    asking, other = Noted(), Noted(asks=False)
    both = together(asking, other)
    assert both.wants_queries
    both.queried(QUERY)
    assert asking.heard == [("queried", (QUERY,))]
    assert other.heard == []
    assert not together(other, Noted(asks=False)).wants_queries


def test_the_least_that_anybody_wants_is_what_is_told() -> None:
    slow, all_of_them = Log(slow_query_seconds=0.5), Noted()
    assert slow.queries_from == 0.5
    assert together(slow, Noted(asks=False)).queries_from == 0.5
    assert together(slow, all_of_them).queries_from == 0.0


def asking(seconds: float | None) -> Settings:
    """Settings that have slow statements logged."""
    return Settings.make(nodes="pg1", database="app", write_user="app", slow_query_seconds=seconds)


@pytest.mark.parametrize(("seconds", "wants"), [(None, False), (0.2, True)])
def test_statements_are_timed_only_when_the_settings_ask(
    seconds: float | None, wants: bool
) -> None:
    assert instruments(asking(seconds)).wants_queries is wants


def logged(caplog: pytest.LogCaptureFixture, router: Router | AsyncRouter) -> list[str]:
    """What the process's log has of a slow statement and of a breaker that opens."""
    with caplog.at_level(logging.INFO, logger="pgroute"):
        router.observer.queried(QUERY)
        router.observer.breaker_turned("pg2", "open")
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("front", [Router, AsyncRouter])
def test_an_observer_of_the_caller_s_is_added_to_the_log(
    front: type[Router | AsyncRouter], caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted(asks=False)
    router = front(asking(0.2), observer=noted)
    assert (router.observer.wants_queries, router.observer.queries_from) == (True, 0.2)
    assert logged(caplog, router) == ["pg2: 0.500 s: select ?", "pg2: breaker open"]
    assert noted.heard == [("breaker_turned", ("pg2", "open"))]


def test_a_log_of_the_caller_s_is_the_only_one(caplog: pytest.LogCaptureFixture) -> None:
    mine = together(Noted(), Log(slow_query_seconds=0.1))
    assert len(logged(caplog, Router(asking(0.2), observer=mine))) == 2
    assert instruments(asking(0.2), mine).queries_from == 0.0


def test_an_added_observer_counts_as_quickly_as_alone() -> None:
    metrics = RouterMetrics(("pg1", "pg2"))
    router = Router(asking(None), observer=metrics)
    assert router.observer.counter(*CALLS["routed"]) == metrics.counter(*CALLS["routed"])
    assert not router.observer.wants_queries


def test_what_is_put_together_twice_is_told_once() -> None:
    log = Log()
    settings = Settings.make(nodes="pg1", database="app", write_user="app")
    every = each_of(
        instruments(
            settings,
            together(Silent(), RouterMetrics(["pg1"]), together(log, RouterMetrics(["pg1"]))),
        )
    )
    assert [type(one) for one in every].count(Log) == 1
    assert log in every
