"""The routing client: where reads and writes go and why, what waits, what fails, what it knows of each node."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from library import CLUSTER, LAG_BYTES, LAG_SECONDS, NEUTRAL, ONE_IS_WELL, ZERO_IS_WELL, Steps, Words, board, choice, figure, lines, rows, states

CLIENT = f'{CLUSTER}, instance=~"$client"'
AGE_SECONDS: Steps = [(None, "green"), (5, "orange"), (30, "red")]
USED: Words = {0: ("left out", "red"), 1: ("used", "green")}
DATABASE_LINK = dashboard.DashboardLink("PostgreSQL on ${__field.labels.node}").url(
    "/d/pgfleet-node?var-node=${__field.labels.node}&${__url_time_range}")
ROW_LINK = {"title": "PostgreSQL on this node", "url": "/d/pgfleet-node?var-node=${__value.text}&${__url_time_range}"}


def build() -> dashboard.Dashboard:
    return (
        board("routing", "Routing", "What pgroute does with reads and writes, as its clients count it.",
              choice("client", "Client", "label_values(pgfleet:node:client_writable, instance)", several=True))
        .with_row(dashboard.Row("Now"))
        .with_panel(figure(
            "Clients that can write", "Clients that know of a primary, over all clients.",
            f"avg(pgfleet:node:client_writable{{{CLIENT}}})", "percentunit", steps=ONE_IS_WELL))
        .with_panel(figure(
            "Age of the topology", "For how long no database node has answered the client that waits longest.",
            f"max(pgfleet:node:client_topology_age_seconds{{{CLIENT}}})", "s", steps=AGE_SECONDS))
        .with_panel(figure(
            "Nodes left out", "Nodes whose breaker is not closed, counted once for each client.",
            f"sum(1 - pgfleet:node:client_breaker_closed{{{CLIENT}}})", "none", steps=ZERO_IS_WELL))
        .with_panel(figure(
            "Reads on replicas", "Share of the reads that a replica served.",
            f'sum(pgfleet:node:client_routed:rate1m{{{CLIENT}, role="replica"}})'
            f' / (sum(pgfleet:node:client_routed:rate1m{{{CLIENT}, reason!="write"}}) > 0)', "percentunit"))
        .with_panel(figure(
            "Refused", "Callers that got an error of pgroute instead of a connection, each second.",
            f"sum(pgfleet:node:client_refusals:rate1m{{{CLIENT}}})", "reqps", steps=[(None, "green"), (0.01, "red")]))
        .with_panel(figure(
            "Commits in doubt", "COMMITs whose answer was lost in the last hour and whose outcome stayed unknown.",
            f'sum(pgfleet:node:client_commits_in_doubt:increase1h{{{CLIENT}, outcome="unknown"}})', "none", steps=ZERO_IS_WELL))

        .with_row(dashboard.Row("Routes"))
        .with_panel(lines(
            "Requests by node and role", "Connections handed out each second, by the node and what it was then.",
            "reqps", (f"sum by (node, role) (pgfleet:node:client_routed:rate1m{{{CLIENT}}})", "{{node}} {{role}}"), stacked=True, width=8))
        .with_panel(lines(
            "Requests by reason", "Why the node was chosen. The reasons no_healthy_replica, token_not_reached and lag_exceeded are reads that spilled.",
            "reqps", (f"sum by (reason) (pgfleet:node:client_routed:rate1m{{{CLIENT}}})", "{{reason}}"), stacked=True, width=8))
        .with_panel(lines(
            "Spilled reads", "Reads that no replica could serve: allowed to the primary, or refused because the cap was reached.",
            "reqps", (f"sum by (outcome) (pgfleet:node:client_spills:rate1m{{{CLIENT}}})", "{{outcome}}"), stacked=True, width=8))

        .with_row(dashboard.Row("Nodes as the clients see them"))
        .with_panel(rows(
            "Nodes", "Each database node, as the client sees it that sees it worst. Its name leads to its own board.", "node",
            [
                ("Healthy", f"min by (node) (pgfleet:node:client_node_healthy{{{CLIENT}}})", "none", NEUTRAL, USED),
                ("Breaker", f"min by (node) (pgfleet:node:client_breaker_closed{{{CLIENT}}})", "none", NEUTRAL,
                 {0: ("open", "red"), 1: ("closed", "green")}),
                ("Lag", f"max by (node) (pgfleet:node:client_node_lag_bytes{{{CLIENT}}})", "bytes", LAG_BYTES, None),
                ("Staleness", f"max by (node) (pgfleet:node:client_node_staleness_seconds{{{CLIENT}}})", "s", LAG_SECONDS, None),
            ],
            link=ROW_LINK, width=12))
        .with_panel(states(
            "Breakers", "When a client left a node out.",
            f"pgfleet:node:client_breaker_closed{{{CLIENT}}}", "{{node}} at {{instance}}", USED))
        .with_panel(lines(
            "Lag in bytes", "Log that the node has not replayed, by the client's samples. No line: the client does not know.",
            "bytes", (f"max by (node) (pgfleet:node:client_node_lag_bytes{{{CLIENT}}})", "{{node}}"), steps=LAG_BYTES, link=DATABASE_LINK))
        .with_panel(lines(
            "Staleness", "How old the node's data are at most, by the client's samples. No line: the client does not know.",
            "s", (f"max by (node) (pgfleet:node:client_node_staleness_seconds{{{CLIENT}}})", "{{node}}"), steps=LAG_SECONDS, link=DATABASE_LINK))

        .with_row(dashboard.Row("Trouble"))
        .with_panel(lines(
            "Faults", "What went wrong on database nodes each second, whether or not a caller noticed.",
            "ops", (f"sum by (node, kind) (pgfleet:node:client_errors:rate1m{{{CLIENT}}})", "{{node}} {{kind}}"), width=8))
        .with_panel(lines(
            "Refusals", "What callers got instead of a connection, each second.",
            "ops", (f"sum by (purpose, error) (pgfleet:node:client_refusals:rate1m{{{CLIENT}}})", "{{purpose}} {{error}}"), width=8))
        .with_panel(lines(
            "Second attempts", "Retries by what was done, hedged reads by who answered first, and statements that a replica refused, each second.",
            "ops", (f"sum by (action) (pgfleet:node:client_retries:rate1m{{{CLIENT}}})", "retry {{action}}"),
            (f"sum by (outcome) (pgfleet:node:client_hedges:rate1m{{{CLIENT}}})", "hedge {{outcome}}"),
            (f"sum(pgfleet:node:client_misroutes:rate1m{{{CLIENT}}})", "misrouted"), width=8))
        .with_panel(lines(
            "Waits", "The longest of a hundred waits, for a connection, for a replica to reach a token, for a primary.",
            "s", (f"max by (kind) (pgfleet:node:client_wait_seconds:p99_5m{{{CLIENT}}})", "{{kind}}")))
        .with_panel(lines(
            "Pools", "Connections of all clients to a node by state, and callers that wait for one.",
            "none", (f"sum by (node, purpose, state) (pgfleet:node:client_pool_connections{{{CLIENT}}})", "{{node}} {{purpose}} {{state}}"),
            (f"sum by (node) (pgfleet:node:client_pool_waiting{{{CLIENT}}})", "{{node}} waiting")))
    )
