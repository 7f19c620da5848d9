"""The whole fleet on one page: who is primary, how far the replicas are, what the client does, what is wrong."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from library import (
    ANSWERS,
    CLUSTER,
    LAG_BYTES,
    LAG_SECONDS,
    NEUTRAL,
    NODE_LINK,
    ONE_IS_WELL,
    ROLES,
    USED_RATIO,
    ZERO_IS_WELL,
    board,
    figure,
    lines,
    rows,
    states,
)

ROW_LINK = {"title": "PostgreSQL on this node", "url": "/d/pgfleet-node?var-node=${__value.text}&${__url_time_range}"}


def build() -> dashboard.Dashboard:
    return (
        board("fleet", "Fleet", "Roles, replication, load, routing and alerts of one cluster.")
        .with_row(dashboard.Row("Now"))
        .with_panel(figure(
            "Writable nodes", "Nodes that take writes. 1 is well; 0 is an outage, 2 is split brain.",
            f"pgfleet:cluster:writable_nodes{{{CLUSTER}}}", "none", steps=ONE_IS_WELL))
        .with_panel(figure(
            "Database nodes without an answer", "Nodes of the inventory whose PostgreSQL does not answer.",
            f"pgfleet:cluster:nodes{{{CLUSTER}}} - pgfleet:cluster:nodes_up{{{CLUSTER}}}", "none", steps=ZERO_IS_WELL))
        .with_panel(figure(
            "Replicas not streaming", "Database nodes in recovery or down without a running WAL receiver.",
            f"pgfleet:cluster:nodes{{{CLUSTER}}} - pgfleet:cluster:writable_nodes{{{CLUSTER}}} - pgfleet:cluster:replicas_streaming{{{CLUSTER}}}",
            "none", steps=ZERO_IS_WELL))
        .with_panel(figure(
            "Largest lag", "The primary's position in the WAL minus the position that the slowest replica has replayed.",
            f"pgfleet:cluster:lag_bytes:max{{{CLUSTER}}}", "bytes", steps=LAG_BYTES))
        .with_panel(figure(
            "Targets down", "Declared targets that Prometheus cannot scrape, or does not scrape at all.",
            f"sum(1 - pgfleet:node:target_up{{{CLUSTER}}})", "none", steps=ZERO_IS_WELL))
        .with_panel(figure(
            "Alerts firing", "Alerts that fire now, Watchdog aside.",
            f'count(ALERTS{{{CLUSTER}, alertstate="firing", severity!="none"}}) or vector(0)', "none", steps=ZERO_IS_WELL))

        .with_row(dashboard.Row("Nodes"))
        .with_panel(rows(
            "Database nodes", "Each node as it is now. Its name leads to its own board.", "instance",
            [
                ("Answers", f"max by (instance) (pgfleet:node:postgresql_up{{{CLUSTER}}})", "none", NEUTRAL, ANSWERS),
                ("Role", f"max by (instance) (pgfleet:node:writable{{{CLUSTER}}})", "none", NEUTRAL, ROLES),
                ("Timeline", f"max by (instance) (pgfleet:node:timeline{{{CLUSTER}}})", "none", NEUTRAL, None),
                ("Lag", f"max by (instance) (pgfleet:node:lag_bytes{{{CLUSTER}}})", "bytes", LAG_BYTES, None),
                ("Connections", f"max by (instance) (pgfleet:node:connections_used:ratio{{{CLUSTER}}})", "percentunit", USED_RATIO, None),
                ("CPU", f'max by (instance) (pgfleet:node:cpu_used:ratio1m{{{CLUSTER}}} and on (instance) pgfleet:node:postgresql_up)',
                 "percentunit", USED_RATIO, None),
                ("Memory", f'max by (instance) (pgfleet:node:memory_used:ratio{{{CLUSTER}}} and on (instance) pgfleet:node:postgresql_up)',
                 "percentunit", USED_RATIO, None),
            ],
            link=ROW_LINK))
        .with_panel(states(
            "Roles", "Who was primary when. Two primaries at one time are split brain; none is an outage.",
            f"pgfleet:node:writable{{{CLUSTER}}}", "{{instance}}", ROLES))
        .with_panel(lines(
            "Timelines", "A timeline rises by one with each promotion; nodes on different timelines have diverged.",
            "none", (f"pgfleet:node:timeline{{{CLUSTER}}}", "{{instance}}"), link=NODE_LINK))

        .with_row(dashboard.Row("Replication"))
        .with_panel(lines(
            "Lag in bytes", "The primary's own position minus each replica's own: it grows also when the connection between them is cut.",
            "bytes", (f"pgfleet:node:lag_bytes{{{CLUSTER}}}", "{{instance}}"), steps=LAG_BYTES, link=NODE_LINK))
        .with_panel(lines(
            "Lag in seconds", "Age of the last transaction that each replica has replayed; 0 when nothing is left to replay.",
            "s", (f"pgfleet:node:lag_seconds{{{CLUSTER}}}", "{{instance}}"), steps=LAG_SECONDS, link=NODE_LINK))
        .with_panel(lines(
            "WAL that slots retain", "What the primary keeps for each replica, and where it stops keeping it: past the limit the slot is lost.",
            "bytes", (f"pgfleet:node:slot_retained_bytes{{{CLUSTER}}}", "{{slot_name}}"),
            (f"max(pgfleet:node:slot_limit_bytes{{{CLUSTER}}})", "limit")))
        .with_panel(states(
            "Slots", "Whether a replica is connected to its slot.",
            f"pgfleet:node:slot_active{{{CLUSTER}}}", "{{slot_name}}", {0: ("unused", "red"), 1: ("in use", "green")}))
        .with_panel(lines(
            "Silence of the primary", "How long ago each replica last heard from the primary.",
            "s", (f"pgfleet:node:receiver_message_age_seconds{{{CLUSTER}}}", "{{instance}}"), steps=LAG_SECONDS, link=NODE_LINK))
        .with_panel(lines(
            "WAL written", "Bytes of WAL that the primary writes each second.",
            "Bps", (f"pgfleet:cluster:wal_written_bytes:rate1m{{{CLUSTER}}}", "written")))

        .with_row(dashboard.Row("Load"))
        .with_panel(lines(
            "Transactions", "Commits per second on each node.",
            "ops", (f"sum by (instance) (pgfleet:node:commits:rate1m{{{CLUSTER}}})", "{{instance}}"), link=NODE_LINK, width=8))
        .with_panel(lines(
            "Connections", "Share of max_connections in use on each node.",
            "percentunit", (f"pgfleet:node:connections_used:ratio{{{CLUSTER}}}", "{{instance}}"),
            steps=USED_RATIO, maximum=1, link=NODE_LINK, width=8))
        .with_panel(lines(
            "Database size", "Size of each database as the primary sees it.",
            "bytes", (f"pgfleet:cluster:database_size_bytes{{{CLUSTER}}}", "{{datname}}"), width=8))

        .with_row(dashboard.Row("Routing"))
        .with_panel(lines(
            "Requests by node and role", "Connections that pgroute hands out each second, by the node and what it was then.",
            "reqps", (f"sum by (node, role) (pgfleet:node:client_routed:rate1m{{{CLUSTER}}})", "{{node}} {{role}}"), stacked=True, width=8))
        .with_panel(lines(
            "Requests by reason", "Why pgroute chose the node. no_healthy_replica and token_not_reached are reads that the primary had to serve.",
            "reqps", (f"sum by (reason) (pgfleet:node:client_routed:rate1m{{{CLUSTER}}})", "{{reason}}"), stacked=True, width=8))
        .with_panel(lines(
            "Errors and waiting", "What went wrong in pgroute each second, and callers that wait for a connection now.",
            "short", (f"sum by (kind) (pgfleet:node:client_errors:rate1m{{{CLUSTER}}})", "{{kind}} per second"),
            (f"sum(pgfleet:node:client_pool_waiting{{{CLUSTER}}})", "waiting"), width=8))

        .with_row(dashboard.Row("Monitoring"))
        .with_panel(states(
            "Targets", "Whether Prometheus could scrape each target.",
            f"pgfleet:node:target_up{{{CLUSTER}}}", "{{instance}} {{job}}", ANSWERS))
        .with_panel(rows(
            "Firing alerts", "Alerts that fire now, Watchdog aside. docs/runbooks has a page for each.", "alertname",
            [("Firing", f'count by (alertname, severity, instance) (ALERTS{{{CLUSTER}, alertstate="firing", severity!="none"}})',
              "none", NEUTRAL, None)],
            width=12))
    )
