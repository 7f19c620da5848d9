"""Are there enough connections for full pools? Pure.

One process may have both pools of a node full, and asks over one more connection. After a failover
any node may be the primary, so each must bear it.
"""

from __future__ import annotations

from collections.abc import Iterator

from pgroute.doctor.facts import Facts, NodeFacts, Purpose, Server
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.judging.naming import identifier
from pgroute.doctor.limits import Limits

_PROBES = 1
_ADVICE = "make PGROUTE_POOL_MAX_SIZE smaller, or {grow}"


def judge_capacity(facts: Facts, limits: Limits) -> Iterator[Finding]:
    """max_connections and the limits of roles and database are above what full pools take."""
    for node, server in facts.answering:
        found = [*_roles(facts, limits, node), *_server(facts, limits, node, server)]
        yield from found
        if not found:
            room = server.max_connections - server.reserved_connections
            yield ok(
                f"full pools take {_total(facts, limits)} of {room} connections, "
                f"{server.used_connections} are in use",
                node=node.name,
            )


def wanted(facts: Facts, limits: Limits) -> dict[str, int]:
    """The connections to one node, by user, when all pools are full."""
    settings = facts.settings
    found = {settings.reader: settings.pool_sizes(read_only=True)[1] + _PROBES}
    writes = settings.pool_sizes(read_only=False)[1]
    found[settings.writer] = found.get(settings.writer, 0) + writes
    return {user: count * limits.processes for user, count in found.items()}


def _total(facts: Facts, limits: Limits) -> int:
    return sum(wanted(facts, limits).values())


def _roles(facts: Facts, limits: Limits, node: NodeFacts) -> Iterator[Finding]:
    of = {facts.settings.reader: Purpose.READ, facts.settings.writer: Purpose.WRITE}
    for user, count in wanted(facts, limits).items():
        session = node.session(of[user])
        if session is not None and 0 <= session.connection_limit < count:
            grow = f"alter role {identifier(user)} connection limit {count} or more"
            yield problem(
                f"the role {user} may have {session.connection_limit} connections, "
                f"full pools want {count}",
                _ADVICE.format(grow=grow),
                node=node.name,
            )


def _server(facts: Facts, limits: Limits, node: NodeFacts, server: Server) -> Iterator[Finding]:
    count = _total(facts, limits)
    room = server.max_connections - server.reserved_connections
    if 0 <= server.database_limit < count:
        database = facts.settings.database_name
        grow = f"alter database {identifier(database)} connection limit {count} or more"
        yield problem(
            f"the database {database} may have {server.database_limit} connections, "
            f"full pools want {count}",
            _ADVICE.format(grow=grow),
            node=node.name,
        )
    grow = _ADVICE.format(grow="let max_connections grow (a restart)")
    if room < count:
        yield problem(
            f"max_connections leaves {room} connections, full pools want {count}",
            grow,
            node=node.name,
        )
    elif room - server.used_connections < count:
        yield warning(
            f"{room - server.used_connections} of {room} connections are free now, full pools want "
            f"{count} (your own running processes may hold some of the others)",
            grow,
            node=node.name,
        )
