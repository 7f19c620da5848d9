"""Positions, tokens, keys, policies, text."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from uuid import UUID

import pytest

from pgroute import MalformedToken, RandomOrder, RoundRobin, Token, created_at, new_key
from pgroute.core.lsn import format_lsn, parse_lsn, reachable
from pgroute.people import FIVE, people, someone
from pgroute.text import size, table


@pytest.mark.parametrize("text", ["0/0", "0/3000148", "16/B374D848", "FFFFFFFF/FFFFFFFF"])
def test_lsn_survives_a_round_trip(text: str) -> None:
    assert format_lsn(parse_lsn(text)) == text


@pytest.mark.parametrize("text", ["", "0", "x/y", "0x1"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever int() says
        parse_lsn(text)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0x3000000, 0x3000000),
        (0x3000028, 0x3000000),  # after the header of a segment's first page
        (0x3002018, 0x3002000),  # after the header of a page
        (0x3002020, 0x3002020),
    ],
)
def test_a_position_after_a_page_header_is_reached_before_it(position: int, expected: int) -> None:
    assert reachable(position) == expected


def test_token_survives_a_round_trip() -> None:
    token = Token(7710404648205314538, 3, parse_lsn("16/B374D848"))
    assert str(token) == "7710404648205314538-3-16/B374D848"
    assert Token.parse(str(token)) == token


@pytest.mark.parametrize(
    "text", ["", "1-1", "1-1-0/", "a-1-0/0", "1-1-0/0 ", "1-1-0/0\n", "\u0661-1-0/0"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(MalformedToken):
        Token.parse(text)


def test_keys_are_uuidv7_of_this_moment_and_rise() -> None:
    before = datetime.now(UTC)
    keys = [new_key() for _ in range(1000)]
    after = datetime.now(UTC)
    assert {key.version for key in keys} == {7}
    assert keys == sorted(set(keys))
    for key in keys:
        assert (created_at(key) - before).total_seconds() > -0.002
        assert (created_at(key) - after).total_seconds() < 0.002


def test_time_of_a_key_is_read_as_the_rfc_says() -> None:
    """The example of RFC 9562, appendix A.6."""
    moment = created_at(UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"))
    assert moment == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_a_key_of_another_version_has_no_time() -> None:
    with pytest.raises(ValueError, match="not a UUIDv7"):
        created_at(UUID("2489e9ad-2ee2-4e00-8ec9-32d5f69181c0"))


def test_round_robin_gives_each_its_turn() -> None:
    policy = RoundRobin()
    assert [policy.order(["a", "b", "c"])[0] for _ in range(6)] == list("abcabc")
    assert sorted(policy.order(["a", "b"])) == ["a", "b"]


def test_random_order_is_fair_and_complete() -> None:
    policy = RandomOrder(Random(1))
    orders = [policy.order(["a", "b"]) for _ in range(1000)]
    assert all(sorted(order) == ["a", "b"] for order in orders)
    assert 400 < sum(order[0] == "a" for order in orders) < 600


def test_generated_people_are_none_of_the_five() -> None:
    random = Random(1)
    names = {someone(random) for _ in range(5000)}
    assert names.isdisjoint(FIVE)
    assert len(names) > 1500
    assert max(map(len, names)) <= 255


def test_people_have_keys_of_their_own() -> None:
    crowd = list(people(500, Random(1)))
    assert len({key for key, _ in crowd}) == 500


def test_table_aligns_numbers_right_and_shows_the_unknown() -> None:
    assert table(("name", "rows"), [("a", 1234567), ("bb", None)]).splitlines() == [
        "  name       rows",
        "  ----  ---------",
        "  a     1,234,567",
        "  bb            -",
    ]


def test_an_empty_table_has_a_header() -> None:
    assert table(("name",), []).splitlines() == ["  name", "  ----"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "unknown"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")],
)
def test_size_has_a_unit(count: int | None, text: str) -> None:
    assert size(count) == text
