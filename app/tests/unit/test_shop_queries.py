"""The shop's SQL as values: what the text contains, and what it never does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest

from pgroute import created_at, new_key
from pgroute.examples.shop import User, UserFilter, UserOrder, queries

HOSTILE = "x'; drop table tbl_users; --"
SOMEBODY = User(UUID(int=1), HOSTILE)


@pytest.mark.parametrize("order", UserOrder)
@pytest.mark.parametrize("descending", [False, True])
def test_values_are_bound_and_never_in_the_text(order: UserOrder, descending: bool) -> None:
    wanted = UserFilter(HOSTILE, HOSTILE, datetime(2024, 1, 1, tzinfo=UTC))
    query = queries.users(wanted, order=order, descending=descending, after=SOMEBODY, limit=7)
    text = query.text.as_string()
    assert HOSTILE not in text
    assert HOSTILE in query.values.values()
    assert set(query.values) == {name for name in query.values if f"%({name})s" in text}, (
        "every value has its placeholder"
    )


def test_a_filter_that_is_not_set_is_not_in_the_text() -> None:
    assert queries.users(UserFilter(), limit=5).text.as_string() == (
        'select id, first_name from tbl_users order by "id" asc limit %(limit)s'
    )


def test_the_key_decides_between_equal_names() -> None:
    query = queries.users(UserFilter(), order=UserOrder.NAME, after=SOMEBODY, limit=5)
    text = query.text.as_string()
    assert '("first_name", "id") > (%(after_first_name)s, %(after_id)s)' in text
    assert text.endswith('order by "first_name" asc, "id" asc limit %(limit)s')


def test_backwards_turns_comparison_and_order() -> None:
    text = queries.users(UserFilter(), descending=True, after=SOMEBODY, limit=5).text.as_string()
    assert '("id") < (%(after_id)s)' in text
    assert text.endswith('order by "id" desc limit %(limit)s')


def test_the_first_key_of_a_moment_bounds_the_keys_made_in_it() -> None:
    key = new_key()
    moment = created_at(key)
    assert queries.first_key_of(moment) <= key
    assert key < queries.first_key_of(moment + timedelta(milliseconds=1))
    assert created_at(queries.first_key_of(moment)) == moment


def test_no_key_made_before_a_moment_is_after_its_first_key() -> None:
    key = UUID(int=1_700_000_000_000 << 80 | 7 << 76 | 2 << 62)
    moment = created_at(key) + timedelta(microseconds=1)
    assert key < queries.first_key_of(moment)
    assert created_at(queries.first_key_of(moment)) > moment


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        (datetime(2024, 1, 1), "no time zone"),  # no zone
        (datetime(1969, 12, 31, tzinfo=UTC), "cannot be the time of a UUIDv7"),
    ],
)
def test_a_moment_without_a_key_is_refused(moment: datetime, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        queries.first_key_of(moment)


@pytest.mark.parametrize(
    ("first", "last", "since", "until"),
    [
        (date(2024, 2, 29), date(2024, 5, 31), date(2023, 12, 1), date(2025, 1, 1)),
        (date(2023, 7, 1), date(2024, 1, 1), date(2023, 1, 1), date(2025, 1, 1)),
    ],
)
def test_months_read_whole_years_and_two_months_before(
    first: date, last: date, since: date, until: date
) -> None:
    values = queries.months(first, last).values
    assert (values["from"], values["to"]) == (since, until)
    assert (values["first"], values["last"]) == (first.replace(day=1), last.replace(day=1))
