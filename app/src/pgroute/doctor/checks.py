"""All checks, in the order in which they are told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pgroute.doctor.facts import Facts
from pgroute.doctor.findings import Finding
from pgroute.doctor.judging.capacity import judge_capacity
from pgroute.doctor.judging.clocks import judge_clocks
from pgroute.doctor.judging.encryption import judge_certificates, judge_encryption
from pgroute.doctor.judging.logins import judge_logins, judge_passfile
from pgroute.doctor.judging.network import judge_names, judge_reach
from pgroute.doctor.judging.privileges import judge_roles_rights, judge_tables
from pgroute.doctor.judging.replication import (
    judge_conflicts,
    judge_lag,
    judge_receivers,
    judge_replay,
)
from pgroute.doctor.judging.roles import (
    judge_clusters,
    judge_roles,
    judge_timelines,
    judge_versions,
)
from pgroute.doctor.judging.sessions import judge_isolation, judge_preparing, judge_settings
from pgroute.doctor.judging.tables import judge_partitions
from pgroute.doctor.limits import Limits


@dataclass(frozen=True, slots=True)
class Check:
    """A name, and the judgement: an ok finding, or what is wrong and what to do."""

    name: str
    judge: Callable[[Facts, Limits], Iterable[Finding]]

    def findings(self, facts: Facts, limits: Limits) -> list[Finding]:
        """The check's findings, under its name."""
        return [replace(found, check=self.name) for found in self.judge(facts, limits)]


CHECKS = (
    Check("dns", judge_names),
    Check("tcp", judge_reach),
    Check("passfile", judge_passfile),
    Check("login", judge_logins),
    Check("tls", judge_encryption),
    Check("certificate", judge_certificates),
    Check("version", judge_versions),
    Check("cluster", judge_clusters),
    Check("roles", judge_roles),
    Check("timeline", judge_timelines),
    Check("receiver", judge_receivers),
    Check("replay", judge_replay),
    Check("lag", judge_lag),
    Check("conflicts", judge_conflicts),
    Check("clock", judge_clocks),
    Check("tables", judge_tables),
    Check("privileges", judge_roles_rights),
    Check("settings", judge_settings),
    Check("isolation", judge_isolation),
    Check("connections", judge_capacity),
    Check("prepared", judge_preparing),
    Check("partitions", judge_partitions),
)


_USUAL = Limits()


def judge(facts: Facts, limits: Limits = _USUAL, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What all checks say about the facts."""
    return [found for check in checks for found in check.findings(facts, limits)]
