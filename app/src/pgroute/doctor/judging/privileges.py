"""May the users do what they are for? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgroute.doctor.facts import Facts, NodeFacts, Purpose, Rights, Session
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.judging.naming import identifier, schema_of
from pgroute.doctor.judging.roles import topology_of
from pgroute.doctor.limits import Limits

_SHOWN = 3


def judge_tables(facts: Facts, _: Limits) -> Iterator[Finding]:
    """The read user reads, the write user writes the tables. Asked on the primary if there is one:
    replicas have the same privileges."""
    node = _where(facts)
    if node is None:
        return
    for purpose in Purpose:
        session = node.session(purpose)
        if session is not None:
            yield from _tables(_user(facts, purpose), purpose, session)


def judge_roles_rights(facts: Facts, _: Limits) -> Iterator[Finding]:
    """The users see the statistics they need, and are no superusers."""
    for purpose in Purpose:
        user = _user(facts, purpose)
        if purpose is Purpose.WRITE and user == facts.settings.reader:
            continue
        sessions = [s for s in (node.session(purpose) for node in facts.nodes) if s is not None]
        mighty = any(session.superuser for session in sessions)
        blind = purpose is Purpose.READ and not all(each.sees_statistics for each in sessions)
        if mighty:
            yield warning(
                f"{user} is a superuser: a mistake in a statement has no bounds",
                f"alter role {identifier(user)} nosuperuser, and grant what it needs",
            )
        if blind:
            yield warning(
                f"{user} does not see pg_stat_wal_receiver: a replica's timeline is known only as "
                "of its last checkpoint, so after a failover tokens go to the primary for longer",
                f"grant pg_read_all_stats to {identifier(user)}",
            )
        if sessions and not mighty and not blind:
            yield ok(f"{user}: no superuser, sees what it must")


def _tables(user: str, purpose: Purpose, session: Session) -> Iterator[Finding]:
    writing = purpose is Purpose.WRITE
    wanted = session.wanted
    for name, rights in wanted.items():
        if rights is None:
            yield problem(
                f"the table {name} does not exist in this database",
                "create it, or correct --table and PGROUTE_DATABASE",
            )
    looked_at = [each for each in (wanted.values() if wanted else session.rights) if each]
    lacking = [each for each in looked_at if each.missing(writing=writing)]
    verb = "write to" if writing else "read"
    if not looked_at:
        if not wanted:
            yield ok(f"{user}: there is no table to {verb}")
        return
    if not lacking:
        partly = writing and not all(each.writable for each in looked_at)
        more = ", as far as they take writes" if partly else ""
        yield ok(f"{user} may {verb} all {len(looked_at)} tables{more}")
        return
    judge = problem if wanted or len(lacking) == len(looked_at) else warning
    count = f"{len(lacking)} of {len(looked_at)} tables"
    yield judge(
        f"{user} may not {verb} {count}: {_named(lacking, writing)}", _grant(lacking, user, writing)
    )


def _named(lacking: Sequence[Rights], writing: bool) -> str:
    shown = [f"{r.table} (no {', '.join(r.missing(writing=writing))})" for r in lacking[:_SHOWN]]
    more = len(lacking) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _grant(lacking: Sequence[Rights], user: str, writing: bool) -> str:
    first = lacking[0]
    missing = first.missing(writing=writing)
    table = [name for name in missing if " " not in name]
    if table:
        what = f"grant {', '.join(table).lower()} on {first.table}"
    elif not first.usage:
        what = f"grant usage on schema {schema_of(first.table)}"
    else:
        what = f"grant usage on the sequences of {first.table}"
    return f"{what} to {identifier(user)}; name the tables that matter with --table"


def _where(facts: Facts) -> NodeFacts | None:
    primary = topology_of(facts).primary
    usable = [node for node, _ in facts.answering]
    return next((n for n in usable if n.name == primary), usable[0] if usable else None)


def _user(facts: Facts, purpose: Purpose) -> str:
    return facts.settings.reader if purpose is Purpose.READ else facts.settings.writer
