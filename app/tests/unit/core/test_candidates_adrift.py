"""Who may serve a contract while there is no primary: whoever provably meets it."""

from __future__ import annotations

from pgroute.core.candidates import Selection, Then, select
from pgroute.core.contracts import Contract
from pgroute.core.ledger import Ledger
from pgroute.core.lsn import Mark, Token
from pgroute.core.topology import Answer, Fence, Silence, decide
from pgroute.core.trail import Trail

CLUSTER = 7


def asked(contract: Contract, *, now: float = 10.0, trail: Trail | None = None) -> Selection:
    """pg1 is silent since 9.9, when it was at 5000; pg2 holds all of that, pg3 does not."""
    ledger = Ledger()
    ledger.primary_seen("pg1", started_at=9.9, timeline=1, position=5000, system_identifier=CLUSTER)
    seen: list[Answer | Silence] = [Silence("pg1", "no answer")]
    for name, position in (("pg2", 5000), ("pg3", 4000)):
        seen.append(Answer(name, True, 1, CLUSTER, position, True))
        ledger.replica_seen(name, started_at=9.9, timeline=1, position=position)
    topology = decide(seen, fence=Fence(CLUSTER, 1), max_lag_bytes=1000)
    return select(contract, topology, ledger, now=now, trail=trail)


def test_replica_that_holds_the_token_serves_without_a_primary() -> None:
    found = asked(Contract(after=Token(CLUSTER, 1, 5000)))
    assert (found.candidates, found.then) == (("pg2",), Then.REFUSE)


def test_token_beyond_every_replica_is_refused_without_a_primary() -> None:
    assert asked(Contract(after=Token(CLUSTER, 1, 5001))).candidates == ()


def test_mark_that_has_not_settled_is_refused_without_a_primary() -> None:
    assert asked(Contract(after=Mark("pg1", 9.95, 1, 0))).candidates == ()


def test_lag_is_kept_for_as_long_as_it_can_be_told() -> None:
    contract = Contract(max_lag_seconds=0.5)
    assert asked(contract).candidates == ("pg2",)
    assert asked(contract, now=10.5).candidates == ()


def test_session_goes_on_without_a_primary() -> None:
    trail = Trail(Token(CLUSTER, 1, 4500))
    assert asked(Contract(), trail=trail).candidates == ("pg2",)
