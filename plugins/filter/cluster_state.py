"""The decision table: from what every database node said to what a run may do.

Pure: deciding never talks to a machine. The table itself is in docs/architecture.md;
tests/test_preflight_decision.py has a case for every row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Node = dict[str, Any]
STATUS = "ansible-playbook playbooks/ops/status.yml"


class Stop(Exception):
    """The run must end here; the message says what, where, and what to type next."""


class Lsn(NamedTuple):
    """A position in the write-ahead log, ordered as numbers are."""

    high: int
    low: int

    @classmethod
    def parse(cls, text: str | None) -> Lsn:
        high, _, low = (text or "0/0").partition("/")
        return cls(int(high, 16), int(low or "0", 16))


def has_data(node: Node) -> bool:
    return node.get("data_directory_state") == "cluster"


def is_writable(node: Node) -> bool:
    return bool(node.get("server")) and not node["server"]["in_recovery"]


def describe(name: str, node: Node) -> str:
    """One node in one clause: identifier, timeline, position."""
    server = node.get("server") or {}
    return (
        f"{name}: identifier {identifier(node)}, timeline {node.get('timeline')}, "
        f"LSN {server.get('lsn') or node.get('wal_end_lsn') or node['control'].get('checkpoint_lsn')}"
    )


def identifier(node: Node) -> str:
    return str((node.get("server") or node["control"])["system_identifier"])


def position(node: Node) -> tuple[int, Lsn]:
    """How far a stopped node's log reaches: first the timeline, then the address."""
    return int(node.get("timeline") or 0), Lsn.parse(node.get("wal_end_lsn") or node["control"].get("checkpoint_lsn"))


def left_history(node: Node, primary: Node) -> str | None:
    """Why a node's data is not a part of the primary's history, or None when it is."""
    server = node.get("server") or {}
    timeline = int(node.get("timeline") or 0)
    current = int(primary["timeline"])
    if timeline == current:
        return None
    if timeline > current:
        return f"it is on timeline {timeline}, the primary still on {current}"
    reached = server.get("lsn") or node["control"].get("minimum_recovery_lsn")
    if Lsn.parse(reached) == Lsn(0, 0):
        reached = node["control"].get("checkpoint_lsn")
    switches = {int(number): switch for number, switch in primary.get("history") or []}
    if timeline not in switches:
        return f"its timeline {timeline} is none that the primary (timeline {current}) came from"
    if Lsn.parse(reached) > Lsn.parse(switches[timeline]):
        return f"it wrote up to {reached} on timeline {timeline}, which the primary left at {switches[timeline]}"
    return None


def check_answers(nodes: dict[str, Node], names: list[str]) -> None:
    """Every database node must have answered, whatever the limit of the run."""
    silent = [name for name in names if not nodes.get(name, {}).get("reachable")]
    if silent:
        why = " ".join(problem for name in silent for problem in nodes.get(name, {}).get("problems", []))
        raise Stop(f"{why} No run changes a cluster while the state of a database node ({', '.join(silent)}) is unknown, "
                   "whatever its --limit.")
    for name in names:
        node = nodes[name]
        if node.get("running") and not has_data(node):
            raise Stop(
                f"{name}: a PostgreSQL server (pid {node['pid']}) runs on {node['data_directory']}, "
                f"but that directory is {node['data_directory_state']}: it was moved or damaged under the server. "
                f"Put it back before anything stops that server; it may hold the only copy."
            )
        if node.get("data_directory_state") == "unreadable":
            raise Stop(
                f"{name}: {node['data_directory']} is not empty and pg_controldata, which could tell what it holds, "
                f"is not installed. Move the directory aside, or install the server package on {name} by hand first."
            )
        if node.get("running") and not node.get("server"):
            raise Stop(
                f"{name}: PostgreSQL runs (pid {node['pid']}) but does not answer: {node['server_error']} "
                f"Look at its log on {name}, wait until it answers, then run the same command again."
            )


def check_one_cluster(nodes: dict[str, Node], writable: list[str]) -> None:
    """More than one writable node, or more than one system identifier, stops every run."""
    if len(writable) > 1:
        listed = "; ".join(describe(name, nodes[name]) for name in writable)
        raise Stop(
            f"More than one node accepts writes ({listed}). Find out which one the clients used, stop PostgreSQL on "
            f"the other by hand (systemctl stop postgresql@17-main), and look again: {STATUS}"
        )
    initialised = {name: node for name, node in nodes.items() if has_data(node)}
    identifiers = {identifier(node) for node in initialised.values()}
    if len(identifiers) < 2:
        return
    if writable:
        own = identifier(nodes[writable[0]])
        foreign = [name for name, node in initialised.items() if identifier(node) != own]
        raise Stop(
            f"{', '.join(foreign)} holds data of another cluster "
            f"({'; '.join(describe(name, nodes[name]) for name in foreign)}), while the primary is "
            f"{describe(writable[0], nodes[writable[0]])}. Save what you need of it, move "
            f"{nodes[foreign[0]]['data_directory']} on {foreign[0]} aside by hand, type there: "
            f"sudo rm -f {marker_of(nodes[foreign[0]])}, then run the same command again."
        )
    marks = dict.fromkeys(path for node in initialised.values() for path in [marker_of(node), *traces(node)])
    raise Stop(
        "The nodes hold data of different clusters, and none is running as primary "
        f"({'; '.join(describe(name, node) for name, node in initialised.items())}). "
        f"Move the data directory that does not belong here aside by hand, type there: sudo rm -f {' '.join(marks)}, "
        "then run the same command again."
    )


def unit_of(node: Node) -> str:
    """The systemd unit of the server whose data stands in Debian's place, .../<version>/<cluster>."""
    version, cluster = str(node["data_directory"]).rstrip("/").split("/")[-2:]
    return f"postgresql@{version}-{cluster}"


def marker_of(node: Node) -> str:
    """The file that role replication writes once a node has data; while it is there, none is cloned in its place."""
    version, cluster = str(node["data_directory"]).rstrip("/").split("/")[-2:]
    return f"/etc/postgresql/{version}/{cluster}/pgfleet-data"


def traces(node: Node) -> list[str]:
    """The files that say that a node was part of a cluster; a node without the first may not have been cloned yet."""
    return [node[key] for key in ("data_marker", "left_behind") if node.get(key)]


def missing_data(nodes: dict[str, Node]) -> tuple[str, str, str]:
    """(the nodes that held data and hold none now, how that is known and what to do, what gives the data up); empty where none."""
    names = sorted(name for name, node in nodes.items() if traces(node) and not has_data(node))
    if not names:
        return "", "", ""
    node, listed = nodes[names[0]], ", ".join(names)
    paths = list(dict.fromkeys(path for name in names for path in traces(nodes[name])))
    return (listed, f"did: {paths[0]} is of a cluster that was set up there. "
            f"Is the disk of {node['data_directory']} mounted? Mount it, then run the same command again.",
            f"type on {listed}: sudo rm -f {' '.join(paths)}")


def check_nothing_is_missing(nodes: dict[str, Node], primary: str | None) -> None:
    """A cluster is neither made nor started in the place of one whose disk is not mounted."""
    missing, why, give_up = missing_data(nodes)
    if missing and primary is None:
        raise Stop(f"No node holds data, but {missing} {why} To begin with an empty cluster instead, {give_up}")
    if missing:
        raise Stop(f"No node accepts writes. {primary} was primary last, as far as the data at hand tells, while {missing} holds no "
                   f"data, but {why} What it may have written as primary since would be lost. To start {primary} all the same, {give_up}")


def check_places(nodes: dict[str, Node], making: list[str]) -> None:
    """A new data directory is renamed into its place, which no mount point lets happen."""
    for name, node in sorted(nodes.items()):
        if name in making and node.get("is_mount_point") and not has_data(node):
            directory = str(node["data_directory"]).rstrip("/")
            raise Stop(
                f"{name}: {directory} is itself a mount point, but a new data directory is renamed into its place: "
                f"mount that disk on {directory.rpartition('/')[0]} instead, then run the same command again."
            )


def check_clones(nodes: dict[str, Node], primary: str, making: list[str]) -> None:
    """A copy is made where no data was before, and where it fits."""
    for name, node in sorted(nodes.items()):
        # Where this run makes no copy, it may do what it is for: the status tells of the missing data.
        if has_data(node) or name not in making:
            continue
        # What is there but damaged is set aside, never overwritten; a path with nothing on it may be another disk's.
        if node.get("data_marker") and node["data_directory_state"] in ("absent", "empty"):
            raise Stop(
                f"{name} holds no data, but did: {node['data_marker']} says so. Is the disk of {node['data_directory']} mounted? "
                f"Mount it, then run the same command again. If that data is given up and {name} is to be cloned again, "
                f"type on {name}: sudo rm {node['data_marker']}"
            )
        needed, free = nodes[primary].get("database_bytes"), node.get("free_bytes", {}).get(node["data_directory"])
        if needed is not None and free is not None and needed > free:
            raise Stop(
                f"{name}: the databases of {primary} take {needed // 10**6} MB, but {node['data_directory']}, where they would be "
                f"cloned to, has {free // 10**6} MB free: make room there, or mount a larger disk, then run the same command again."
            )


def check_history(nodes: dict[str, Node], primary: str) -> None:
    """Beside a running primary every other node's data must be a replica's, of the primary's own history."""
    for name, node in sorted(nodes.items()):
        if name == primary or not has_data(node):
            continue
        reason = left_history(node, nodes[primary])
        if reason is None and not node.get("server") and "standby.signal" not in node["signals"]:
            reason = "it was last a primary itself, and would accept writes if it were started"
        if reason:
            raise Stop(
                f"{name} is no replica of {primary}: {reason}. What is only there would be lost, so a person decides. "
                f"To clone {name} again and keep what it holds aside, type on {name}: sudo systemctl stop {unit_of(node)} && "
                f"sudo mv {node['data_directory']} {node['data_directory']}.old && sudo rm -f {marker_of(node)}, then run the same command again."
            )


def recorded_primary(nodes: dict[str, Node]) -> str:
    """With no node writable: the one node that may be started as primary."""
    initialised = {name: node for name, node in nodes.items() if has_data(node)}
    listed = "; ".join(describe(name, node) for name, node in sorted(initialised.items()))
    candidates = sorted(
        name for name, node in initialised.items() if not node.get("server") and not node["signals"]
    )
    if len(candidates) != 1:
        missing, why, _ = missing_data(nodes)
        found = f"{' and '.join(candidates)} were all primary last" if candidates else "none of them was primary last"
        raise Stop(
            f"No node accepts writes, and {found} ({listed}). Nothing is initialised or started. Choose the node with "
            f"the highest timeline and LSN, and on it type: systemctl start {unit_of(next(iter(initialised.values())))}"
            + ("" if candidates else ", then, as postgres: psql -c 'select pg_promote()'")
            + (f". But before that: {missing} holds no data, but {why}" if missing else "")
        )
    candidate = candidates[0]
    ahead = [
        name for name, node in sorted(initialised.items())
        if name != candidate and reaches_further(node, initialised[candidate])
    ]
    if ahead:
        raise Stop(
            f"No node accepts writes. {candidate} was primary last, but {', '.join(ahead)} has a higher timeline or "
            f"LSN ({listed}), so starting {candidate} could lose writes. Look at both, and start the right one by hand: "
            f"systemctl start {unit_of(initialised[candidate])}"
        )
    return candidate


def reaches_further(node: Node, candidate: Node) -> bool:
    if not node.get("server"):
        return position(node) > position(candidate)
    # A running replica tells to the byte what it has; the stopped primary's end is known to the page.
    reached = max(Lsn.parse(node["server"]["lsn"]), Lsn.parse(node["server"].get("receive_lsn")))
    timeline, end = position(candidate)
    page_end = Lsn(end.high, end.low + 8192)
    return (int(node["timeline"]), reached) > (timeline, page_end)


def decide(nodes: dict[str, Node], names: list[str], declared: str, making: list[str]) -> dict[str, Any]:
    """What the run may do: {action, primary, notices}. `making` are the nodes on which it makes data where there is none.

    action is bootstrap (initialise the declared node), converge (around the primary that runs),
    start_recorded_primary (start the primary, then converge around it), or stop (message says why).
    """
    try:
        check_answers(nodes, names)
        nodes = {name: nodes[name] for name in names}
        writable = sorted(name for name, node in nodes.items() if is_writable(node))
        check_one_cluster(nodes, writable)
        if not any(has_data(node) for node in nodes.values()):
            check_nothing_is_missing(nodes, None)
            check_places(nodes, making)
            return {"action": "bootstrap", "primary": None, "notices": []}
        action = "converge" if writable else "start_recorded_primary"
        primary = writable[0] if writable else recorded_primary(nodes)
        if not writable:
            check_nothing_is_missing(nodes, primary)
        check_history(nodes, primary)
        check_places(nodes, making)
        check_clones(nodes, primary, making)
    except Stop as stop:
        return {"action": "stop", "primary": None, "notices": [], "message": str(stop)}
    notices = []
    if primary != declared:
        notices.append(f"The inventory names {declared} as primary, the cluster's primary is {primary}: "
                       f"the run goes on around {primary}.")
    return {"action": action, "primary": primary, "notices": notices}


def sentences(nodes: dict[str, Node], decision: dict[str, Any], names: list[str]) -> list[str]:
    """Everything that ends the run here: what is wrong with single nodes, then the decision."""
    told = [problem for name, node in sorted(nodes.items()) for problem in node.get("problems", [])
            if node.get("reachable") or name not in names]
    return told + ([decision["message"]] if decision["action"] == "stop" else [])


def published_states(nodes: dict[str, Node]) -> dict[str, str]:
    """{node name: empty | cluster | incomplete}, for the roles that initialise and clone."""
    words = {"absent": "empty", "foreign": "incomplete"}
    return {name: words.get(str(node["data_directory_state"]), str(node["data_directory_state"]))
            for name, node in nodes.items() if "data_directory_state" in node}


class FilterModule:
    """Names under which playbooks call the functions above."""

    def filters(self) -> dict[str, Any]:
        return {"cluster_decision": decide, "cluster_data_states": published_states,
                "cluster_sentences": sentences}
