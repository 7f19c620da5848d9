"""What may not be shown yet, from the primary's answers."""

from __future__ import annotations

from pgroute.routing.shown import Unshown


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
