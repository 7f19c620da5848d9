"""The ledger, promise by promise. What holds in any history is in test_ledger_history.py."""

from __future__ import annotations

import pytest

from pgroute.core.ledger import Ledger, Standing
from pgroute.core.lsn import Mark, Token
from pgroute.errors import ForeignToken, TokenUnproven

CLUSTER = 7


def fed(*samples: tuple[float, int], timeline: int = 1, history: int = 64) -> Ledger:
    ledger = Ledger(history=history)
    for started_at, position in samples:
        primary(ledger, started_at, position, timeline=timeline)
    return ledger


def primary(
    ledger: Ledger, started_at: float, position: int, *, node: str = "pg1", timeline: int = 1
) -> None:
    ledger.primary_seen(
        node,
        started_at=started_at,
        timeline=timeline,
        position=position,
        system_identifier=CLUSTER,
    )


def replica(
    ledger: Ledger,
    started_at: float,
    position: int | None,
    *,
    node: str = "pg2",
    timeline: int = 1,
    complete: bool = False,
) -> None:
    ledger.replica_seen(
        node, started_at=started_at, timeline=timeline, position=position, complete=complete
    )


def wrote(ended_at: float, *, timeline: int = 1) -> Mark:
    return Mark("pg1", ended_at, timeline)


def test_a_write_is_covered_by_the_first_sample_that_started_after_it() -> None:
    ledger = fed((1.0, 100), (2.0, 200), (3.0, 300))
    assert ledger.settle(wrote(1.5)) == Token(CLUSTER, 1, 200)
    assert ledger.settle(wrote(2.0)) == Token(CLUSTER, 1, 200)
    assert ledger.settle(wrote(2.1)) == Token(CLUSTER, 1, 300)
    assert ledger.settle(wrote(3.1)) is None


def test_a_position_that_does_not_move_settles_marks_too() -> None:
    ledger = fed((1.0, 100), (2.0, 100), (3.0, 100))
    assert ledger.settle(wrote(2.5)) == Token(CLUSTER, 1, 100)


def test_nothing_is_known_before_the_first_sample() -> None:
    ledger = Ledger()
    assert ledger.settle(wrote(1.0)) is None
    assert ledger.staleness("pg2", 1.0) is None
    assert ledger.lag_bytes("pg2", 1.0) is None
    replica(ledger, 1.0, 500)
    assert not ledger.holds("pg2", Token(CLUSTER, 1, 1))
    assert ledger.staleness("pg2", 1.0) is None
    assert ledger.lag_bytes("pg2", 1.0) is None


def test_a_replica_is_safe_at_the_token_and_not_before() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    assert ledger.holds("pg2", Token(CLUSTER, 1, 100))
    assert not ledger.holds("pg2", Token(CLUSTER, 1, 101))
    assert not ledger.holds("pg3", Token(CLUSTER, 1, 100))


def test_a_replica_of_another_timeline_is_not_safe() -> None:
    ledger = fed((1.0, 100), timeline=2)
    replica(ledger, 1.0, 500, timeline=1)
    assert not ledger.holds("pg2", Token(CLUSTER, 2, 100))
    assert ledger.staleness("pg2", 1.0) is None
    assert ledger.lag_bytes("pg2", 1.0) is None


def test_a_silent_replica_is_unknown() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    ledger.silent("pg2")
    assert not ledger.holds("pg2", Token(CLUSTER, 1, 100))
    assert ledger.lag_bytes("pg2", 1.0) is None


def test_a_replica_that_does_not_know_its_position_is_unknown() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    replica(ledger, 2.0, None)
    assert ledger.lag_bytes("pg2", 1.0) is None


def test_staleness_counts_from_the_newest_sample_replayed() -> None:
    ledger = fed((1.0, 100), (2.0, 200), (3.0, 300))
    replica(ledger, 3.5, 250)
    assert ledger.staleness("pg2", 10.0) == 8.0
    assert ledger.lag_bytes("pg2", 3.5) == 50


def test_an_idle_primary_keeps_its_replica_fresh() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    primary(ledger, 9.0, 100)
    assert ledger.staleness("pg2", 10.0) == 1.0


def test_staleness_grows_while_the_primary_is_silent() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    replica(ledger, 59.0, 100)
    assert ledger.staleness("pg2", 60.0) == 59.0


def test_a_primary_silent_for_long_makes_lag_in_bytes_unknown() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    assert ledger.lag_bytes("pg2", 2.0) == 0
    assert ledger.lag_bytes("pg2", 2.1) is None


def test_a_replica_behind_all_that_is_remembered_is_unknown() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 99)
    assert ledger.staleness("pg2", 1.0) is None


def test_a_token_of_another_cluster_is_refused() -> None:
    ledger = fed((1.0, 100))
    with pytest.raises(ForeignToken, match=r"cluster 8.*is 7"):
        ledger.standing(Token(8, 1, 1))


def test_a_token_of_a_timeline_to_come_is_ahead() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 500)
    assert ledger.standing(Token(CLUSTER, 2, 50)) is Standing.AHEAD
    assert not ledger.holds("pg2", Token(CLUSTER, 2, 50))


def failed_over(*, seen_at: int | None = 100) -> Ledger:
    """pg2, last seen at a position or not at all, has taken over on timeline 2."""
    ledger = fed((1.0, 150))
    if seen_at is not None:
        replica(ledger, 1.0, seen_at)
    primary(ledger, 2.0, 300, node="pg2", timeline=2)
    return ledger


def test_after_a_failover_a_token_counts_up_to_what_the_new_primary_had() -> None:
    ledger = failed_over()
    assert ledger.standing(Token(CLUSTER, 1, 100)) is Standing.PROVEN
    assert ledger.standing(Token(CLUSTER, 1, 101)) is Standing.UNPROVEN
    with pytest.raises(TokenUnproven, match=r"timeline 1; pg2.*timeline 2"):
        ledger.prove(Token(CLUSTER, 1, 101))


def test_a_new_primary_that_was_seen_ending_its_recovery_has_what_it_had_before() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.0, 100)
    replica(ledger, 1.1, 110, timeline=2)
    replica(ledger, 1.2, 120, timeline=2)
    primary(ledger, 2.0, 300, node="pg2", timeline=2)
    assert ledger.standing(Token(CLUSTER, 1, 100)) is Standing.PROVEN
    assert ledger.standing(Token(CLUSTER, 1, 101)) is Standing.UNPROVEN


def test_without_a_last_position_no_older_token_counts() -> None:
    assert failed_over(seen_at=None).standing(Token(CLUSTER, 1, 1)) is Standing.UNPROVEN


def test_a_new_primary_that_was_silent_in_between_proves_nothing() -> None:
    ledger = fed((1.0, 150))
    replica(ledger, 1.0, 100)
    ledger.silent("pg2")
    primary(ledger, 2.0, 300, node="pg2", timeline=2)
    assert ledger.standing(Token(CLUSTER, 1, 1)) is Standing.UNPROVEN


def test_a_timeline_that_was_skipped_proves_nothing() -> None:
    ledger = fed((1.0, 150))
    replica(ledger, 1.0, 100)
    primary(ledger, 2.0, 300, node="pg2", timeline=3)
    assert ledger.standing(Token(CLUSTER, 1, 1)) is Standing.UNPROVEN


def test_over_two_failovers_the_lowest_switch_counts() -> None:
    ledger = failed_over(seen_at=100)
    replica(ledger, 2.0, 80, node="pg3", timeline=2)
    primary(ledger, 3.0, 400, node="pg3", timeline=3)
    assert ledger.standing(Token(CLUSTER, 1, 80)) is Standing.PROVEN
    assert ledger.standing(Token(CLUSTER, 1, 81)) is Standing.UNPROVEN
    assert ledger.standing(Token(CLUSTER, 2, 81)) is Standing.UNPROVEN


def test_a_replica_on_the_new_timeline_holds_a_proven_older_token() -> None:
    ledger = failed_over()
    replica(ledger, 3.0, 320, node="pg3", timeline=2)
    assert ledger.holds("pg3", Token(CLUSTER, 1, 100))
    assert not ledger.holds("pg3", Token(CLUSTER, 1, 101))


def test_the_old_primary_is_not_listened_to_any_more() -> None:
    ledger = failed_over()
    primary(ledger, 9.0, 9_000)
    assert ledger.timeline == 2
    assert ledger.settle(wrote(9.0, timeline=2)) is None


def test_a_write_just_before_the_failover_settles_or_is_told_lost() -> None:
    ledger = failed_over()
    assert ledger.settle(wrote(0.5)) == Token(CLUSTER, 1, 150)
    with pytest.raises(TokenUnproven, match=r"pg1.*timeline 1"):
        ledger.settle(wrote(1.5))


def test_a_mark_of_a_timeline_not_sampled_yet_waits() -> None:
    assert fed((1.0, 100)).settle(wrote(0.5, timeline=2)) is None


def test_a_read_on_a_replica_settles_by_its_next_position() -> None:
    """What was seen may be a commit that the replica had not counted yet at 2.0."""
    ledger = fed((1.0, 100), (2.0, 200))
    mark = Mark("pg2", 1.99, 1)
    replica(ledger, 1.9, 80)
    replica(ledger, 2.0, 90)
    assert ledger.settle(mark) is None
    replica(ledger, 2.01, 90)
    assert ledger.settle(mark) is None
    replica(ledger, 2.02, 110)
    assert ledger.settle(mark) == Token(CLUSTER, 1, 110)
    replica(ledger, 2.03, 110)
    assert ledger.settle(mark) == Token(CLUSTER, 1, 110)
    assert ledger.settle(Mark("pg2", 2.015, 1)) is None


def test_a_read_on_a_replica_that_has_replayed_all_it_received_settles_at_once() -> None:
    ledger = fed((1.0, 100))
    replica(ledger, 1.98, 90, complete=True)
    assert ledger.settle(Mark("pg2", 1.99, 1)) is None
    replica(ledger, 2.0, 90, complete=True)
    assert ledger.settle(Mark("pg2", 1.99, 1)) == Token(CLUSTER, 1, 90)


def test_a_read_on_a_replica_that_has_all_settles_at_once() -> None:
    ledger = fed((1.0, 100), (2.0, 100))
    replica(ledger, 2.0, 100)
    assert ledger.settle(Mark("pg2", 1.99, 1)) == Token(CLUSTER, 1, 100)


def test_a_read_on_a_replica_that_stands_still_settles_by_the_primary() -> None:
    ledger = fed((1.0, 100), (2.0, 200))
    replica(ledger, 2.2, 90)
    assert ledger.settle(Mark("pg2", 1.99, 1)) is None
    replica(ledger, 2.3, 90)
    assert ledger.settle(Mark("pg2", 1.99, 1)) == Token(CLUSTER, 1, 200)


def test_a_replica_whose_position_fell_has_told_no_lower_one() -> None:
    ledger = fed((1.0, 100), (2.0, 200))
    replica(ledger, 2.0, 90)
    replica(ledger, 2.01, 80)
    assert ledger.settle(Mark("pg2", 1.99, 1)) is None


def test_a_read_on_a_replica_that_went_away_settles_by_the_primary() -> None:
    ledger = fed((1.0, 100))
    mark = Mark("pg2", 1.5, 1, ledger.epoch("pg2"))
    ledger.silent("pg2")
    replica(ledger, 2.0, 10)
    assert ledger.settle(mark) is None
    primary(ledger, 3.0, 120)
    assert ledger.settle(mark) == Token(CLUSTER, 1, 120)


def test_merged_tokens_are_behind_neither() -> None:
    ledger = failed_over()
    assert ledger.merge(None, Token(7, 1, 5)) == Token(7, 1, 5)
    assert ledger.merge(Token(7, 1, 9), Token(7, 1, 5)) == Token(7, 1, 9)
    assert ledger.merge(Token(7, 2, 60), Token(7, 1, 90)) == Token(7, 2, 90)
    with pytest.raises(TokenUnproven):
        ledger.merge(Token(7, 1, 101), Token(7, 2, 500))


def test_another_cluster_begins_an_empty_book() -> None:
    ledger = failed_over()
    ledger.primary_seen("pg9", started_at=5.0, timeline=5, position=10, system_identifier=8)
    with pytest.raises(ForeignToken):
        ledger.standing(Token(CLUSTER, 2, 1))
    assert ledger.view("pg2") is None


def test_an_answer_that_was_overtaken_changes_nothing() -> None:
    ledger = fed((1.0, 100), (3.0, 300), (2.0, 200))
    assert ledger.settle(wrote(2.5)) == Token(CLUSTER, 1, 300)
    assert ledger.settle(wrote(3.5)) is None


def test_a_timeline_begun_by_two_servers_proves_nothing_of_the_first() -> None:
    ledger = fed((1.0, 100), (2.0, 200), timeline=2)
    primary(ledger, 5.0, 150, node="pg3", timeline=2)
    assert ledger.standing(Token(CLUSTER, 2, 120)) is Standing.UNPROVEN
    assert ledger.standing(Token(CLUSTER, 2, 200)) is Standing.UNPROVEN
    with pytest.raises(TokenUnproven):
        ledger.settle(wrote(1.5, timeline=2))
    with pytest.raises(TokenUnproven):
        ledger.merge(Token(CLUSTER, 2, 120), Token(CLUSTER, 2, 250))
    primary(ledger, 6.0, 250, node="pg3", timeline=2)
    assert ledger.settle(Mark("pg3", 5.5, 2)) == Token(CLUSTER, 2, 250)
    assert ledger.standing(Token(CLUSTER, 2, 250)) is Standing.PROVEN


def test_a_primary_that_crashed_may_begin_a_little_earlier() -> None:
    ledger = fed((1.0, 100), (2.0, 200))
    primary(ledger, 5.0, 190)
    assert ledger.settle(wrote(4.0)) == Token(CLUSTER, 1, 190)
    replica(ledger, 5.0, 190)
    assert ledger.lag_bytes("pg2", 5.0) == 0
    assert ledger.standing(Token(CLUSTER, 1, 200)) is Standing.PROVEN


def test_memory_is_bounded_and_bounds_stay_right() -> None:
    ledger = fed(*((float(at), at * 10) for at in range(10_000)), history=16)
    starts, positions = ledger._history._runs  # what is bounded is nobody else's business
    assert len(starts) == len(positions) <= 16
    for moment in (0.0, 5_000.0, 9_990.0, 9_999.0):
        token = ledger.settle(wrote(moment))
        assert token is not None
        assert token.position >= moment * 10
    replica(ledger, 10_000.0, 50_005)
    told = ledger.staleness("pg2", 10_000.0)
    assert told is not None
    assert told >= 5_000.0


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        Ledger(history=3)
