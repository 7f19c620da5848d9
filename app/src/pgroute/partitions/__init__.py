"""Partitioned tables: the leaf of a key without asking, bulk load per leaf, skew."""

from pgroute.partitions.layout import Layout, read_layout
from pgroute.partitions.routing import Leaf
from pgroute.partitions.table import Partitions

__all__ = ["Layout", "Leaf", "Partitions", "read_layout"]
