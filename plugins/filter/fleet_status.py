"""What must be true of the running fleet, and the rows of the summary page. Pure: it talks to no machine."""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]

# What asks every table for its size, and so waits for whoever has locked one: on the replicas, too, which replay the lock.
ASKS_FOR_SIZES = {("postgres_exporter", "stat_user_tables")}


def human_bytes(count: int | float | None) -> str:
    """A count of bytes as people read it: 0 B, 12.3 MB."""
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def server_of(node: Node) -> Node:
    return node.get("server") or {}


def node_problems(name: str, node: Node, optional_units: list[str]) -> list[str]:
    """One node by itself: it answers, its services run, its configuration is in force."""
    if not node.get("reachable"):
        return list(node.get("problems") or [f"{name} was not asked."])
    problems = list(node.get("problems", []))
    for unit, state in sorted(node.get("units", {}).items()):
        if state["load"] != "loaded":
            if unit not in optional_units:
                problems.append(f"{name}: service {unit} is not installed ({state['load']}).")
        elif state["active"] != "active":
            problems.append(f"{name}: service {unit} is {state['active']}, not running: systemctl status {unit}")
        elif not state["enabled"]:
            problems.append(f"{name}: service {unit} runs but would not start at boot: systemctl enable {unit}")
    for url, said in sorted(node.get("not_ready", {}).items()):
        problems.append(f"{name}: {url} is not ready ({said}).")
    if "data_directory" not in node:
        return problems
    server = server_of(node)
    if not server:
        why = node.get("server_error") or f"no server runs on {node['data_directory']}"
        return [*problems, f"{name}: PostgreSQL does not answer ({why})."]
    if server["pending_restart"]:
        problems.append(f"{name}: {', '.join(server['pending_restart'])} changed but wait for a restart: run playbooks/postgres.yml.")
    problems += [f"{name}: an access rule is in error ({error})." for error in server["hba_errors"]]
    return problems


def cluster_problems(nodes: dict[str, Node], names: list[str], slots: dict[str, str]) -> list[str]:
    """The database nodes together: one writable, one identifier, the others streaming from it on their own slots."""
    servers = {name: server_of(nodes.get(name, {})) for name in names}
    answering = {name: server for name, server in servers.items() if server}
    writable = sorted(name for name, server in answering.items() if not server["in_recovery"])
    problems = []
    if len(writable) != 1:
        listed = ", ".join(writable) or "none"
        problems.append(f"{len(writable)} nodes accept writes instead of one ({listed}).")
    identifiers = {server["system_identifier"] for server in answering.values()}
    if len(identifiers) > 1:
        told = ", ".join(f"{name} {server['system_identifier']}" for name, server in sorted(answering.items()))
        problems.append(f"The nodes belong to different clusters ({told}).")
    if len(writable) != 1:
        return problems
    primary = writable[0]
    senders = {sender["slot"]: sender for sender in answering[primary]["senders"] if sender["slot"]}
    for name, server in sorted(answering.items()):
        if name == primary:
            continue
        upstream = server["upstream"]
        if not upstream or upstream["status"] != "streaming":
            problems.append(f"{name} does not stream from {primary}: look at PostgreSQL's log on {name}.")
            continue
        if upstream["slot"] != slots.get(name):
            problems.append(f"{name} streams through slot {upstream['slot'] or '(none)'} instead of its own, {slots.get(name)}.")
        elif upstream["slot"] not in senders:
            problems.append(f"{name} streams, but not from {primary}, where nothing uses its slot {upstream['slot']}.")
        if server["timeline"] != answering[primary]["timeline"]:
            problems.append(f"{name} is on timeline {server['timeline']}, {primary} on {answering[primary]['timeline']}.")
    problems += [f"{primary}: WAL that slot {slot['name']} needs is {slot['wal_status']}."
                 for slot in answering[primary]["slots"] if slot["wal_status"] in ("lost", "unreserved")]
    return problems


def notices(nodes: dict[str, Node], slots: dict[str, str], declared: str, optional_units: list[str]) -> list[str]:
    """What is no broken promise, but should be known."""
    found = []
    for name, server in ((name, server_of(node)) for name, node in sorted(nodes.items())):
        if server and not server["in_recovery"] and declared not in ("", name):
            found.append(f"The inventory names {declared} as primary, the cluster's primary is {name}.")
        if server.get("altered"):
            resets = " ".join(f"-c 'ALTER SYSTEM RESET {setting}'" for setting in server["altered"])
            found.append(f"{name}: {', '.join(server['altered'])} was set by ALTER SYSTEM, which outranks postgresql_settings: put what shall "
                         f"stay there, then on {name}, as postgres: psql {resets} -c 'SELECT pg_reload_conf()'")
        found += [f"{name}: the slot {slot['name']} belongs to no node of the inventory and holds WAL back; if nobody uses it: "
                  f"SELECT pg_drop_replication_slot('{slot['name']}')"
                  for slot in server.get("slots", []) if slot["type"] == "physical" and slot["name"] not in slots.values()]
    # A table that is locked or large says nothing about the fleet's health.
    found += [f"{name}: rows could not be counted, so the page shows no tables ({node['tables_error']})."
              for name, node in sorted(nodes.items()) if node.get("tables_error")]
    found += [f"{failure(series)}, as it does while a table is locked: the sizes of tables are not recorded meanwhile."
              for _, node in sorted(nodes.items()) for series in node.get("prometheus", {}).get("failing", []) if waits_for_a_table(series, nodes)]
    absent: dict[str, list[str]] = {}
    for name, node in sorted(nodes.items()):
        for unit, state in sorted(node.get("units", {}).items()):
            if unit in optional_units and state["load"] != "loaded":
                absent.setdefault(unit, []).append(name)
    found += [f"{unit} is not installed on {', '.join(names)}: the fleet goes without it." for unit, names in absent.items()]
    return found


def failure(series: dict[str, str]) -> str:
    """Which exporter says that it fails, and in what."""
    collector = f" of collector {series['collector']}" if "collector" in series else ""
    return f"{series.get('instance', '?')}: {series['__name__']}{collector} says that {series.get('job', 'an exporter')} fails"


def waits_for_a_table(series: dict[str, str], nodes: dict[str, Node]) -> bool:
    """Whether an exporter waits for a lock that we have met as well, which says nothing about the fleet's health."""
    locked = any("lock timeout" in (node.get("tables_error") or "") for node in nodes.values())
    return locked and (series.get("job"), series.get("collector")) in ASKS_FOR_SIZES


def monitoring_problems(name: str, found: dict[str, Any], jobs: list[dict[str, Any]], names: list[str]) -> list[str]:
    """Prometheus sees what the inventory declares, all of it answers, and every collector succeeds."""
    if found["error"]:
        return [f"{name}: Prometheus does not answer ({found['error']})."]
    problems = []
    seen = {(target["job"], target["instance"]) for target in found["targets"]}
    for job in jobs:
        problems += [f"{name}: Prometheus does not scrape {job['name']} of {instance}: run playbooks/monitoring.yml."
                     for instance in sorted(job["targets"]) if (job["name"], instance) not in seen]
    for target in found["targets"]:
        if target["health"] != "up":
            problems.append(f"{name}: {target['job']} of {target['instance']} is {target['health']} for Prometheus "
                            f"({target['error'] or 'not scraped yet'}).")
        if target["instance"] not in names:
            problems.append(f"{name}: Prometheus scrapes {target['job']} of {target['instance']}, "
                            "which the inventory does not know: run playbooks/monitoring.yml.")
    return [*problems, *(f"{failure(series)}." for series in found["failing"])]


def problems(nodes: dict[str, Node], names: list[str], slots: dict[str, str], jobs: list[dict[str, Any]],
             known: list[str], optional_units: list[str]) -> list[str]:
    """Every promise that does not hold, one sentence each."""
    found = [problem for name, node in sorted(nodes.items()) for problem in node_problems(name, node, optional_units)]
    if names:
        found += cluster_problems(nodes, names, slots)
    for name, node in sorted(nodes.items()):
        if node.get("prometheus"):
            failing = [series for series in node["prometheus"]["failing"] if not waits_for_a_table(series, nodes)]
            found += monitoring_problems(name, {**node["prometheus"], "failing": failing}, jobs, known)
    return found


def node_rows(nodes: dict[str, Node], names: list[str], slots: dict[str, str]) -> list[list[str]]:
    """Node, role, timeline, slot, state, lag in bytes, lag in seconds; databases first, in the page's order."""
    servers = {name: server_of(nodes.get(name, {})) for name in names}
    senders = {sender["slot"]: sender for server in servers.values() if server and not server["in_recovery"]
               for sender in server["senders"]}
    rows = [["NODE", "ROLE", "TIMELINE", "SLOT", "STATE", "LAG", "REPLAY"]]
    for name in sorted(nodes, key=lambda name: (name not in servers, bool(servers.get(name, {}).get("in_recovery")), name)):
        server = servers.get(name)
        if server is None:
            rows.append([name, "-", "-", "-", "up" if nodes[name].get("reachable") else "does not answer", "-", "-"])
        elif not server:
            rows.append([name, "database", "?", slots.get(name, "-"), "down", "?", "?"])
        elif not server["in_recovery"]:
            rows.append([name, "primary", str(server["timeline"]), "-", "writable", "-", "-"])
        else:
            sender = senders.get(slots.get(name), {})
            delay = sender.get("replay_lag_seconds")
            rows.append([name, "replica", str(server["timeline"]), (server["upstream"] or {}).get("slot") or "-",
                         (server["upstream"] or {}).get("status") or "not streaming",
                         human_bytes(sender.get("lag_bytes")), "none" if sender and delay is None else f"{delay} s" if sender else "?"])
    return rows


def table_rows(nodes: dict[str, Node]) -> list[list[str]]:
    """Table, partition, rows as the primary has them; an estimate of the planner says so."""
    rows = [["TABLE", "PARTITION", "ROWS"]]
    for _, node in sorted(nodes.items()):
        for table in node.get("tables") or []:
            partition = table["table"] if table["table"] != table["parent"] else "-"
            count = "not counted" if table["rows"] is None else f"{table['rows']:,}" + (" (estimated)" if table["estimated"] else "")
            rows.append([table["parent"], partition, count])
    return rows


def address_rows(nodes: dict[str, Node]) -> list[list[str]]:
    return [[entry["name"], name, entry["url"]]
            for name, node in sorted(nodes.items()) for entry in node.get("addresses") or []]


def columns(rows: list[list[str]]) -> str:
    """Rows as lines, each column as wide as its widest cell."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


class FilterModule:
    """Names under which playbooks and templates call the functions above."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_problems": problems, "fleet_notices": notices, "fleet_node_rows": node_rows, "fleet_table_rows": table_rows,
                "fleet_address_rows": address_rows, "columns": columns}
