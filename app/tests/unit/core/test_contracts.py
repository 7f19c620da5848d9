"""What callers may say of a read, and what they hear when it makes no sense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.core.contracts import EVENTUAL, STRONG, Contract, Otherwise, parse_max_lag
from pgroute.core.lsn import Token
from pgroute.errors import UnknownContract


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("500ms", (0.5, None)),
        ("2s", (2.0, None)),
        ("0.25 s", (0.25, None)),
        ("1min", (60.0, None)),
        ("1h", (3600.0, None)),
        ("100us", (0.0001, None)),
        (timedelta(milliseconds=300), (0.3, None)),
        ("16MB", (None, 16 * 1024 * 1024)),
        ("1.5kB", (None, 1536)),
        ("1gb", (None, 1 << 30)),
        ("0B", (None, 0)),
        (4096, (None, 4096)),
        (0, (None, 0)),
    ],
)
def test_lag_is_read_exactly(limit: Any, expected: tuple[float | None, int | None]) -> None:
    assert parse_max_lag(limit) == expected


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("0ms", "impossible lag"),
        (timedelta(0), "impossible lag"),
        (timedelta(seconds=-1), "impossible lag"),
        (-1, "negative"),
        ("2000000d", "more than a year"),
        (1 << 61, "more than an exbibyte"),
        ("0.3B", "no whole number"),
        ("5", "not a lag"),
        ("-5s", "not a lag"),
        ("1e3ms", "not a lag"),
        ("\u0661s", "not a lag"),
        ("", "not a lag"),
        ("5M", "not a unit"),
        ("5minutes", "not a unit"),
        ("5Ms", "not a unit"),
        (True, "not a lag"),
        (0.5, "not a lag"),
        (b"5s", "not a lag"),
    ],
)
def test_an_impossible_lag_is_refused_in_one_sentence(limit: Any, says: str) -> None:
    with pytest.raises(UnknownContract, match=says) as caught:
        parse_max_lag(limit)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 10**9))
def test_microseconds_survive(count: int) -> None:
    assert parse_max_lag(f"{count}us") == parse_max_lag(timedelta(microseconds=count))


@given(st.integers(0, 10**9))
def test_units_of_size_agree(count: int) -> None:
    assert parse_max_lag(f"{count}kB") == parse_max_lag(count * 1024)


def test_a_contract_of_words() -> None:
    token = Token(1, 1, 100)
    made = Contract.of("eventual", max_lag="16MB", after=token, otherwise="raise")
    assert made == Contract(max_lag_bytes=16 << 20, after=token, otherwise=Otherwise.RAISE)
    assert Contract.of() == EVENTUAL
    assert Contract.of("strong") == STRONG
    assert Contract.of(made) is made


@pytest.mark.parametrize("contract", ["", "Strong", "monotone", None, 5])
def test_an_unknown_contract_is_refused_by_name(contract: Any) -> None:
    with pytest.raises(UnknownContract, match=f"{contract!r}"):
        Contract.of(contract)


@pytest.mark.parametrize(
    "words",
    [
        {"otherwise": "nothing"},
        {"name": "strong", "max_lag": "5s"},
        {"name": EVENTUAL, "max_lag": "5s"},
        {"name": EVENTUAL, "otherwise": "raise"},
        {"after": "7-1-0/1"},
    ],
)
def test_words_that_contradict_each_other_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(UnknownContract):
        Contract.of(**words)


@pytest.mark.parametrize(
    ("contract", "eventual"),
    [
        (EVENTUAL, True),
        (STRONG, False),
        (Contract(max_lag_bytes=0), False),
        (Contract(max_lag_seconds=1.0), False),
        (Contract(after=Token(1, 1, 1)), False),
        (Contract(otherwise=Otherwise.RAISE), True),
    ],
)
def test_only_a_contract_without_demands_is_eventual(contract: Contract, eventual: bool) -> None:
    assert contract.is_eventual is eventual
