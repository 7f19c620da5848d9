"""What may not be shown yet, from the primary's answers, and who waits for it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from pgroute import TokenNotReached
from pgroute.routing.shown import COMMITTING_SECONDS, UNDER_WAY, Unshown

from .staged import ALL_WELL, Staged, node_of


def test_nothing_is_waited_for_when_nothing_is_under_way() -> None:
    assert Unshown().narrow(None, patient=True) == []


def test_only_what_was_under_way_at_first_is_waited_for() -> None:
    unshown = Unshown()
    assert sorted(unshown.narrow("7 8!", patient=True)) == ["7", "8"]
    assert unshown.narrow("8! 9!", patient=True) == ["8"]
    assert unshown.narrow("7 9!", patient=True) == []  # 7 has ended, its number came round again


def test_without_patience_only_who_surely_commits_is_waited_for() -> None:
    unshown = Unshown()
    assert unshown.narrow("7 8!", patient=False) == ["8"]
    assert sorted(unshown.narrow("7! 8", patient=True)) == ["7", "8"]


def session_after_a_standby(router: Staged, *answers: str | None) -> Any:
    """A session that has read a standby just now; what the primary says of who is under way."""
    session = router.session()
    session._trail.standby_read_at = router.clock()
    router.connection("pg1").answers = deque([(answer,)] for answer in answers)
    return session


def asked(router: Staged) -> int:
    return router.connection("pg1").done.count(UNDER_WAY)


@pytest.mark.parametrize("token_timeout", [None, 0.001])
def test_a_session_waits_for_who_may_be_committing(token_timeout: float | None) -> None:
    """However long it waits for tokens, and however much of that has gone by."""
    router = Staged(ALL_WELL)
    session = session_after_a_standby(router, "7 8", "8 9", "9")
    assert node_of(session.read("strong", token_timeout=token_timeout)) == "pg1"
    assert asked(router) == 3
    assert node_of(session.read("strong")) == "pg1"
    assert asked(router) == 3  # it is shown by now


def test_a_session_waits_for_who_is_not_done_for_a_while_only() -> None:
    router = Staged(ALL_WELL)
    session = session_after_a_standby(router, *["7"] * 1000)
    began = router.clock()
    assert node_of(session.read("strong")) == "pg1"
    assert router.clock() - began == pytest.approx(COMMITTING_SECONDS, abs=0.01)


@pytest.mark.parametrize(("answer", "timeout"), [("7", 0.2), ("7!", 30.0)])
def test_what_is_not_shown_in_time_is_said(answer: str, timeout: float) -> None:
    router = Staged(ALL_WELL)
    session = session_after_a_standby(router, *[answer] * 1000)
    with pytest.raises(TokenNotReached, match="pg1 does not show transaction 7 yet"):
        node_of(session.read("strong", timeout=timeout))
    assert not router.busy()
    assert session._trail.standby_read_at is not None


def test_who_is_interrupted_while_waiting_leaves_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Staged(ALL_WELL)
    session = session_after_a_standby(router, "7", "7")
    connection = router.connection("pg1")

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(router, "do_pause", interrupted)
    with pytest.raises(KeyboardInterrupt):
        node_of(session.read("strong"))
    assert not router.busy()
    assert router.pool("pg1").discarded == [connection]
