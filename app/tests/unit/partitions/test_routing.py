"""Which partition takes a row: hash, range and list, on trees made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.errors import NoLeaf, PartitionMismatch
from pgroute.partitions import Layout, Leaf, Partitions, hashing
from pgroute.partitions.bounds import parse
from pgroute.partitions.routing import LEVELS, KeyColumn, Level
from pgroute.partitions.types import KeyType, key_type


def type_named(name: str, modifier: int = -1) -> KeyType:
    found = key_type(name, modifier)
    assert found is not None
    return found


def level(strategy: str, types: Sequence[str], bounds: dict[str, str | Level]) -> Level:
    """A level whose key columns are k0, k1 ...; ``bounds`` maps a bound to a leaf's name."""
    columns = [KeyColumn(f"k{at}", name, type_named(name), at) for at, name in enumerate(types)]
    made = LEVELS[strategy]("t", columns)
    for oid, (bound, child) in enumerate(bounds.items()):
        node = Leaf(oid, "public", child, child, bound) if isinstance(child, str) else child
        made.add(parse(bound), bound, node)
    return made


def partitions(root: Level) -> Partitions:
    return Partitions(Layout("t", 0, "public", "t", root.columns, root))


def hashed(modulus: int, remainder: int) -> str:
    return f"FOR VALUES WITH (modulus {modulus}, remainder {remainder})"


MIXED = {hashed(2, 0): "even", hashed(4, 1): "one", hashed(8, 3): "three", hashed(8, 7): "seven"}


@given(st.uuids())
def test_mixed_moduli_find_the_one_partition_of_a_hash(key: UUID) -> None:
    row_hash = hashing.combine(0, hashing.hash_uuid(key))
    expected = {0: "even", 1: "one", 3: "three", 7: "seven"}
    place = next(r for r in expected if row_hash % {0: 2, 1: 4}.get(r, 8) == r)
    assert partitions(level("h", ["uuid"], dict(MIXED))).leaf(key) == expected[place]


@given(st.lists(st.tuples(st.none() | st.uuids(), st.none() | st.integers(-9, 9)), max_size=30))
def test_a_batch_finds_what_single_keys_find(rows: list[tuple[UUID | None, int | None]]) -> None:
    root = level("h", ["uuid", "int4"], dict(MIXED))
    assert root.leaves_of(rows) == [root.leaf(row) for row in rows]


@pytest.mark.parametrize(("text", "number", "remainder"), [("hello", -5, 3267), (None, 7, 988)])
def test_several_columns_hash_as_on_the_server(
    text: str | None, number: int, remainder: int
) -> None:
    """The remainders are those for which satisfies_hash_partition('t', 9973, ...) is true."""
    root = level("h", ["uuid", "text", "int8"], {hashed(9973, remainder): "there"})
    row = (UUID("01932c07-209c-7000-8abc-0123456789ab"), text, number)
    assert partitions(root).leaf(row) == "there"
    assert [leaf and leaf.label for leaf in root.leaves_of([row])] == ["there"]


def test_null_adds_nothing_to_a_hash() -> None:
    root = level("h", ["int4"], {hashed(2, 0): "even", hashed(2, 1): "odd"})
    assert partitions(root).leaf(None) == "even"


def test_a_hash_without_its_partition_has_no_leaf() -> None:
    root = level("h", ["int4"], {hashed(2, 1): "odd"})
    with pytest.raises(NoLeaf, match=r"no partition of t takes \('k0',\) = \(None,\)"):
        partitions(root).leaf(None)


YEARS = {
    "FOR VALUES FROM (MINVALUE) TO ('2023-01-01')": "older",
    "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')": "y2024",
    "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')": "y2023",
    "DEFAULT": "rest",
}


@pytest.mark.parametrize(
    ("day", "leaf"),
    [
        (date.min, "older"),
        (date(2022, 12, 31), "older"),
        (date(2023, 1, 1), "y2023"),
        (date(2023, 12, 31), "y2023"),
        (date(2024, 1, 1), "y2024"),
        (date(2024, 12, 31), "y2024"),
        (date(2025, 1, 1), "rest"),
        (date.max, "rest"),
        (None, "rest"),
    ],
)
def test_a_range_has_its_lower_bound_and_not_its_upper(day: date | None, leaf: str) -> None:
    assert partitions(level("r", ["date"], dict(YEARS))).leaf(day) == leaf


@pytest.mark.parametrize(
    ("key", "leaf"),
    [((0, 99), None), ((1, -5), "a"), ((4, 10**9), "a"), ((5, 2), "a"), ((5, 3), "b"),
     ((5, 10**9), "b"), ((6, 0), None)],
)  # fmt: skip
def test_several_columns_compare_from_the_left(key: tuple[int, int], leaf: str | None) -> None:
    bounds = {
        "FOR VALUES FROM (1, MINVALUE) TO (5, 3)": "a",
        "FOR VALUES FROM (5, 3) TO (5, MAXVALUE)": "b",
    }
    found = level("r", ["int4", "int4"], dict(bounds)).leaf(key)
    assert (found and found.label) == leaf


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [("infinity", "infinity", False), ("-infinity", "infinity", True),
     ("0044-03-15 BC", "10000-01-01", True)],
)  # fmt: skip
def test_bounds_beyond_python_dates_keep_their_side(low: str, high: str, inside: bool) -> None:
    root = level("r", ["date"], {f"FOR VALUES FROM ('{low}') TO ('{high}')": "all"})
    for day in (date.min, date(2024, 1, 1), date.max):
        assert (root.leaf((day,)) is not None) is inside


@pytest.mark.parametrize(
    ("name", "clock", "key"),
    [
        ("date", "", date(2024, 1, 1)),
        ("timestamp", " 00:00:00", datetime(2024, 1, 1)),
        ("timestamptz", " 00:00:00.5+00", datetime(2024, 1, 1, tzinfo=UTC)),
    ],
)
def test_ranges_before_christ_are_in_their_order(name: str, clock: str, key: date) -> None:
    old, later, last = (f"'{day}{clock} BC'" for day in ("0401-02-29", "0044-03-15", "0001-02-29"))
    near, far = (f"'{day}{clock}'" for day in ("3000-01-01", "12000-02-29"))
    ranges = {"a": (old, later), "b": (later, last), "here": (last, near), "c": (near, far)}
    for order in permutations(ranges):
        bounds = {"FOR VALUES FROM ({}) TO ({})".format(*ranges[at]): at for at in order}
        assert partitions(level("r", [name], dict(bounds))).leaf(key) == "here", order


def test_ranges_of_several_columns_before_christ_are_in_their_order() -> None:
    bounds = {
        "FOR VALUES FROM ('0100-01-01 BC', 9) TO ('0050-01-01 BC', 1)": "old",
        "FOR VALUES FROM ('0050-01-01 BC', 1) TO ('2024-01-01', 0)": "late",
        "FOR VALUES FROM ('2024-01-01', 0) TO ('10000-01-01', 9)": "new",
        "FOR VALUES FROM ('10000-01-01', 9) TO ('20000-01-01', 1)": "far",
    }
    root = partitions(level("r", ["date", "int4"], dict(bounds)))
    assert root.leaf((date.min, 5)) == "late"
    assert root.leaf((date.max, 5)) == "new"


@pytest.mark.parametrize(
    ("text", "days"),
    [
        # As the server has them: select date '...' - date '2000-01-01'.
        ("4713-01-01 BC", -2451507),
        ("0401-03-01 BC", -876522),
        ("0001-02-29 BC", -730426),
        ("0001-12-31 BC", -730120),
        ("0001-01-01", -730119),
        ("9999-12-31", 2921939),
        ("10000-01-01", 2921940),
        ("5874897-12-31", 2145031948),
    ],
)
def test_days_that_python_does_not_have(text: str, days: int) -> None:
    assert type_named("date").parse(text) == days
    microseconds = days * 86_400_000_000
    moment = text.replace(" BC", "") + " 00:00:00.000001" + " BC" * text.endswith("BC")
    assert type_named("timestamp").parse(moment) == microseconds + 1


def test_moments_compare_as_moments_in_any_time_zone() -> None:
    root = level(
        "r",
        ["timestamptz"],
        {"FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-01-01 00:00:00.5+00')": "half"},
    )
    here = timezone(timedelta(hours=5, minutes=30))
    inside = datetime(2024, 1, 1, 5, 30, 0, 499_999, tzinfo=here)
    assert partitions(root).leaf(inside) == "half"
    assert root.leaf((inside + timedelta(microseconds=1),)) is None


def test_text_compares_by_its_bytes() -> None:
    root = level("r", ["text"], {"FOR VALUES FROM ('Z') TO ('ß')": "some"})
    assert [bool(root.leaf((text,))) for text in ("Y", "Z", "a", "zz", "ß", "漢")] == [
        False, True, True, True, False, False,
    ]  # fmt: skip


def test_a_list_may_hold_null_and_has_a_default() -> None:
    bounds = {"FOR VALUES IN ('de', NULL)": "a", "FOR VALUES IN ('fr')": "b", "DEFAULT": "rest"}
    found = partitions(level("l", ["text"], dict(bounds)))
    assert [found.leaf(key) for key in ("de", None, "fr", "xx")] == ["a", "a", "b", "rest"]


def test_null_without_a_default_has_no_leaf() -> None:
    assert level("l", ["text"], {"FOR VALUES IN ('de')": "a"}).leaf((None,)) is None


def test_levels_nest_and_keys_may_be_named() -> None:
    days = KeyColumn("day", "date", type_named("date"), 1)
    inner = LEVELS["r"]("t_0", [days])
    bound = "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')"
    inner.add(parse(bound), bound, Leaf(7, "public", "deep", "deep", bound))
    outer = level("h", ["int4"], {hashed(2, 0): inner, hashed(2, 1): "odd"})
    found = Partitions(Layout("t", 0, "public", "t", (*outer.columns, days), outer))
    even = next(n for n in range(99) if outer.leaf((n, date(2023, 1, 1))) != found.leaves[1])
    assert found.columns == ("k0", "day")
    assert found.leaf({"day": date(2023, 5, 5), "k0": even}) == "deep"
    assert found.leaf((even, date(2023, 5, 5))) == "deep"
    with pytest.raises(NoLeaf):
        found.leaf((even, date(2025, 5, 5)))
    with pytest.raises(ValueError, match="key columns"):
        found.leaf((even,))


WRONG_TYPES: list[tuple[str, Any]] = [
    ("uuid", "00000000-0000-0000-0000-000000000000"), ("int4", True), ("int4", 1.0), ("bool", 1),
    ("text", b"a"), ("bytea", "a"), ("date", datetime(2024, 1, 1)), ("date", "2024-01-01"),
    ("timestamp", datetime(2024, 1, 1, tzinfo=UTC)), ("timestamptz", datetime(2024, 1, 1)),
    ("timestamptz", date(2024, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
@pytest.mark.parametrize("strategy", ["h", "l"])
def test_a_value_of_another_type_is_refused(name: str, value: object, strategy: str) -> None:
    root = level(strategy, [name], {hashed(1, 0): "a"} if strategy == "h" else {"DEFAULT": "a"})
    with pytest.raises(TypeError, match="the column wants"):
        partitions(root).leaf(value)
    with pytest.raises(TypeError, match="the column wants"):
        root.leaves_of([(value,)])


@pytest.mark.parametrize(
    ("name", "modifier", "value"),
    [("int2", -1, 2**15), ("int4", -1, -(2**31) - 1), ("int8", -1, 2**63), ("text", -1, "a\0b"),
     ("varchar", 7, "abcd"), ("text", -1, "\ud800")],
)  # fmt: skip
def test_a_value_that_the_type_cannot_hold_is_refused(
    name: str, modifier: int, value: object
) -> None:
    with pytest.raises(ValueError, match=r"does not fit|zero byte|too long|surrogates"):
        type_named(name, modifier).stored(value)


def test_varchar_drops_spaces_beyond_its_length() -> None:
    assert type_named("varchar", 7).stored("abc  ") == b"abc"


@pytest.mark.parametrize(
    ("microsecond", "kept"), [(499, 0), (500, 1000), (1499, 1000), (999_500, 1_000_000)]
)
def test_a_rounded_timestamp_keeps_its_digits(microsecond: int, kept: int) -> None:
    stored = type_named("timestamp", 3).stored
    start = datetime(2024, 1, 1)
    exact = start + timedelta(microseconds=microsecond)
    assert stored(exact) == stored(start + timedelta(microseconds=kept))


@pytest.mark.parametrize("name", ["numeric", "float8", "bpchar", "char", "interval", "money"])
def test_other_types_are_not_computed(name: str) -> None:
    assert key_type(name) is None


def test_nothing_is_computed_after_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = partitions(level("h", ["int4"], {hashed(1, 0): "a"}))

    def disagree(*_: object) -> int:
        raise PartitionMismatch("they differ")

    monkeypatch.setattr("pgroute.partitions.table.check", disagree)
    assert found.leaf(1) == "a"
    with pytest.raises(PartitionMismatch, match="they differ"):
        found.check(None)  # type: ignore[arg-type]
    with pytest.raises(PartitionMismatch, match="they differ"):
        found.leaf(1)
    with pytest.raises(PartitionMismatch, match="they differ"):
        found.leaves_of([(1,)])
