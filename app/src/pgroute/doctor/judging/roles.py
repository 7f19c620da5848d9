"""Who is what, and do they belong together? Pure: the router's own decision is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pgroute.core.topology import Answer, Observation, Role, Silence, Topology, decide
from pgroute.doctor.facts import Facts, Purpose
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.limits import Limits

_OLDEST = 140000
_REJOIN = "stop it, and make it a replica again with pg_rewind or pg_basebackup"


def topology_of(facts: Facts) -> Topology:
    """What the router would decide on these facts."""
    seen: list[Observation] = []
    for node in facts.nodes:
        server = node.server
        if server is None:
            seen.append(Silence(node.name, "no answer"))
        else:
            seen.append(
                Answer(
                    node.name,
                    server.in_recovery,
                    server.timeline,
                    server.system_identifier,
                    server.position,
                    server.receiving,
                )
            )
    return decide(seen, max_lag_bytes=facts.settings.max_lag_bytes)


def judge_roles(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Exactly one server takes writes."""
    topology = topology_of(facts)
    if topology.split:
        names = " and ".join(topology.split)
        yield problem(
            f"split brain: {topology.problem}",
            f"decide which of {names} is right (the one that the replicas follow, with the newer "
            "rows), stop the other, and make it a replica again with pg_rewind or pg_basebackup",
        )
        return
    for state in topology.nodes:
        if state.role is Role.FENCED:
            yield problem(f"{state.state}: it must not be written to", _REJOIN, node=state.node)
    if topology.primary is None:
        yield problem(
            f"no primary: {topology.problem}",
            "start the primary, or promote the replica that has replayed most (pg_ctl promote)"
            if facts.answering
            else "no server was heard: mend what keeps them from being reached first",
        )
        return
    replicas = [state.node for state in topology.nodes if state.role is Role.REPLICA]
    yield ok(f"writes go to {topology.primary}; replicas: {', '.join(replicas) or 'none'}")
    if not replicas:
        yield warning(
            "there is no replica: every read goes to the primary",
            "add replicas, or name them in PGROUTE_NODES or the DSN",
        )


def judge_clusters(facts: Facts, _: Limits) -> Iterator[Finding]:
    """All servers are copies of one another, and no two names are one server."""
    by_identifier = defaultdict(list)
    by_start = defaultdict(list)
    for node, server in facts.answering:
        by_identifier[server.system_identifier].append(node.name)
        by_start[server.system_identifier, server.started_at].append(node.name)
    if len(by_identifier) > 1:
        names = "; ".join(f"{', '.join(n)}: {key}" for key, n in sorted(by_identifier.items()))
        yield problem(
            f"the servers are of different clusters (system identifiers {names})",
            "take the foreign ones out of the configuration: they hold other data",
        )
    elif by_identifier:
        yield ok(f"system identifier {next(iter(by_identifier))}")
    for names_of_one in by_start.values():
        if len(names_of_one) > 1:
            yield problem(
                f"{' and '.join(names_of_one)} are one and the same server",
                "give each node its own address",
            )


def judge_timelines(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Replicas are on the primary's timeline. One that is ahead leaves no primary at all."""
    primary = topology_of(facts).primary
    newest = max((s.timeline for n, s in facts.answering if n.name == primary), default=None)
    if newest is None:
        return
    for node, server in facts.answering:
        if not server.in_recovery or server.timeline == newest:
            if server.in_recovery or node.name == primary:
                yield ok(f"timeline {server.timeline}", node=node.name)
        else:
            yield warning(
                f"timeline {server.timeline} at least, while {primary} is on {newest}",
                "see whether it follows (recovery_target_timeline = latest); a user without "
                "pg_read_all_stats sees a switch only at the next checkpoint",
                node=node.name,
            )


def judge_versions(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Servers are new enough to say on the wire that their role has changed."""
    majors = {server.version // 10000 for _, server in facts.answering}
    for node, server in facts.answering:
        words = f"PostgreSQL {server.version // 10000}.{server.version % 10000}"
        sessions = [each for each in map(node.session, Purpose) if each is not None]
        if server.version < _OLDEST:
            yield problem(
                f"{words} does not report in_hot_standby",
                "upgrade to PostgreSQL 14 or later: before, a role change is seen late",
                node=node.name,
            )
        elif not all(session.tells_role for session in sessions):
            yield problem(
                f"{words}, but in_hot_standby does not arrive",
                "connect to the server itself: what stands between keeps it back",
                node=node.name,
            )
        else:
            yield ok(words, node=node.name)
    if len(majors) > 1:
        yield warning(
            f"several major versions: {', '.join(map(str, sorted(majors)))}",
            "physical replicas are of their primary's major version: look at who is who",
        )
