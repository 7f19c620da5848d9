"""Do sessions run with the settings that were asked for, and can they prepare? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgroute.doctor.facts import Facts, NodeFacts, Origin, Purpose, Session
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.judging.naming import identifier
from pgroute.doctor.limits import Limits

_UNITS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "": 1}
_TIMEOUTS = ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout")
_LOWER = "set default_transaction_isolation = 'repeatable read'"


def judge_settings(facts: Facts, _: Limits) -> Iterator[Finding]:
    """What pgroute asks for is in effect; limits of the roles that it overrides are told."""
    for purpose in Purpose:
        found = list(_settings(facts, purpose))
        yield from found
        if not found and any(node.session(purpose) for node in facts.nodes):
            asked = facts.settings.session(read_only=purpose is Purpose.READ)
            timeouts = ", ".join(
                f"{name} {int(asked[name]) / 1000:g} s" for name in _TIMEOUTS if name in asked
            )
            yield ok(f"{purpose} connections: {timeouts}")


def _settings(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    asked = facts.settings.session(read_only=purpose is Purpose.READ)
    told: set[str] = set()
    for node in facts.nodes:
        session = node.session(purpose)
        if session is None:
            continue
        for name, wanted in asked.items():
            real = session.effective.get(name)
            if real is not None and real != wanted:
                yield problem(
                    f"{purpose} connections have {name} = {real}, though {wanted} was asked for",
                    "connect to the server itself: a pooler between keeps the settings back",
                    node=node.name,
                )
        for finding in _overridden(facts, purpose, session):
            if finding.says not in told:
                told.add(finding.says)
                yield finding


def _overridden(facts: Facts, purpose: Purpose, session: Session) -> Iterator[Finding]:
    user = facts.settings.reader if purpose is Purpose.READ else facts.settings.writer
    asked = facts.settings.session(read_only=purpose is Purpose.READ)
    for name in _TIMEOUTS:
        own = milliseconds(session.own.get(name, ""))
        if own and name in asked and own < int(asked[name]):
            owner = _owner(facts, user, session.origins[name])
            yield warning(
                f"{owner} has {name} = {session.own[name]}, and pgroute sets "
                f"{int(asked[name]) / 1000:g} s over it",
                f"set PGROUTE_{name.upper()}_SECONDS={own / 1000:g} if that is meant",
            )


def milliseconds(text: str) -> float | None:
    """A duration as PostgreSQL's settings have it, such as ``60s``; None when it is none."""
    match = re.fullmatch(r"\s*'?(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d|)'?\s*", text)
    return None if match is None else float(match[1]) * _UNITS[match[2]]


def judge_isolation(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Reads begin at a level that a standby has; serializable is none."""
    levels: list[str] = []
    serializable = False
    standbys = any(server.in_recovery for _, server in facts.answering)
    for node, server in facts.answering:
        session = node.session(Purpose.READ)
        if session is None:
            continue
        if session.isolation != "serializable":
            levels.append(session.isolation)
        elif server.in_recovery:
            serializable = True
            yield problem(
                "a standby runs no serializable transaction (SQLSTATE 0A000), and "
                f"{_whence(facts, session)}: no read runs here",
                _lower(facts, session),
                node=node.name,
            )
        elif session.isolation_origin is Origin.SERVER or not standbys:  # else told of them
            serializable = True
            yield warning(
                f"{_whence(facts, session)}: once the node is a standby no read will run here",
                _lower(facts, session),
                node=node.name,
            )
    if levels and not serializable:
        yield ok(f"reads begin at {' or '.join(dict.fromkeys(levels))}")


def _whence(facts: Facts, session: Session) -> str:
    owner = _owner(facts, facts.settings.reader, session.isolation_origin)
    return f"{owner} sets default_transaction_isolation = serializable"


def _owner(facts: Facts, user: str, origin: Origin) -> str:
    database = facts.settings.database_name
    return {
        Origin.SERVER: "the server's configuration",
        Origin.EVERYBODY: "ALTER ROLE ALL",
        Origin.DATABASE: f"the database {database}",
        Origin.ROLE: f"the role {user}",
        Origin.ROLE_IN_DATABASE: f"the role {user} in the database {database}",
    }[origin]


def _lower(facts: Facts, session: Session) -> str:
    """What to type. The reader's own setting goes before all others but the most particular."""
    user = identifier(facts.settings.reader)
    database = identifier(facts.settings.database_name)
    alone = facts.settings.reader != facts.settings.writer
    if session.isolation_origin is Origin.ROLE_IN_DATABASE:
        advice = f"alter role {user} in database {database} {_LOWER}"
    elif session.isolation_origin is Origin.DATABASE and not alone:
        advice = f"alter database {database} {_LOWER}"
    else:
        advice = f"alter role {user} {_LOWER}"
    more = "" if alone else "; for serializable writes give reads a user (PGROUTE_READ_USER)"
    return f"{advice}{more}, then connect anew"


def judge_preparing(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Statements can be prepared, and nobody stands between."""
    for node in facts.nodes:
        sessions = [each for each in map(node.session, Purpose) if each is not None]
        if sessions:
            yield _preparing(node, sessions)


def _preparing(node: NodeFacts, sessions: list[Session]) -> Finding:
    failure = next((s.prepare_failure for s in sessions if s.prepare_failure), None)
    if failure is not None:
        return problem(
            f"a prepared statement failed: {failure}",
            "connect to the server itself, or let the pooler keep prepared statements",
            node=node.name,
        )
    if not all(session.direct for session in sessions):
        return warning(
            "another process answers than was connected to: a pooler stands between",
            "connect to the server itself: pgroute has pools, and a pooler hides role changes",
            node=node.name,
        )
    return ok("statements can be prepared", node=node.name)
