"""Facts of a healthy fleet, to be changed by the tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pgroute.config import Node, Settings
from pgroute.doctor import Finding, Limits, Verdict, judge
from pgroute.doctor.facts import (
    Address,
    CatchUp,
    Facts,
    Login,
    NodeFacts,
    Passfile,
    Purpose,
    Reach,
    Server,
    Session,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ADDRESS = Address("IPv4", "10.0.0.1", 0.001)


def settings(**options: object) -> Settings:
    values: dict[str, object] = {
        "nodes": "pg1,pg2,pg3",
        "database": "app",
        "write_user": "app_rw",
        "read_user": "app_ro",
    }
    return Settings.make(**(values | options))


def session(purpose: Purpose, **changes: Any) -> Session:
    effective = settings().session(read_only=purpose is Purpose.READ)
    return replace(Session(encrypted=True, tls_version="TLSv1.3", effective=effective), **changes)


def logins(**changes: Any) -> tuple[Login, ...]:
    return (
        Login("app_ro", Purpose.READ, None, 1, session(Purpose.READ, **changes)),
        Login("app_rw", Purpose.WRITE, None, 2, session(Purpose.WRITE, **changes)),
    )


def node(name: str, **changes: Any) -> NodeFacts:
    """A healthy node; pg1 is the primary."""
    replica = name != "pg1"
    found = NodeFacts(
        Node(name, name, 5432),
        reach=Reach((ADDRESS,)),
        sslmode="verify-full",
        logins=logins(),
        server=Server(
            in_recovery=replica,
            position=1000,
            system_identifier=7,
            receiving=replica,
            receiver_status="streaming" if replica else None,
            started_at=name,
        ),
    )
    return replace(found, **changes)


def changed(name: str, **server: Any) -> NodeFacts:
    """A node whose server says something else."""
    healthy = node(name)
    assert healthy.server is not None
    return replace(healthy, server=replace(healthy.server, **server))


def facts(*nodes: NodeFacts, **changes: Any) -> Facts:
    """A healthy fleet of three, but for the given nodes."""
    given = {each.name: each for each in nodes}
    whole = Facts(
        settings=settings(),
        now=NOW,
        nodes=tuple(given.get(name) or node(name) for name in ("pg1", "pg2", "pg3")),
        passfile=Passfile("/srv/app/.pgpass"),
        catch_up={name: CatchUp(0, 0.002, 2.0) for name in ("pg2", "pg3")},
    )
    return replace(whole, **changes)


def findings(seen: Facts, check: str, limits: Limits | None = None) -> list[Finding]:
    """The findings of one check."""
    return [found for found in judge(seen, limits or Limits()) if found.check == check]


def troubles(seen: Facts, limits: Limits | None = None) -> list[tuple[Verdict, str, str | None]]:
    """Whatever is not ok, over all checks."""
    return [
        (found.verdict, found.check, found.node)
        for found in judge(seen, limits or Limits())
        if found.verdict is not Verdict.OK
    ]
