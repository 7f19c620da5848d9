"""The grouping of a bulk load, with lanes that only take note."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from pgroute.partitions import Layout, Leaf, Partitions, load
from pgroute.partitions.bounds import parse
from pgroute.partitions.copying import Block, Shape, Target
from pgroute.partitions.lanes import Rejects
from pgroute.partitions.load import _Loading, _Plan
from pgroute.partitions.routing import KeyColumn, ListLevel
from pgroute.partitions.types import key_type

LEAVES, BLOCK_ROWS = 20, 1_000


class Noting:
    """A lane that keeps the numbers of the rows it is given."""

    error = None

    def __init__(self) -> None:
        self.written: dict[str, int] = {}
        self.numbers: dict[str, list[int]] = {}

    def put(self, block: Block) -> None:
        label = block.target.label
        self.numbers.setdefault(label, []).extend(block.numbers)
        self.written[label] = len(self.numbers[label])


def test_rows_wait_in_bounded_memory_and_keep_their_numbers() -> None:
    kind = key_type("int4")
    assert kind is not None
    root = ListLevel("t", [KeyColumn("k", "integer", kind, 0)])
    for at in range(LEAVES):
        bound = f"FOR VALUES IN ({at})"
        root.add(parse(bound), bound, Leaf(at, "public", f"p{at}", f"p{at}", bound))
    partitions = Partitions(Layout("t", 0, "public", "t", root.columns, root))
    plan = _Plan("t", Target("t", "public", "t"), partitions, (0,), None)
    lanes = [Noting(), Noting()]
    given, most = 0, 0

    def rows() -> Iterator[tuple[int]]:
        nonlocal given, most
        for number in range(19_000):
            given += 1
            taken = sum(sum(lane.written.values()) for lane in lanes)
            most = max(most, given - taken)
            yield (number % LEAVES,)

    loading = _Loading(plan, Shape(("k",), None), Rejects(0), BLOCK_ROWS, None)
    loading.lanes = cast("list[Any]", lanes)
    loading.take(rows())
    assert most <= 8 * BLOCK_ROWS + 1_000
    for at in range(LEAVES):
        (numbers,) = [lane.numbers[f"p{at}"] for lane in lanes if f"p{at}" in lane.numbers]
        assert numbers == list(range(at + 1, 19_001, LEAVES))
    assert [len(lane.numbers) for lane in lanes] == [10, 10]


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"block_rows": 0}, "block_rows is 0: it must be 1 at least"),
        ({"connections": 0}, "connections is 0: it must be 1 at least"),
        ({"connections": -3}, "connections is -3: it must be 1 at least"),
        ({"max_rejects": -1}, "max_rejects is -1: it must be 0 at least"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_before_anything(
    numbers: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        load(cast("Any", None), "t", ["k"], [], **cast("dict[str, Any]", numbers))
