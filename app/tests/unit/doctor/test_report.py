"""How the doctor's findings are told."""

from __future__ import annotations

import json

from pgroute.doctor import Report, judge
from pgroute.doctor.findings import ok, problem, warning
from tests.unit.doctor.fleets import changed, facts

NODES = ("pg1", "pg2", "pg3")


def test_what_is_the_same_on_several_nodes_is_told_once() -> None:
    report = Report(tuple(judge(facts())), NODES)
    line = next(line for line in report.text().splitlines() if line.startswith("version"))
    assert line.split() == ["version", "pg1", "pg2", "pg3", "ok", "PostgreSQL", "17.0"]


def test_problems_come_first_in_what_to_do() -> None:
    found = (
        ok("fine"),
        warning("so so", "look", node="pg1"),
        problem("broken", "mend it", node="pg3"),
        problem("broken", "mend it", node="pg2"),
    )
    text = Report(found, NODES).text()
    assert text.endswith(
        "What to do:\n1. pg3 pg2: broken\n   -> mend it\n2. pg1: so so\n   -> look\n\n"
        "1 check on 3 nodes: 2 problems, 1 warning"
    )


def test_without_trouble_there_is_nothing_to_do() -> None:
    text = Report(tuple(judge(facts())), NODES).text()
    assert "What to do" not in text
    assert text.endswith("checks on 3 nodes: 0 problems, 0 warnings")


def test_json_has_every_finding() -> None:
    seen = judge(facts(changed("pg2", replay_paused=True)))
    told = json.loads(Report(tuple(seen), NODES).json())
    assert (told["well"], told["problems"], told["warnings"]) == (False, 1, 0)
    assert len(told["findings"]) == len(seen)
    paused = [found for found in told["findings"] if found["verdict"] == "problem"]
    assert paused == [
        {
            "check": "replay",
            "node": "pg2",
            "verdict": "problem",
            "finding": "its replay is paused: its data grow old",
            "advice": "select pg_wal_replay_resume() there, as a superuser",
        }
    ]
