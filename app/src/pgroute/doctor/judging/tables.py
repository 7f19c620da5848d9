"""Does the server agree with the partitions that are computed here? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgroute.doctor.facts import Facts
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.limits import Limits


def judge_partitions(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Computed leaves are the server's."""
    if facts.partitions_failure is not None:
        yield warning(
            f"partitioned tables were not looked at: {facts.partitions_failure}",
            "let the read user read the catalog and the tables, then ask again",
        )
    for found in facts.partitions:
        if found.mismatch is not None:
            yield problem(
                f"{found.table}: {found.mismatch}",
                "do not route or load by leaf: pgroute itself refuses to; please report it",
            )
        elif found.uncomputable is not None:
            yield ok(f"{found.uncomputable}; rows go through the parent")
        else:
            yield ok(f"{found.table}: {found.agreed_keys} computed keys lie where they should")
