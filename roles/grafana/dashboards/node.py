"""PostgreSQL on one node: sessions, work, cache, WAL, locks, tables, and its part in replication."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from library import ANSWERS, LAG_BYTES, LAG_SECONDS, ROLES, USED_RATIO, board, choice, figure, lines

NODE = 'cluster="$cluster", instance="$node"'
AGE_SECONDS: list[tuple[float | None, str]] = [(None, "green"), (60, "orange"), (300, "red")]


def build() -> dashboard.Dashboard:
    return (
        board("node", "PostgreSQL node", "One database node.",
              choice("node", "Node", 'label_values(pgfleet:inventory:node{cluster="$cluster", tier="postgresql"}, instance)'))
        .link(dashboard.DashboardLink("Host").url("/d/pgfleet-host?var-node=$node&var-cluster=$cluster").keep_time(True))
        .with_row(dashboard.Row("Now"))
        .with_panel(figure(
            "PostgreSQL", "Whether the server answers its exporter.",
            f"pgfleet:node:postgresql_up{{{NODE}}}", "none", words=ANSWERS, width=3))
        .with_panel(figure(
            "Role", "What the server is now.", f"pgfleet:node:writable{{{NODE}}}", "none", words=ROLES, width=3))
        .with_panel(figure(
            "Timeline", "Rises by one with each promotion; the same on every node of a healthy cluster.",
            f"pgfleet:node:timeline{{{NODE}}}", "none", width=3))
        .with_panel(figure(
            "Up for", "Time since PostgreSQL started.",
            f"time() - pgfleet:node:postgresql_start_time_seconds{{{NODE}}}", "s", width=3))
        .with_panel(figure(
            "Connections", "Share of max_connections in use.",
            f"pgfleet:node:connections_used:ratio{{{NODE}}}", "percentunit", steps=USED_RATIO, width=3))
        .with_panel(figure(
            "Longest query", "Run time of the longest active statement.",
            f"pgfleet:node:longest_query_seconds{{{NODE}}}", "s", steps=AGE_SECONDS, width=3))
        .with_panel(figure(
            "Blocked sessions", "Sessions that wait for a lock that another one holds.",
            f"pgfleet:node:sessions_blocked{{{NODE}}}", "none", steps=[(None, "green"), (1, "orange"), (10, "red")], width=3))
        .with_panel(figure(
            "Settings that wait for a restart", "Changed settings that PostgreSQL reads only when it starts.",
            f"pgfleet:node:pending_restart_settings{{{NODE}}}", "none", steps=[(None, "green"), (1, "orange")], width=3))

        .with_row(dashboard.Row("Sessions"))
        .with_panel(lines(
            "Sessions by state", "Client sessions; idle in transaction holds locks and rows back.",
            "none", (f"pgfleet:node:sessions{{{NODE}}}", "{{state}}"), stacked=True))
        .with_panel(lines(
            "Longest", "The oldest statement, transaction and idle transaction.",
            "s", (f"pgfleet:node:longest_query_seconds{{{NODE}}}", "query"),
            (f"pgfleet:node:longest_transaction_seconds{{{NODE}}}", "transaction"),
            (f"pgfleet:node:longest_idle_in_transaction_seconds{{{NODE}}}", "idle in transaction"), steps=AGE_SECONDS))
        .with_panel(lines(
            "Locks", "Locks held or waited for, by mode.",
            "none", (f"pgfleet:node:locks{{{NODE}}} > 0", "{{mode}}"), stacked=True))
        .with_panel(lines(
            "Waiting for locks", "Sessions that another one blocks, and deadlocks that ended one, in five minutes.",
            "none", (f"pgfleet:node:sessions_blocked{{{NODE}}}", "blocked"),
            (f"sum(pgfleet:node:deadlocks:increase5m{{{NODE}}})", "deadlocks")))

        .with_row(dashboard.Row("Work"))
        .with_panel(lines(
            "Transactions", "Per second and database. Many rollbacks mean failing applications.",
            "ops", (f"pgfleet:node:commits:rate1m{{{NODE}}}", "{{datname}} commits"),
            (f"pgfleet:node:rollbacks:rate1m{{{NODE}}}", "{{datname}} rollbacks")))
        .with_panel(lines(
            "Rows", "Rows per second that statements fetched or changed.",
            "ops", (f"sum by (operation) (pgfleet:node:rows:rate1m{{{NODE}}})", "{{operation}}")))
        .with_panel(lines(
            "Cache hits", "Share of blocks found in shared buffers, over five minutes. No value while nothing is read.",
            "percentunit", (f"pgfleet:node:cache_hit:ratio5m{{{NODE}}}", "hits"), maximum=1))
        .with_panel(lines(
            "Temporary files", "Bytes per second that sorts and hashes spill because work_mem is too small for them.",
            "Bps", (f"sum(pgfleet:node:temp_bytes:rate1m{{{NODE}}})", "written")))
        .with_panel(lines(
            "Time by statement", "The ten statements of pg_stat_statements that take most time: seconds of run time per second.",
            "none", (f"topk(10, pgfleet:node:statement_seconds:rate1m{{{NODE}}})", "{{datname}} {{queryid}}"), stacked=True))
        .with_panel(lines(
            "Dead rows", "Rows that vacuum has yet to remove, in the ten tables with most. Only the primary counts them.",
            "short", (f"topk(10, pgfleet:node:table_dead_rows{{{NODE}}})", "{{datname}} {{relname}}")))

        .with_row(dashboard.Row("WAL and checkpoints"))
        .with_panel(lines(
            "WAL written", "Bytes of WAL per second; a replica writes none of its own.",
            "Bps", (f"pgfleet:node:wal_written_bytes:rate1m{{{NODE}}}", "written"), width=8))
        .with_panel(lines(
            "WAL on disk", "Size of pg_wal.", "bytes", (f"pgfleet:node:wal_size_bytes{{{NODE}}}", "pg_wal"), width=8))
        .with_panel(lines(
            "Checkpoints", "Per minute. Requested ones, because max_wal_size was reached, should be rare.",
            "opm", (f"60 * pgfleet:node:checkpoints:rate5m{{{NODE}}}", "{{reason}}"), width=8))
        .with_panel(lines(
            "Blocks written by checkpoints", "Shared buffers per second that checkpoints write out.",
            "ops", (f"pgfleet:node:checkpoint_buffers_written:rate5m{{{NODE}}}", "blocks"), width=8))
        .with_panel(lines(
            "Position", "Where this node stands in the WAL: written by a primary, replayed by a replica.",
            "bytes", (f"pgfleet:node:lsn_bytes{{{NODE}}}", "position"), width=8))
        .with_panel(lines(
            "Database size", "Size of each database on this node.",
            "bytes", (f"pgfleet:node:database_size_bytes{{{NODE}}}", "{{datname}}"), stacked=True, width=8))

        .with_row(dashboard.Row("Replication, when this node is a replica"))
        .with_panel(lines(
            "Lag in bytes", "The primary's own position minus this node's own.",
            "bytes", (f"pgfleet:node:lag_bytes{{{NODE}}}", "lag"), steps=LAG_BYTES, width=8))
        .with_panel(lines(
            "Lag in seconds", "Age of the last replayed transaction; 0 when nothing is left to replay.",
            "s", (f"pgfleet:node:lag_seconds{{{NODE}}}", "lag"), steps=LAG_SECONDS, width=8))
        .with_panel(figure(
            "WAL receiver", "Whether this node receives WAL.",
            f"pgfleet:node:receiver_streaming{{{NODE}}}", "none", words={0: ("stopped", "red"), 1: ("streaming", "green")}, width=8))

        .with_row(dashboard.Row("Replication, when this node is the primary"))
        .with_panel(lines(
            "What replicas have yet to do", "WAL not yet sent to, flushed by and replayed on each replica.",
            "bytes", (f"pgfleet:node:sender_lag_bytes{{{NODE}}}", "{{replica}} {{stage}}"), steps=LAG_BYTES))
        .with_panel(lines(
            "WAL that slots retain", "What this node keeps for each replica.",
            "bytes", (f"pgfleet:node:slot_retained_bytes{{{NODE}}}", "{{slot_name}}")))
    )
