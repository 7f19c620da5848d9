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
        elif found.failure is not None:
            yield warning(
                f"{found.table} was not compared: {found.failure}",
                "mend that, or route and load through the parent",
            )
        elif found.leaves == 0:
            yield ok(f"{found.table} has no partitions yet")
        elif found.agreed_keys == 0:
            leaves = "1 leaf" if found.leaves == 1 else f"{found.leaves} leaves"
            yield warning(
                f"{found.table}: not one key was found for its {leaves}, so nothing was compared",
                "see whether its bounds are meant; of your own keys the server tells the leaf as "
                "tableoid::regclass",
            )
        else:
            yield ok(f"{found.table}: {found.agreed_keys} computed keys lie where they should")
