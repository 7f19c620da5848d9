"""Partitioned tables: how large each leaf is, how even they are, and what landed in a default partition."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from library import ZERO_IS_WELL, bars, board, choice, figure, lines

TABLE = 'cluster="$cluster", parent=~"$table"'
SKEW: list[tuple[float | None, str]] = [(None, "green"), (1.5, "orange"), (3, "red")]


def build() -> dashboard.Dashboard:
    return (
        board("partitions", "Partitions", "Size, rows and skew of partitioned tables, as the primary sees them.",
              choice("table", "Table", 'label_values(pgfleet:cluster:partition_size_bytes{cluster="$cluster"}, parent)', several=True))
        .with_row(dashboard.Row("Tables"))
        .with_panel(figure(
            "Rows", "Rows of each partitioned table, as the statistics estimate them.",
            f"pgfleet:cluster:partitioned_table_rows{{{TABLE}}}", "short", legend="{{parent}}", width=6))
        .with_panel(figure(
            "Size", "Size of each partitioned table with its indexes.",
            f"pgfleet:cluster:partitioned_table_size_bytes{{{TABLE}}}", "bytes", legend="{{parent}}", width=6))
        .with_panel(figure(
            "Skew", "Rows of the fullest leaf over the mean: 1 is even. Hash partitions should stay near 1; ranges by year need not.",
            f"pgfleet:cluster:partition_skew:ratio{{{TABLE}}}", "none", legend="{{parent}}", steps=SKEW, width=6))
        .with_panel(figure(
            "Rows in default partitions", "Rows for which no partition was declared. 0 also when there is no default partition.",
            f'sum(pgfleet:cluster:partition_rows{{{TABLE}, is_default="true"}}) or vector(0)', "short", steps=ZERO_IS_WELL, width=6))

        .with_row(dashboard.Row("Leaves"))
        .with_panel(bars(
            "Rows per leaf", "As the statistics estimate them.",
            f"pgfleet:cluster:partition_rows{{{TABLE}}}", "{{partition}}", "short"))
        .with_panel(bars(
            "Size per leaf", "With its indexes.", f"pgfleet:cluster:partition_size_bytes{{{TABLE}}}", "{{partition}}", "bytes"))
        .with_panel(lines(
            "Rows over time", "How each leaf grows.", "short", (f"pgfleet:cluster:partition_rows{{{TABLE}}}", "{{partition}}")))
        .with_panel(lines(
            "Rows written", "Rows per second inserted, updated or deleted in each leaf: an uneven key shows here first.",
            "ops", (f"max by (partition) (pgfleet:node:partition_rows_written:rate1m{{{TABLE}}})", "{{partition}}"), stacked=True))
        .with_panel(lines(
            "Skew over time", "Rows of the fullest leaf over the mean, per table.",
            "none", (f"pgfleet:cluster:partition_skew:ratio{{{TABLE}}}", "{{parent}}"), steps=SKEW))
        .with_panel(lines(
            "Size over time", "Size of each leaf with its indexes.",
            "bytes", (f"pgfleet:cluster:partition_size_bytes{{{TABLE}}}", "{{partition}}"), stacked=True))
    )
