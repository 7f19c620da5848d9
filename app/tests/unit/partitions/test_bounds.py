"""Partition bounds as PostgreSQL prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgroute.partitions.bounds import (
    Bound,
    DefaultBound,
    Edge,
    HashBound,
    ListBound,
    RangeBound,
    parse,
)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("DEFAULT", DefaultBound()),
        ("FOR VALUES WITH (modulus 4, remainder 3)", HashBound(4, 3)),
        (
            "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
            RangeBound(("2023-01-01",), ("2024-01-01",)),
        ),
        (
            "FOR VALUES FROM (MINVALUE, '-5') TO (7, MAXVALUE)",
            RangeBound((Edge.MINVALUE, "-5"), ("7", Edge.MAXVALUE)),
        ),
        (
            "FOR VALUES FROM ('MINVALUE') TO (MAXVALUE)",
            RangeBound(("MINVALUE",), (Edge.MAXVALUE,)),
        ),
        (
            "FOR VALUES IN ('a, b', NULL, ')(', '', 5, 'it''s', 'NULL', true)",
            ListBound(("a, b", None, ")(", "", "5", "it's", "NULL", "true")),
        ),
    ],
)
def test_a_bound_is_read_as_it_is_printed(text: str, bound: Bound) -> None:
    assert parse(text) == bound


@given(st.lists(st.none() | st.text(), min_size=1, max_size=5))
def test_any_text_survives_quoting(values: list[str | None]) -> None:
    quoted = ["NULL" if v is None else "'" + v.replace("'", "''") + "'" for v in values]
    assert parse(f"FOR VALUES IN ({', '.join(quoted)})") == ListBound(tuple(values))


@pytest.mark.parametrize("text", ["", "FOR VALUES IN ()", "FOR VALUES WITH (modulus 4)", "default"])
def test_what_is_not_a_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a partition bound"):
        parse(text)
