"""What happens after a failure: the design's table, row by row."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.retries import Action, Backoff, Trouble, Work, decide_retry, trouble

READ, WRITE, TRANSACTION = Work.READ, Work.WRITE, Work.TRANSACTION


@pytest.mark.parametrize("state", [None, "08001", "08004", "08006", "57P03", "53300", "57P01"])
def test_before_anything_was_sent_it_is_tried_elsewhere(state: str | None) -> None:
    what = trouble(state, sent=False)
    assert what is Trouble.NOTHING_SENT
    assert decide_retry(what, READ) is Action.NEXT_NODE
    assert decide_retry(what, WRITE) is Action.REDISCOVER
    assert decide_retry(what, TRANSACTION) is Action.RERUN
    assert decide_retry(what, TRANSACTION, first_statement=False) is Action.RAISE


@pytest.mark.parametrize("state", ["28P01", "28000", "3D000", "42501"])
def test_a_refusal_to_let_in_is_not_tried_again(state: str) -> None:
    assert trouble(state, sent=False) is Trouble.PERMANENT


def test_read_only_goes_to_the_primary_once() -> None:
    what = trouble("25006", sent=True, on_standby=True)
    assert decide_retry(what, READ) is Action.PRIMARY_AND_REMEMBER
    assert decide_retry(what, READ, attempts=2) is Action.RAISE
    assert decide_retry(what, WRITE) is Action.REDISCOVER_ONCE
    assert decide_retry(what, WRITE, attempts=2) is Action.RAISE
    assert decide_retry(what, TRANSACTION) is Action.RERUN


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_rolled_back_on_the_primary_is_tried_there_again(state: str) -> None:
    what = trouble(state, sent=True)
    assert what is Trouble.ROLLED_BACK
    assert decide_retry(what, WRITE) is Action.RETRY
    assert decide_retry(what, TRANSACTION, commit_sent=True) is Action.RERUN


@pytest.mark.parametrize("state", ["40001", "40P01", "57P04"])
def test_a_recovery_conflict_leaves_the_standby(state: str) -> None:
    what = trouble(state, sent=True, on_standby=True, connection_lost=state == "57P04")
    assert what is Trouble.RECOVERY_CONFLICT
    assert decide_retry(what, READ) is Action.NEXT_NODE
    assert decide_retry(what, WRITE) is Action.RAISE
    assert decide_retry(what, TRANSACTION, read_only=True) is Action.RERUN
    assert decide_retry(what, TRANSACTION) is Action.RAISE


def test_a_dropped_database_is_no_conflict_on_the_primary() -> None:
    assert trouble("57P04", sent=True, connection_lost=True) is Trouble.PERMANENT


@pytest.mark.parametrize("state", ["57P01", "57P02", "57P05", "08006", "08003", "08000", None])
def test_a_connection_lost_in_the_middle(state: str | None) -> None:
    what = trouble(state, sent=True, connection_lost=True)
    assert what is Trouble.CONNECTION_LOST
    assert decide_retry(what, READ) is Action.NEXT_NODE
    assert decide_retry(what, WRITE) is Action.RAISE
    assert decide_retry(what, WRITE, idempotent=True) is Action.REDISCOVER
    assert decide_retry(what, TRANSACTION) is Action.RERUN
    assert decide_retry(what, TRANSACTION, commit_sent=True) is Action.RESOLVE_COMMIT
    read_only = decide_retry(what, TRANSACTION, commit_sent=True, read_only=True)
    assert read_only is Action.RERUN


@pytest.mark.parametrize("state", ["57014", "55P03", "53200", "53100", "53300"])
@pytest.mark.parametrize("work", Work)
def test_a_limit_is_not_tried_again(state: str, work: Work) -> None:
    what = trouble(state, sent=True)
    assert what is Trouble.LIMIT
    assert decide_retry(what, work, idempotent=True, read_only=True) is Action.RAISE


@pytest.mark.parametrize("what", Trouble)
def test_what_has_committed_in_part_is_not_run_again(what: Trouble) -> None:
    assert decide_retry(what, TRANSACTION, committed=True) is Action.RAISE
    again = decide_retry(what, TRANSACTION, read_only=True)
    assert decide_retry(what, TRANSACTION, read_only=True, committed=True) is again


@pytest.mark.parametrize("what", [Trouble.ROLLED_BACK, Trouble.STALE_PLAN])
def test_what_may_have_committed_midway_is_not_tried_again_unasked(what: Trouble) -> None:
    assert decide_retry(what, WRITE) is not Action.RAISE
    assert decide_retry(what, WRITE, undone_whole=False) is Action.RAISE
    assert decide_retry(what, WRITE, undone_whole=False, idempotent=True) is not Action.RAISE
    assert decide_retry(what, READ, undone_whole=False) is not Action.RAISE


def test_a_stale_plan_is_told_by_who_raised_it_in_any_language() -> None:
    assert trouble("0A000", sent=True, source="RevalidateCachedQuery") is Trouble.STALE_PLAN
    assert trouble("0A000", sent=True, source="ProcessUtility") is Trouble.PERMANENT


def test_our_own_deadline_sends_a_read_elsewhere_and_nothing_else() -> None:
    what = trouble("57014", sent=True, own_deadline=True)
    assert decide_retry(what, READ) is Action.NEXT_NODE
    assert decide_retry(what, READ, attempts=2) is Action.RAISE  # the statement is slow
    assert decide_retry(what, WRITE) is Action.RAISE
    assert decide_retry(what, TRANSACTION) is Action.RAISE


@pytest.mark.parametrize(
    ("state", "message"), [("26000", ""), ("0A000", "cached plan must not change result type")]
)
def test_a_stale_plan_is_dropped_and_tried_once(state: str, message: str) -> None:
    what = trouble(state, sent=True, message=message)
    assert what is Trouble.STALE_PLAN
    for work in (READ, WRITE):
        assert decide_retry(what, work) is Action.DEALLOCATE
        assert decide_retry(what, work, attempts=2) is Action.RAISE
    assert decide_retry(what, TRANSACTION) is Action.RAISE


@pytest.mark.parametrize(
    "state",
    ["22012", "23505", "28P01", "42601", "58030", "XX000", "XX001", "0A000", "25P02", "P0001"],
)
@pytest.mark.parametrize("work", Work)
@pytest.mark.parametrize("sent", [True, False])
def test_what_is_wrong_everywhere_is_never_tried_again(state: str, work: Work, sent: bool) -> None:
    what = trouble(state, sent=sent, on_standby=True)
    assert decide_retry(what, work, idempotent=True, read_only=True) is Action.RAISE


@given(
    state=st.one_of(st.none(), st.text("0123456789ABCDEFPX", min_size=5, max_size=5)),
    sent=st.booleans(),
    standby=st.booleans(),
    lost=st.booleans(),
    own=st.booleans(),
    attempts=st.integers(1, 3),
)
def test_a_write_that_may_have_happened_is_never_repeated_unasked(
    state: str | None, sent: bool, standby: bool, lost: bool, own: bool, attempts: int
) -> None:
    what = trouble(state, sent=sent, on_standby=standby, connection_lost=lost, own_deadline=own)
    surely_not_done = {
        Trouble.NOTHING_SENT,
        Trouble.READ_ONLY,
        Trouble.ROLLED_BACK,
        Trouble.STALE_PLAN,
    }
    if decide_retry(what, WRITE, attempts=attempts) is not Action.RAISE:
        assert what in surely_not_done
    if what is Trouble.CONNECTION_LOST:
        assert decide_retry(what, TRANSACTION, commit_sent=True) is Action.RESOLVE_COMMIT
    if sent and state is None:
        assert what is not Trouble.NOTHING_SENT


@given(seed=st.integers(), steps=st.lists(st.floats(0, 0.5), max_size=30))
def test_pauses_stay_under_their_rising_cap_and_within_the_deadline(
    seed: int, steps: list[float]
) -> None:
    backoff, now, cap = Backoff(Random(seed), deadline=5.0, base=0.015, cap=1.0), 0.0, 0.015
    for step in steps:
        pause = backoff.pause(now)
        if now >= 5.0:
            assert pause is None
            return
        assert pause is not None
        assert 0 <= pause <= cap
        assert now + pause <= 5.0
        now, cap = now + pause + step, min(cap * 2, 1.0)


def test_pauses_differ_and_use_the_whole_range() -> None:
    class Highest(Random):
        def random(self) -> float:
            return 1.0

    backoff = Backoff(Highest(), deadline=100.0)
    pauses = [backoff.pause(0.0) for _ in range(9)]
    assert pauses == pytest.approx([0.015, 0.03, 0.06, 0.12, 0.24, 0.48, 0.96, 1.0, 1.0])
