"""What is asked of the benchmarks' figures, and that their commands fail when it does not hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import chaos, soak
from benchmarks.budgets import (
    GROWTH_KIB,
    READS,
    broken_promises,
    budget_table,
    complaint,
    complaint_of_soak,
    read_budgets,
    write_budgets,
)
from benchmarks.faults import FROZEN, PROMOTED, THAWED, scenario
from benchmarks.figures import FIGURES, Figure, PathFigures
from pgroute.chaos.report import Line, Report
from pgroute.chaos.tally import Outcome, Promise, Read

KILLED = f"primary killed, {PROMOTED}"
LINE = Line(
    window="",
    seconds=5.0,
    writes=100,
    failed_writes=0,
    wrong_node=0,
    dead_branch=0,
    lost=0,
    lost_with_primary=0,
    reads=4 * READS,
    failed_reads=0,
    refused_reads=0,
    stale=dict.fromkeys(Promise, 0),
    reads_of=dict.fromkeys(Promise, READS),
    last_failed_read=None,
    last_failed_write=None,
    slowest_read=0.1,
    first_write=None,
    errors={},
)


def a_run(
    windows: Mapping[str, Mapping[str, Any]] | None = None, /, **total: Any
) -> dict[str, Report]:
    """Of a client that keeps every promise, but for what a test changes."""
    usual: dict[str, dict[str, Any]] = {
        "no fault": {},
        FROZEN: {"last_failed_read": 0.65},
        THAWED: {},
        KILLED: {"first_write": 0.29},
    }
    changed = {name: values | dict((windows or {}).get(name, {})) for name, values in usual.items()}
    lines = [replace(LINE, window=name, **values) for name, values in changed.items()]
    return {"pgroute": Report(lines, replace(LINE, window="total", **total))}


def stale(promise: Promise) -> dict[Promise, int]:
    return LINE.stale | {promise: 2}


BROKEN = [
    (a_run(wrong_node=1), "1 writes were acknowledged by the wrong node"),
    (a_run(lost=3), "3 acknowledged writes were lost"),
    (a_run(stale=stale(Promise.AFTER)), "2 reads after a token were stale"),
    (a_run(stale=stale(Promise.MONOTONIC)), "2 reads in a session went back in time"),
    (
        a_run(reads_of=LINE.reads_of | {Promise.AFTER: READS - 1}),
        "only 9,999 reads were made under after, not 10,000",
    ),
    (
        a_run(reads_of=LINE.reads_of | {Promise.MONOTONIC: 0}),
        "only 0 reads were made under monotonic, not 10,000",
    ),
    (
        a_run({FROZEN: {"last_failed_read": 1.01}}),
        "reads failed until 1.01 s after a replica froze, not within 1.00 s",
    ),
    (
        a_run({THAWED: {"last_failed_read": 0.1}}),
        "reads failed until 5.10 s after a replica froze, not within 1.00 s",
    ),
    (
        a_run({KILLED: {"first_write": 0.31}}),
        "the first write came 0.31 s after the new primary accepted writes, not within 0.30 s "
        f"({KILLED})",
    ),
    (a_run({KILLED: {"first_write": None}}), f"nobody wrote after the promotion ({KILLED})"),
]


def test_a_run_that_keeps_everything_is_not_complained_of() -> None:
    assert complaint(a_run()) == ""


@pytest.mark.parametrize(("run", "expected"), BROKEN)
def test_what_does_not_hold_is_said(run: dict[str, Report], expected: str) -> None:
    assert complaint(run) == f"pgroute: {expected}"


def test_what_was_not_put_to_the_test_is_said_of_the_whole_scenario_only() -> None:
    report = Report(
        [replace(LINE, window="no fault")], replace(LINE, reads_of=dict.fromkeys(Promise, 9))
    )
    assert broken_promises(report, every_fault=False) == []
    assert len(broken_promises(report)) == 4


def test_others_are_not_asked_for_our_promises() -> None:
    (bad,) = a_run(lost=1).values()
    assert complaint({"hasql": bad, **a_run()}) == ""
    assert complaint({"hasql": bad, "pgroute-async": bad}).startswith("pgroute-async: 1 ")


def test_the_scenario_has_the_windows_that_promises_are_about() -> None:
    names = [name for step in scenario(1.0) for name in (step.name, step.mended) if name]
    assert names[names.index(FROZEN) + 1] == THAWED
    assert sum(name.endswith(PROMOTED) for name in names) == 2


@pytest.fixture
def chaos_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Report]], None]:
    """Run the command on servers that are not there, with these reports."""

    def run(reports: dict[str, Report]) -> None:
        monkeypatch.setattr(sys, "argv", ["chaos"])
        monkeypatch.setattr(chaos, "breakable", nullcontext)
        monkeypatch.setattr(chaos, "run_faults", lambda *_, **__: reports)
        chaos.main()

    return run


def test_chaos_ends_well_when_every_promise_held(
    chaos_of: Callable[[dict[str, Report]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    chaos_of(a_run())
    assert "pgroute: every promise held" in capsys.readouterr().out


@pytest.mark.parametrize(("run", "expected"), BROKEN)
def test_chaos_fails_with_the_promise_that_broke(
    chaos_of: Callable[[dict[str, Report]], None], run: dict[str, Report], expected: str
) -> None:
    with pytest.raises(SystemExit, match=r"^a promise is broken: pgroute: ") as ended:
        chaos_of(run)
    assert expected in str(ended.value.code)


# Soak


def samples(last_quarter_kib: int, count: int = 8) -> list[soak.Sample]:
    usual = soak.Sample(0.0, 50_000, 9, 9, writes=10, reads=10, failed=0, stale=0)
    grown = replace(usual, private_kib=last_quarter_kib)
    return [usual] * (count - count // 4) + [grown] * (count // 4)


@pytest.mark.parametrize(
    ("found", "stale", "expected"),
    [
        (samples(50_000 + int(GROWTH_KIB)), 0, None),
        (samples(50_001 + int(GROWTH_KIB)), 0, "memory grew by 1,025 KiB, more than 1,024"),
        (samples(50_000), 2, "2 reads were stale"),
        (samples(50_000, count=3), 0, "the run was too short to say whether memory grows"),
        ([replace(s, reads=0) for s in samples(1)], 0, "10 writes and 0 reads are no load"),
    ],
)
def test_soak_fails_when_memory_grew_or_a_read_was_stale(
    monkeypatch: pytest.MonkeyPatch, found: list[soak.Sample], stale: int, expected: str | None
) -> None:
    read = Read(Promise.AFTER, Outcome.STALE, 0.0, 0.0, "pg2", "a row", 1, 1)
    monkeypatch.setattr(sys, "argv", ["soak"])
    monkeypatch.setattr(soak, "soak", lambda *_: (found, [read] * stale))
    if expected is None:
        soak.main()
        return
    with pytest.raises(SystemExit) as ended:
        soak.main()
    assert ended.value.code == f"the soak failed: {expected}"


def test_all_that_soak_has_to_say_is_one_sentence() -> None:
    said = complaint_of_soak(2000.0, stale=1, writes=1, reads=1)
    assert said == "1 reads were stale, memory grew by 2,000 KiB, more than 1,024"


# Reads and writes


def path(name: str, ratio: float, microseconds: float = 100.0) -> PathFigures:
    figure = Figure(ratio, ratio, ratio, microseconds)
    baseline = "raw, async" if "async" in name or "hasql" in name else "raw"
    return PathFigures(name, baseline, figure, figure, figure)


def measured(changed: PathFigures | None = None) -> list[PathFigures]:
    usual = [
        path("pgroute read()", 1.05),
        path("pgroute read(), async", 1.15, 120.0),
        path("hasql 0.10 on psycopg", 3.0, 300.0),
        path("hasql 0.10 on asyncpg", 2.4, 250.0),
    ]
    return [changed if changed and changed.name == each.name else each for each in usual]


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        (None, [True, True, True, True, True]),
        (path("pgroute read()", 1.061), [True, False, True, True, True]),
        (path("pgroute read()", 1.3), [False, False, True, True, True]),
        (path("pgroute read(), async", 1.151), [True, True, False, True, True]),
        (path("pgroute read()", 1.0, 126.0), [True, True, True, False, True]),
        (path("pgroute read(), async", 1.0, 126.0), [True, True, True, False, True]),
        (path("hasql 0.10 on psycopg", 3.0, 239.0), [True, True, True, False, True]),
        (path("pgroute read(), async", 1.21), [True, True, False, True, False]),
        (path("hasql 0.10 on psycopg", 2.2, 300.0), [True, True, True, True, False]),
    ],
)
def test_what_a_read_may_cost(changed: PathFigures | None, holds: list[bool]) -> None:
    budgets = read_budgets(measured(changed))
    assert [budget.asked for budget in budgets] == [1.10, 1.06, 1.15, 0.50, 0.50]
    assert [budget.holds for budget in budgets] == holds


def test_the_worst_of_all_figures_and_paths_counts_against_hasql() -> None:
    usual, slow = path("pgroute execute(), async", 1.0), Figure(1.21, 1.21, 1.21, 126.0)
    for figure in FIGURES:
        changed: dict[str, Any] = {figure: slow}
        budgets = read_budgets([*measured(), replace(usual, **changed)])
        assert [budget.holds for budget in budgets] == [True, True, True, False, False]


@pytest.mark.parametrize("missing", range(4))
def test_a_path_that_was_not_measured_holds_no_budget(missing: int) -> None:
    paths = measured()
    del paths[missing]
    with pytest.raises(KeyError):
        read_budgets(paths)


def test_what_a_write_with_a_token_may_cost() -> None:
    paths = [
        path("raw psycopg, transaction", 1.0),
        path("pgroute write()", 1.2),
        path("pgroute write() and token()", 1.21),
        path("pgroute execute() and token()", 1.04),
    ]
    budgets = write_budgets(paths, "fsync off")
    assert [(budget.asked, budget.holds) for budget in budgets] == [(1.05, False), (1.05, True)]
    assert budget_table(budgets).splitlines()[2:] == [
        "pgroute write() and token(), p10, of a raw write, fsync off     1.05  1.210     NO",
        "pgroute execute() and token(), p10, of a raw write, fsync off   1.05  1.040     yes",
    ]
