"""Do the replicas get the log, replay it, and keep their readers? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgroute.core.topology import Role
from pgroute.doctor.facts import Facts, NodeFacts, Purpose, Server
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.judging.roles import topology_of
from pgroute.doctor.limits import Limits
from pgroute.text import size


def judge_receivers(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Each replica streams from somebody."""
    for node, server in _replicas(facts):
        if not server.receiving:
            yield problem(
                "no WAL receiver runs: it gets nothing from the primary, and is not read",
                "see its log, primary_conninfo, the slot, and the primary's pg_hba.conf",
                node=node.name,
            )
        elif server.receiver_status not in (None, "streaming"):
            yield problem(
                f"its WAL receiver is {server.receiver_status}, not streaming",
                "see its log: the log it needs may be gone from the primary",
                node=node.name,
            )
        else:
            unseen = " (its state is hidden from this user)" * (server.receiver_status is None)
            yield ok(f"a WAL receiver runs{unseen}", node=node.name)


def judge_lag(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Each replica is within the limit, and gets soon where the primary has been."""
    most = facts.settings.max_lag_bytes
    primary = topology_of(facts).primary
    readable = {node.name for node in facts.nodes if node.session(Purpose.READ) is not None}
    if primary not in readable:
        return  # nothing to compare with
    for node, _server in _replicas(facts):
        if node.name not in readable:
            continue
        found = facts.catch_up.get(node.name)
        if found is None:
            yield problem(
                "its lag could not be measured: the primary, or it, stopped answering",
                "ask again; if it stays so, see the logs of both",
                node=node.name,
            )
        elif found.behind is None:
            yield problem(
                "its lag is unknown: it is not read",
                "see its log; a replica that was just started may not know its position yet",
                node=node.name,
            )
        elif found.behind > most:
            yield problem(
                f"{size(found.behind)} behind, more than PGROUTE_MAX_LAG_BYTES allows "
                f"({size(most)}): it is not read",
                "find what keeps it: a long read there, slow disks, the network, paused replay",
                node=node.name,
            )
        elif found.seconds is None:
            yield problem(
                f"{size(found.behind)} behind, and not caught up within {found.limit:g} s",
                "find what keeps it: a long read there, slow disks, the network, paused replay",
                node=node.name,
            )
        else:
            spent = f"{found.seconds * 1000:.0f} ms"
            yield ok(f"{size(found.behind)} behind, caught up within {spent}", node=node.name)


def judge_replay(facts: Facts, _: Limits) -> Iterator[Finding]:
    """No replica's replay is paused."""
    for node, server in _replicas(facts):
        if server.replay_paused:
            yield problem(
                "its replay is paused: its data grow old",
                "select pg_wal_replay_resume() there, as a superuser",
                node=node.name,
            )
        else:
            yield ok("replay is not paused", node=node.name)


def judge_conflicts(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Which reads a replica cancels to go on replaying."""
    for node, server in _replicas(facts):
        feedback = "on" if server.hot_standby_feedback else "off"
        delay = "for ever" if server.standby_delay < 0 else f"{server.standby_delay:g} s"
        words = f"hot_standby_feedback {feedback}, replay waits for reads {delay}"
        if server.conflicts:
            yield warning(
                f"{server.conflicts} reads were cancelled for replay so far; {words}",
                "keep reads short, set hot_standby_feedback = on, or let "
                "max_standby_streaming_delay grow (then lag grows with it); select pg_stat_reset() "
                "there counts anew",
                node=node.name,
            )
        else:
            yield ok(words, node=node.name)


def _replicas(facts: Facts) -> Iterator[tuple[NodeFacts, Server]]:
    foreign = {s.node for s in topology_of(facts).nodes if s.role is Role.FOREIGN}
    for node, server in facts.answering:
        if server.in_recovery and node.name not in foreign:
            yield node, server
