"""Sessions that keep to their replica without asking the ledger anew, and what makes them ask."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from pgroute import PgrouteError, Session
from pgroute.core import candidates
from pgroute.core.topology import Answer, Silence
from pgroute.routing import base

from .staged import ALL_WELL, REPLICA_2, REPLICA_3, Staged, node_of

AHEAD = Answer("pg1", False, 1, 7, 1040, False)


class Fleet:
    """A router with idle connections, a session of it, and how often the ledger was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.router = Staged(ALL_WELL)
        for name in ("pg2", "pg3"):
            connection = self.router.connection(name)
            connection.autocommit = True
            connection.used_at = self.router.time.now
            self.router.pool(name).idle.append(connection)
        self.session: Session = self.router.session()
        self.asked: list[str] = []

        def noted(name: str, *arguments: Any, **options: Any) -> bool:
            self.asked.append(name)
            return candidates.serves(name, *arguments, **options)

        monkeypatch.setattr(base, "serves", noted)

    def read(self) -> str:
        return node_of(self.session.read())

    def hear(self, *answers: Answer | Silence) -> None:
        self.router.time.sleep(0.001)
        self.router.rounds = [answers]
        self.router.play()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    found = Fleet(monkeypatch)
    found.hear(AHEAD, REPLICA_2, REPLICA_3)  # what is read now is covered by no replica's position
    found.router.time.sleep(0.01)
    return found


def test_a_session_asks_no_more_until_something_is_heard(fleet: Fleet) -> None:
    first = fleet.read()
    assert fleet.asked == [first]
    del fleet.asked[:]
    assert {fleet.read() for _ in range(20)} == {first}
    assert fleet.asked == []
    fleet.hear(AHEAD, REPLICA_2, REPLICA_3)
    assert fleet.read() == first
    assert first in fleet.asked  # and the other one before, if it was its turn


def silent(fleet: Fleet, node: str) -> None:
    fleet.router.fleet.ledger.silent(node)


def write(fleet: Fleet, _: str) -> None:
    assert node_of(fleet.session.write()) == "pg1"


def settle(fleet: Fleet, _: str) -> None:
    """What was read is taken for as far as the primary was after it: no replica is there."""
    fleet.router.time.sleep(0.001)
    fleet.router.fleet.ledger.primary_seen(
        "pg1", started_at=fleet.router.clock(), timeline=1, position=1060, system_identifier=7
    )
    fleet.router.time.sleep(1.0)
    assert fleet.session.token() is not None


def elsewhere(fleet: Fleet, node: str) -> None:
    other = {"pg2": "pg3", "pg3": "pg2"}[node]
    mark = next(iter(fleet.session._trail.pending))
    fleet.session._trail.note(mark._replace(node=other))


def promoted(fleet: Fleet, node: str) -> None:
    other = REPLICA_3 if node == "pg2" else REPLICA_2
    fleet.hear(Silence("pg1", "gone"), Answer(node, False, 2, 7, 1010, False), other)


def newer(fleet: Fleet, _: str) -> None:
    """A newer primary is known, and not yet where it is."""
    topology = fleet.router.fleet.topology
    fence = replace(topology.fence, timeline=2)
    fleet.router.fleet.topology = replace(topology, fence=fence)


def left_out(fleet: Fleet, node: str) -> None:
    found = fleet.router.fleet
    found.replicas = tuple(name for name in found.replicas if name != node)
    fleet.router.routes_changed()


CHANGES = [silent, write, settle, elsewhere, promoted, newer, left_out]


@pytest.mark.parametrize("change", CHANGES)
def test_a_session_asks_again_once_something_has_changed(
    fleet: Fleet, change: Callable[[Fleet, str], None]
) -> None:
    node = fleet.read()
    change(fleet, node)
    del fleet.asked[:]
    with suppress(PgrouteError):
        fleet.read()
    assert fleet.asked


def test_a_read_with_a_contract_of_its_own_proves_nothing_for_others(fleet: Fleet) -> None:
    with fleet.session.read(max_lag="1min"):
        pass
    assert fleet.session._trail.proof is None
