"""Partitioned tables: the leaf of a key without asking, bulk load per leaf, skew."""

from pgroute.partitions.layout import Layout, read_layout
from pgroute.partitions.load import load
from pgroute.partitions.reports import Loaded, Outcome, Part, Reject
from pgroute.partitions.routing import Leaf
from pgroute.partitions.skew import Skew, skew
from pgroute.partitions.table import Partitions

__all__ = [
    "Layout",
    "Leaf",
    "Loaded",
    "Outcome",
    "Part",
    "Partitions",
    "Reject",
    "Skew",
    "load",
    "read_layout",
    "skew",
]
