"""The skew report: shares, chance, and its words."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pgroute.partitions import Layout, Leaf, Partitions
from pgroute.partitions.bounds import parse
from pgroute.partitions.report import describe
from pgroute.partitions.routing import LEVELS, KeyColumn, Level
from pgroute.partitions.skew import Skew, skew, weigh
from pgroute.partitions.types import key_type


def level(label: str, strategy: str, children: dict[str, Leaf | Level]) -> Level:
    kind = key_type("int4")
    assert kind is not None
    made = LEVELS[strategy](label, [KeyColumn("k", "integer", kind, 0)])
    for bound, child in children.items():
        made.add(parse(bound), bound, child)
    return made


def leaf(name: str) -> Leaf:
    return Leaf(abs(hash(name)), "public", name, name, "")


def hashed(modulus: int, *remainders: int) -> dict[str, Leaf | Level]:
    return {
        f"FOR VALUES WITH (modulus {modulus}, remainder {r})": leaf(f"m{modulus}_{r}")
        for r in remainders
    }


def weighed(root: Level, *rows: int | None) -> Skew:
    layout = Layout("t", 1, "public", "t", root.columns, root)
    leaves = root.leaves()
    by_leaf = dict(zip(leaves, rows, strict=True))
    return weigh(layout, by_leaf, dict.fromkeys(leaves, 8192), exact=True)


FOUR = level("t", "h", hashed(4, 0, 1, 2, 3))


def test_a_fair_deal_is_even() -> None:
    found = weighed(FOUR, 2510, 2489, 2531, 2470)
    assert not found.skewed
    assert [at.expected for at in found.leaves] == [0.25] * 4
    assert found.leaves[0].share == pytest.approx(0.251)
    (group,) = found.groups
    assert (group.rows, group.degrees) == (10_000, 3)
    assert group.chi_square == pytest.approx(0.8328)
    assert group.probability == pytest.approx(0.8416, abs=0.005)
    assert group.worst == pytest.approx(0.0124)


def test_one_leaf_with_too_much_is_skew() -> None:
    found = weighed(FOUR, 4000, 2000, 2000, 2000)
    assert found.skewed
    assert "t: skewed: the furthest leaf is 60.0 % off its share" in found.text()


def test_few_rows_are_uneven_by_chance() -> None:
    assert not weighed(FOUR, 3, 0, 1, 1).skewed


def test_many_rows_a_little_uneven_are_no_finding() -> None:
    found = weighed(FOUR, 1_030_000, 1_000_000, 990_000, 980_000)
    assert found.groups[0].probability < 0.001
    assert not found.skewed


@pytest.mark.parametrize(
    ("chi_square_rows", "probability"), [((60, 40), 0.0455), ((65, 35), 0.0027)]
)
def test_probabilities_are_those_of_the_tables(
    chi_square_rows: tuple[int, int], probability: float
) -> None:
    found = weighed(level("t", "h", hashed(2, 0, 1)), *chi_square_rows)
    assert found.groups[0].probability == pytest.approx(probability, rel=0.15)


def test_mixed_moduli_expect_different_shares() -> None:
    found = weighed(level("t", "h", hashed(2, 0) | hashed(4, 1, 3)), 5000, 2500, 2500)
    assert [at.expected for at in found.leaves] == [0.5, 0.25, 0.25]
    assert found.groups[0].chi_square == 0


def test_ranges_expect_nothing_and_hashes_below_them_are_apart() -> None:
    years: dict[str, Leaf | Level] = {
        "FOR VALUES FROM (1) TO (2)": level("y1", "h", hashed(2, 0, 1)),
        "FOR VALUES FROM (2) TO (3)": leaf("y2"),
    }
    found = weighed(level("t", "r", years), 900, 100, 7)
    assert [at.expected for at in found.leaves] == [0.5, 0.5, None]
    assert [at.share for at in found.leaves] == [0.9, 0.1, None]
    assert [group.level for group in found.groups] == ["y1"]


def test_a_list_below_a_hash_counts_as_one() -> None:
    kinds: dict[str, Leaf | Level] = {"FOR VALUES IN (1)": leaf("one"), "DEFAULT": leaf("rest")}
    halves = hashed(2, 0)
    halves["FOR VALUES WITH (modulus 2, remainder 1)"] = level("kinds", "l", kinds)
    found = weighed(level("t", "h", halves), 500, 480, 20)
    assert found.groups[0].worst == 0
    assert [at.expected for at in found.leaves] == [0.5, None, None]


def test_unknown_rows_are_not_zero() -> None:
    found = weighed(FOUR, 10, None, 10, 10)
    assert found.groups == ()
    assert {at.share for at in found.leaves} == {None}  # three of four would be 33 % each
    assert not found.skewed


class Server:
    """Knows the size of some leaves. As a connection, and as its cursor."""

    def __init__(self, *known: tuple[int, int, int]) -> None:
        self.known = known

    def cursor(self, **_: Any) -> Server:
        return self

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, *_: Any) -> None: ...

    def __iter__(self) -> Any:
        return iter(self.known)


def test_a_leaf_that_is_dropped_meanwhile_is_not_known() -> None:
    layout = Layout("t", 1, "public", "t", FOUR.columns, FOUR)
    first, *others = FOUR.leaves()
    server = Server(*((leaf.oid, 10, 8192) for leaf in others))
    found = skew(cast("Any", server), Partitions(layout))
    assert (found.leaves[0].leaf, found.leaves[0].rows) == (first, None)
    assert [at.rows for at in found.leaves[1:]] == [10] * 3


def test_an_empty_table_has_no_shares() -> None:
    found = weighed(FOUR, 0, 0, 0, 0)
    assert found.groups == ()
    assert {at.share for at in found.leaves} == {None}


def test_the_layout_is_a_tree() -> None:
    years: dict[str, Leaf | Level] = {
        "FOR VALUES FROM (1) TO (2)": level("y1", "h", hashed(2, 0, 1)),
        "DEFAULT": Leaf(7, "s", "far", "s.far", "DEFAULT", foreign=True),
    }
    root = level("t", "r", years)
    assert describe(Layout("t", 1, "public", "t", root.columns, root)).splitlines() == [
        "t, by range of k integer",
        "  y1: FROM (1) TO (2), by hash of k integer",
        "    m2_0: WITH (modulus 2, remainder 0)",
        "    m2_1: WITH (modulus 2, remainder 1)",
        "  s.far: DEFAULT (foreign)",
    ]
