"""`pgroute chaos`: the workload against a fleet that someone else breaks meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

import psycopg

from pgroute.chaos.report import Line, Promotion, Report, Window, judge
from pgroute.chaos.router_client import RouterClient
from pgroute.chaos.tally import Counts, Outcome, Promise, Record, Tally
from pgroute.chaos.witness import Witness
from pgroute.chaos.workload import Workload
from pgroute.errors import PgrouteError
from pgroute.keys import new_key
from pgroute.router import Router
from pgroute.routing.probe import one_line
from pgroute.text import table

_TIMEOUT_SECONDS = 1.0
_MAX_LAG_SECONDS = 0.5
_SETTLE_SECONDS = 30.0


def run_chaos(
    router: Router,
    *,
    seconds: float,
    workers: int = 4,
    say: Callable[[str], None],
    keep: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Write and read for ``seconds``, say each second how it goes; the report.

    Needs the table that :data:`pgroute.chaos.client.TABLE` makes: ConfigurationError without it.
    Its rows are deleted at the end unless ``keep``. Ctrl-C ends the run, not the report.
    """
    client = RouterClient(
        router,
        UUID(str(new_key())),
        timeout=_TIMEOUT_SECONDS,
        max_lag=f"{round(_MAX_LAG_SECONDS * 1000)}ms",
    )
    client.prepare()
    tally = Tally()
    workload = Workload(client, tally, workers=workers, max_lag_seconds=_MAX_LAG_SECONDS)
    witness = Witness(router.settings, on_promotion=lambda seen: say(_promoted(seen)))
    begin = clock()
    witness.start()
    workload.start()
    try:
        while (left := begin + seconds - clock()) > 0:
            sleep(min(1.0, left))
            say(_progress(tally.counts(), clock() - begin))
    except KeyboardInterrupt:
        say("stopping: the report follows")
    finally:
        stopped = workload.stop()
        witness.stop()
    end = clock()
    done, unproven = tally.counts(), []
    if not stopped:
        unproven.append("a thread of the workload hangs, long after its deadline")
    if not done.writes:
        unproven.append("no write succeeded")
    if not done.reads[Outcome.KEPT]:
        unproven.append("no read succeeded")
    if unseen := _unseen(router, tally.record(), witness.promotions):
        unproven.append(f"the witness saw nobody accept writes on timeline {unseen[0]}")
    present = None
    try:
        present = _found(client, clock, sleep)
        if not keep:
            client.clean()
    except (PgrouteError, psycopg.Error) as error:
        if present is None:
            unproven.append(f"what became of the writes is not known: {one_line(error)}")
        say(f"the rows written are still there: {one_line(error)}")
    return judge(tally.record(), [Window("all", begin, end)], witness.promotions, present, unproven)


def describe_report(report: Report) -> str:
    """The report as text: a table, and the broken promises."""
    total = report.total
    rows: list[tuple[object, ...]] = [
        ("acknowledged writes", total.writes),
        ("failed writes", total.failed_writes),
        ("writes on the wrong node", total.wrong_node),
        ("acknowledged writes lost", total.lost),
        ("lost with a primary that had not sent them on", total.lost_with_primary),
        ("acknowledged late by a replaced primary", total.dead_branch),
        ("reads", total.reads),
        ("failed reads", total.failed_reads),
        ("reads refused, their promise unproven", total.refused_reads),
        *((f"stale reads, promise {p}", total.stale[p]) for p in Promise if p in _PROMISED),
        ("slowest read in s", total.slowest_read),
        ("first write after a promotion in s", total.first_write),
    ]
    errors = [f"  {count} x {kind}" for kind, count in _most(total)]
    return "\n".join(
        [table(("what", "count"), rows), *(["", "Errors:", *errors] if errors else [])]
    )


_PROMISED = (Promise.AFTER, Promise.MONOTONIC, Promise.MAX_LAG)


def _most(line: Line) -> list[tuple[str, int]]:
    return sorted(line.errors.items(), key=lambda item: -item[1])


def _promoted(seen: Promotion) -> str:
    return f"        {seen.node} accepts writes on timeline {seen.timeline}"


def _progress(counts: Counts, seconds: float) -> str:
    reads = counts.reads
    return (
        f"{seconds:6.1f} s  {counts.writes:,} writes ({counts.failed_writes:,} failed)  "
        f"{reads[Outcome.KEPT]:,} reads ({reads[Outcome.FAILED]:,} failed, "
        f"{reads[Outcome.STALE]:,} stale, {reads[Outcome.REFUSED]:,} refused)"
    )


def _unseen(router: Router, record: Record, promotions: Sequence[Promotion]) -> list[int]:
    """The timelines whose beginning the witness missed: a wrong node's write passes for right."""
    written = {write.timeline for write in record.writes}
    missed = {router.topology.fence.timeline, *written} - {seen.timeline for seen in promotions}
    return sorted(timeline for timeline in missed if timeline)


def _found(
    client: RouterClient, clock: Callable[[], float], sleep: Callable[[float], None]
) -> set[tuple[int, int]]:
    """What the primary holds, once there is one again."""
    until = clock() + _SETTLE_SECONDS
    while True:
        try:
            return client.found()
        except (PgrouteError, psycopg.Error):
            if clock() >= until:
                raise
            sleep(0.2)
