"""The breaker: one machine against a plain model, and its promises one by one."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgroute.core.breaker import Breaker, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def breaker() -> Breaker:
    return Breaker(threshold=3, forget=1e9, pause=1.0, longest_pause=4.0, trial=0.5, warm_up=10.0)


def half_open(now: float = 1.0) -> Breaker:
    made = breaker()
    made.overdue(now - 1.0, "no answer")
    made.answered(now)
    assert made.state is HALF_OPEN
    return made


def test_single_errors_between_successes_do_not_open_it() -> None:
    made = breaker()
    for _ in range(10):
        made.failed(0.0, "lost")
        made.failed(0.0, "lost")
        made.succeeded()
    assert made.state is CLOSED


def test_errors_long_apart_do_not_open_it() -> None:
    made = Breaker(threshold=2, forget=5.0)
    for at in range(10):
        made.failed(at * 5.1, "lost")
    assert made.state is CLOSED
    made.failed(9 * 5.1 + 4.9, "lost")
    assert made.state is OPEN


def test_errors_in_a_row_open_it_and_say_why() -> None:
    made = breaker()
    for _ in range(3):
        made.failed(0.0, "connection refused")
    assert (made.state, made.why) == (OPEN, "connection refused")


def test_one_deadline_opens_it() -> None:
    made = breaker()
    made.overdue(0.0, "no answer within 1 s")
    assert made.state is OPEN


def test_an_open_one_waits_for_its_pause_and_for_an_answer() -> None:
    made = breaker()
    made.overdue(10.0, "frozen")
    made.answered(10.9)
    assert made.state is OPEN
    assert made.check(99.0) is OPEN  # time alone is no sign of life
    made.answered(99.0)
    assert made.state is HALF_OPEN


def test_one_trial_at_a_time() -> None:
    made = half_open()
    assert [made.try_trial(1.0) for _ in range(3)] == [True, False, False]


def test_a_closed_or_open_one_gives_no_trial() -> None:
    made = breaker()
    assert not made.try_trial(0.0)
    made.overdue(0.0, "frozen")
    assert not made.try_trial(9.0)


def test_a_trial_that_succeeds_closes_and_warms_up() -> None:
    made = half_open()
    made.try_trial(1.0)
    made.trial_succeeded(2.0)
    assert (made.state, made.why) == (CLOSED, None)
    assert [made.weight(at) for at in (2.0, 7.0, 12.0, 99.0)] == pytest.approx([0.1, 0.55, 1, 1])


def test_a_node_that_was_never_out_is_warm() -> None:
    assert breaker().weight(0.0) == 1.0


def test_each_failed_trial_doubles_the_pause_up_to_a_limit() -> None:
    made, now, pauses = half_open(), 1.0, []
    for _ in range(4):
        assert made.try_trial(now)
        made.trial_failed(now, "still frozen")
        opened = now
        while made.state is OPEN:
            now += 0.25
            made.answered(now)
        pauses.append(now - opened)
    assert pauses == [2.0, 4.0, 4.0, 4.0]


def test_the_pause_is_short_again_after_a_good_time() -> None:
    made = half_open()
    made.try_trial(1.0)
    made.trial_failed(1.0, "frozen")
    made.answered(3.0)
    made.try_trial(3.0)
    made.trial_succeeded(3.0)
    made.overdue(50.0, "frozen")
    made.answered(51.0)
    assert made.state is HALF_OPEN


def test_a_trial_without_an_end_has_failed() -> None:
    made = half_open()
    made.try_trial(1.0)
    assert made.check(1.4) is HALF_OPEN
    assert made.check(1.5) is OPEN
    made.trial_succeeded(1.6)  # too late
    assert made.state is OPEN


def test_an_error_while_half_open_opens_it_at_once() -> None:
    made = half_open()
    made.failed(1.0, "refused")
    assert made.state is OPEN


class Machine(RuleBasedStateMachine):
    """Random events; the model knows only what is allowed to follow what."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = breaker()
        self.now = 0.0
        self.last = CLOSED
        self.trial = False
        self.opened_at = 0.0
        self.errors = 0

    def moved(self, *allowed: BreakerState) -> None:
        state = self.breaker.state
        assert state is self.last or state in allowed, (self.last, state)
        if state is OPEN and self.last is not OPEN:
            self.opened_at = self.now
        if state is not HALF_OPEN:
            self.trial = False
        self.last = state

    @rule(seconds=st.floats(0, 3))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.moved()

    @rule()
    def succeed(self) -> None:
        self.breaker.succeeded()
        self.errors = 0
        self.moved()

    @rule()
    def fail(self) -> None:
        before = self.last
        self.errors += 1
        self.breaker.failed(self.now, "lost")
        self.moved(OPEN)
        if before is HALF_OPEN or self.errors >= 3:
            assert self.last is OPEN
        if self.last is OPEN:
            self.errors = 0

    @rule()
    def exceed_a_deadline(self) -> None:
        self.breaker.overdue(self.now, "overdue")
        self.moved(OPEN)
        self.errors = 0
        assert self.last is OPEN

    @rule()
    def answer(self) -> None:
        self.breaker.answered(self.now)
        may = self.last is OPEN and self.now - self.opened_at >= 1.0
        self.moved(*([HALF_OPEN] if may else []))

    @rule()
    def look(self) -> None:
        self.breaker.check(self.now)
        self.moved(OPEN)
        if self.last is OPEN:
            self.errors = 0

    @rule()
    def begin_trial(self) -> None:
        given = self.breaker.try_trial(self.now)
        assert given == (self.last is HALF_OPEN and not self.trial)
        self.trial = self.trial or given
        self.moved()

    @rule()
    def trial_succeeds(self) -> None:
        self.breaker.trial_succeeded(self.now)
        was = self.trial
        self.moved(*([CLOSED] if was else []))
        if was:
            assert self.last is CLOSED
            self.errors = 0

    @rule()
    def trial_fails(self) -> None:
        if self.trial:
            self.breaker.trial_failed(self.now, "again")
            self.moved(OPEN)
            assert self.last is OPEN
            self.errors = 0

    @invariant()
    def weight_follows_state(self) -> None:
        weight = self.breaker.weight(self.now)
        assert 0.1 <= weight <= 1.0 if self.last is CLOSED else weight == 0.0

    @invariant()
    def it_says_why_it_is_not_closed(self) -> None:
        assert (self.breaker.why is None) == (self.last is CLOSED)


Machine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True
)
TestMachine = Machine.TestCase
