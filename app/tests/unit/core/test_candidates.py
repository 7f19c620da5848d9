"""Which servers may serve a read, and what happens when none may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgroute.core.breaker import Breaker
from pgroute.core.candidates import Then, select, serves
from pgroute.core.contracts import EVENTUAL, STRONG, Contract, Otherwise
from pgroute.core.ledger import Ledger
from pgroute.core.lsn import Mark, Token
from pgroute.core.topology import Answer, Fence, Silence, Topology, decide
from pgroute.core.trail import Trail
from pgroute.errors import ForeignToken, TokenError, TokenUnproven

CLUSTER = 7
LIMIT = 1000


class Fleet:
    """pg1 is the primary at 5000; the replicas stand where one says (None: silent)."""

    def __init__(
        self,
        *,
        pg2: int | None = 5000,
        pg3: int | None = 5000,
        primary: int | None = 5000,
        fence: Fence = Fence(CLUSTER, 1),  # noqa: B008 - frozen
    ) -> None:
        self.now = 10.0
        self.ledger = Ledger()
        seen: list[Answer | Silence] = [
            Silence("pg1", "gone")
            if primary is None
            else Answer("pg1", False, 1, CLUSTER, primary, False)
        ]
        self.ledger.primary_seen(
            "pg1", started_at=9.9, timeline=1, position=primary or 5000, system_identifier=CLUSTER
        )
        for name, position in (("pg2", pg2), ("pg3", pg3)):
            if position is None:
                seen.append(Silence(name, "gone"))
                continue
            seen.append(Answer(name, True, 1, CLUSTER, position, primary is not None))
            self.ledger.replica_seen(name, started_at=9.9, timeline=1, position=position)
        self.topology: Topology = decide(seen, fence=fence, max_lag_bytes=LIMIT)
        self.breakers = {name: Breaker() for name in ("pg1", "pg2", "pg3")}

    def ask(
        self, contract: Contract = EVENTUAL, *, draw: float = 0.0, trail: Trail | None = None
    ) -> tuple[tuple[str, ...], Then]:
        found = select(
            contract,
            self.topology,
            self.ledger,
            now=self.now,
            breakers=self.breakers,
            draw=draw,
            trail=trail,
        )
        assert found.why
        assert "\n" not in found.why
        assert found.primary == self.topology.primary or found.primary is None
        return found.candidates, found.then


def token(position: int, timeline: int = 1) -> Token:
    return Token(CLUSTER, timeline, position)


def test_any_healthy_replica_is_eventual() -> None:
    assert Fleet().ask() == (("pg2", "pg3"), Then.SPILL)


def test_one_that_lags_is_left_for_one_that_does_not() -> None:
    assert Fleet(pg2=100).ask() == (("pg3",), Then.SPILL)


def test_lag_alone_never_sends_everybody_to_the_primary() -> None:
    assert Fleet(pg2=100, pg3=200).ask() == (("pg3",), Then.SPILL)


def test_without_replicas_the_primary_is_read_within_the_cap() -> None:
    assert Fleet(pg2=None, pg3=None).ask() == ((), Then.SPILL)


def test_without_a_primary_replicas_still_serve_whoever_takes_anything() -> None:
    assert Fleet(primary=None).ask() == (("pg2", "pg3"), Then.REFUSE)


def test_without_anybody_it_is_refused() -> None:
    assert Fleet(primary=None, pg2=None, pg3=None).ask() == ((), Then.REFUSE)


def test_strong_is_the_primary_and_nobody_else() -> None:
    assert Fleet().ask(STRONG) == ((), Then.PRIMARY)
    assert Fleet(primary=None).ask(STRONG) == ((), Then.REFUSE)


def test_an_open_breaker_takes_a_node_out() -> None:
    fleet = Fleet()
    fleet.breakers["pg2"].overdue(0.0, "frozen")
    assert fleet.ask() == (("pg3",), Then.SPILL)
    fleet.breakers["pg3"].overdue(0.0, "frozen")
    assert fleet.ask() == ((), Then.SPILL)


def test_a_node_that_warms_up_is_drawn_less_often() -> None:
    fleet = Fleet()
    cold = fleet.breakers["pg2"]
    cold.overdue(0.0, "frozen")
    cold.answered(9.0)
    cold.try_trial(9.0)
    cold.trial_succeeded(10.0)
    assert fleet.ask(draw=0.05)[0] == ("pg2", "pg3")
    assert fleet.ask(draw=0.5)[0] == ("pg3",)
    fleet.breakers["pg3"].overdue(10.0, "frozen")
    assert fleet.ask(draw=0.5)[0] == ("pg2",)


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (Contract(max_lag_bytes=100), ("pg3",)),
        (Contract(max_lag_bytes=99), ()),
        (Contract(max_lag_bytes=4000), ("pg3", "pg2")),  # more than the fleet's own limit
        (Contract(after=token(1000)), ("pg3", "pg2")),
        (Contract(after=token(1001)), ("pg3",)),
        (Contract(after=token(4901)), ()),
        (Contract(after=token(1000), max_lag_bytes=100), ("pg3",)),
    ],
)
def test_only_who_meets_the_contract_is_a_candidate(
    contract: Contract, expected: tuple[str, ...]
) -> None:
    assert Fleet(pg2=1000, pg3=4900).ask(contract) == (expected, Then.SPILL)


def test_age_is_told_from_the_primary_and_unknown_is_too_old() -> None:
    fleet = Fleet(pg3=4999)
    assert fleet.ask(Contract(max_lag_seconds=0.2)) == (("pg2",), Then.SPILL)
    assert fleet.ask(Contract(max_lag_seconds=0.05)) == ((), Then.SPILL)


def test_a_cut_off_primary_makes_every_replica_too_old_in_time() -> None:
    fleet = Fleet()
    fleet.now = 60.0
    assert fleet.ask(Contract(max_lag_seconds=5.0)) == ((), Then.SPILL)
    assert fleet.ask(Contract(max_lag_bytes=10**9)) == ((), Then.SPILL)


@pytest.mark.parametrize(
    ("otherwise", "then"),
    [
        (Otherwise.PRIMARY, Then.SPILL),
        (Otherwise.RAISE, Then.REFUSE),
        (Otherwise.WAIT, Then.WAIT),
    ],
)
def test_the_caller_chooses_what_happens_otherwise(otherwise: Otherwise, then: Then) -> None:
    assert Fleet().ask(Contract(after=token(5001), otherwise=otherwise)) == ((), then)
    assert Fleet(pg2=1, pg3=1).ask(Contract(max_lag_bytes=0, otherwise=otherwise)) == ((), then)
    assert Fleet(pg2=None, pg3=None).ask(Contract(otherwise=otherwise)) == ((), then)


def test_a_lone_server_waits_for_no_replica() -> None:
    fleet = Fleet()
    fleet.topology = decide(
        [Answer("pg1", False, 1, CLUSTER, 5000, False)], fence=Fence(CLUSTER, 1), max_lag_bytes=0
    )
    assert fleet.ask(Contract(otherwise=Otherwise.WAIT)) == ((), Then.SPILL)
    assert fleet.ask(Contract(otherwise=Otherwise.RAISE)) == ((), Then.REFUSE)


def test_a_token_of_a_timeline_to_come_is_not_read_on_this_primary() -> None:
    fleet = Fleet()
    assert fleet.ask(Contract(after=token(1, timeline=2))) == ((), Then.LOOK_AGAIN)
    assert fleet.ask(Contract(strong=True, after=token(1, timeline=2))) == ((), Then.LOOK_AGAIN)


def test_a_primary_the_ledger_does_not_know_yet_proves_nothing() -> None:
    fleet = Fleet()
    fleet.topology = decide(
        [Answer("pg1", False, 2, CLUSTER, 6000, False)],
        fence=fleet.topology.fence,
        max_lag_bytes=LIMIT,
    )
    assert fleet.ask(Contract(after=token(1))) == ((), Then.LOOK_AGAIN)


def test_a_lost_or_foreign_token_is_an_error() -> None:
    fleet = Fleet()
    fleet.ledger.primary_seen(
        "pg3", started_at=10.0, timeline=2, position=5100, system_identifier=CLUSTER
    )
    fleet.topology = decide(
        [Answer("pg3", False, 2, CLUSTER, 5100, False)],
        fence=fleet.topology.fence,
        max_lag_bytes=LIMIT,
    )
    assert fleet.ask(Contract(after=token(5000))) == ((), Then.SPILL)
    with pytest.raises(TokenUnproven):
        fleet.ask(Contract(after=token(5001)))
    with pytest.raises(ForeignToken):
        fleet.ask(Contract(after=Token(8, 1, 1)))


def test_a_mark_just_made_is_read_on_the_primary_until_its_sample() -> None:
    fleet = Fleet()
    contract = Contract(after=Mark("pg1", 9.95, 1))
    assert fleet.ask(contract) == ((), Then.SPILL)
    fleet.ledger.primary_seen(
        "pg1", started_at=9.96, timeline=1, position=5000, system_identifier=CLUSTER
    )
    assert fleet.ask(contract) == (("pg2", "pg3"), Then.SPILL)


def test_a_session_stays_where_it_read_until_its_sample() -> None:
    fleet, trail = Fleet(), Trail()
    trail.note(Mark("pg2", 9.95, 1, fleet.ledger.epoch("pg2")))
    assert fleet.ask(trail=trail) == (("pg2",), Then.SPILL)
    fleet.ledger.replica_seen("pg2", started_at=9.96, timeline=1, position=4990)
    assert fleet.ask(trail=trail) == (("pg2",), Then.SPILL)
    fleet.ledger.replica_seen("pg2", started_at=9.97, timeline=1, position=4995)
    assert fleet.ask(trail=trail) == (("pg2", "pg3"), Then.SPILL)
    assert trail.floor == token(4995)
    assert trail.pending == ()


def test_a_session_does_not_stay_on_a_node_that_has_been_away() -> None:
    fleet, trail = Fleet(), Trail()
    trail.note(Mark("pg2", 9.95, 1, fleet.ledger.epoch("pg2")))
    fleet.ledger.silent("pg2")
    fleet.ledger.replica_seen("pg2", started_at=9.96, timeline=1, position=10)
    assert fleet.ask(trail=trail) == ((), Then.SPILL)


def test_a_session_that_read_on_two_nodes_goes_to_the_primary() -> None:
    fleet, trail = Fleet(), Trail()
    trail.note(Mark("pg2", 9.95, 1))
    trail.note(Mark("pg3", 9.96, 1))
    assert fleet.ask(trail=trail) == ((), Then.SPILL)


def test_a_session_never_goes_back_behind_its_floor() -> None:
    fleet = Fleet(pg2=4900)
    assert fleet.ask(trail=Trail(token(4950))) == (("pg3",), Then.SPILL)
    assert fleet.ask(Contract(after=token(4960)), trail=Trail(token(1))) == (("pg3",), Then.SPILL)
    assert fleet.ask(Contract(after=token(1)), trail=Trail(token(4960))) == (("pg3",), Then.SPILL)


def test_a_session_begins_on_no_branch_that_the_primary_has_left() -> None:
    fleet = Fleet()
    fleet.ledger.replica_seen("pg2", started_at=9.9, timeline=0, position=5000)
    assert fleet.ask(trail=Trail()) == (("pg3",), Then.SPILL)


def test_a_floor_never_sinks() -> None:
    fleet, trail = Fleet(), Trail(token(4980))
    trail.note(Mark("pg2", 9.95, 1))
    fleet.ledger.replica_seen("pg2", started_at=9.96, timeline=1, position=4000, complete=True)
    trail.settle(fleet.ledger)
    assert trail.floor == token(4980)
    assert trail.pending == ()


def test_a_copy_of_a_trail_is_of_its_own() -> None:
    fleet, trail = Fleet(), Trail(token(4000))
    trail.note(Mark("pg2", 9.85, 1))
    copied = trail.copy()
    assert (copied.floor, copied.pending) == (trail.floor, trail.pending)
    copied.settle(fleet.ledger)
    copied.note(Mark("pg3", 9.95, 1))
    assert copied.floor == token(5000)
    assert trail.floor == token(4000)
    assert trail.pending == (Mark("pg2", 9.85, 1),)


def test_a_session_keeps_one_mark_for_each_node() -> None:
    trail = Trail()
    for at in range(1000):
        trail.note(Mark("pg2", float(at), 1))
    assert trail.pending == (Mark("pg2", 999.0, 1),)


# Mostly what holds: then each demand alone decides often enough.
TIMELINES = st.sampled_from([1, 1, 1, 1, 0, 2])
TOKENS = st.builds(token, st.sampled_from([1, 1, 4995, 5005]), TIMELINES)
MARKS = st.builds(
    Mark,
    st.sampled_from(["pg1", "pg2", "pg3"]),
    st.sampled_from([9.8, 9.95, 10.5]),
    TIMELINES,
    st.sampled_from([0, 0, 1]),
)
CONTRACTS = st.builds(
    Contract,
    strong=st.sampled_from([False, False, False, True]),
    max_lag_seconds=st.sampled_from([None, None, None, 0.05, 1.0]),
    max_lag_bytes=st.sampled_from([None, None, None, 5, 100]),
    after=st.none() | st.none() | TOKENS | MARKS,
    otherwise=st.sampled_from(list(Otherwise)),
)


@settings(max_examples=1000)
@given(
    contract=CONTRACTS,
    pg2=st.sampled_from([4990, 5000, 5010]),
    pg3=st.sampled_from([4000, 4990, 5000]),
    on=TIMELINES,
    primary=st.sampled_from([None, 5000, 5000, 5000, 5010]),
    fenced=st.sampled_from([1, 1, 1, 2]),
    floor=st.none() | TOKENS,
    seen=st.none() | st.lists(MARKS, max_size=2),
)
def test_one_server_is_judged_as_among_all(
    contract: Contract,
    pg2: int,
    pg3: int,
    on: int,
    primary: int | None,
    fenced: int,
    floor: Token | None,
    seen: list[Mark] | None,
) -> None:
    fleet = Fleet(pg2=pg2, pg3=pg3, primary=primary)
    fleet.topology = replace(fleet.topology, fence=Fence(CLUSTER, fenced))
    fleet.ledger.replica_seen("pg3", started_at=9.9, timeline=on, position=pg3)

    def trail() -> Trail | None:
        if seen is None:
            return None
        made = Trail(floor)
        for mark in seen:
            made.note(mark)
        return made

    try:
        candidates, _ = fleet.ask(contract, trail=trail())
    except TokenError:
        candidates = ()
    topology = fleet.topology
    for name in topology.replicas if topology.primary else topology.adrift:
        try:
            served = serves(
                name, contract, fleet.topology, fleet.ledger, now=fleet.now, trail=trail()
            )
        except TokenError:
            served = False
        if contract.is_eventual and seen is None:
            continue  # who demands nothing does not come here
        assert served == (name in candidates)
