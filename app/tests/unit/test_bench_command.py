"""The command ``pgroute bench``: what it has measured, and what it prints of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from pgroute import Settings
from pgroute.bench import Round
from pgroute.cli.entry import app
from pgroute.errors import ConfigurationError
from pgroute.statements import Decision, Route


class Measured:
    """Stands for the measurement: notes what was asked, gives rounds of such ratios."""

    def __init__(self, *ratios: float) -> None:
        self.ratios = ratios
        self.asked: list[tuple[str, dict[str, int]]] = []

    def __call__(self, router: Any, sql: str, **options: int) -> Iterator[Round]:
        self.asked.append((sql, options))
        for ratio in self.ratios:
            yield Round((1e-4,) * 10, (ratio * 1e-4,) * 10)


def decide(sql: str) -> Decision:
    if sql.startswith("select"):
        return Decision(Route.REPLICA, "it reads")
    return Decision(Route.PRIMARY, "it writes")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    found = Measured(1.5, 1.0, 2.0)
    statements = SimpleNamespace(refresh=lambda _: None, decide=decide)
    router = SimpleNamespace(read=lambda: nullcontext(None), statements=statements)
    monkeypatch.setattr("pgroute.cli.bench.Router", lambda _: nullcontext(router))
    monkeypatch.setattr("pgroute.bench.measure", found)
    settings = Settings.make(nodes="pg1", database="app", write_user="app")
    monkeypatch.setattr(Settings, "from_environment", lambda: settings)
    return found


def run(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout.splitlines()


def test_what_was_asked_is_measured(measured: Measured) -> None:
    run()
    run("--rounds", "3", "--calls", "50", "--sql", "select 7")
    assert measured.asked == [
        ("select 1", {"rounds": 20, "calls": 200}),
        ("select 7", {"rounds": 3, "calls": 50}),
    ]


@pytest.mark.usefixtures("measured")
def test_each_round_is_told_and_then_all_of_them() -> None:
    lines = run()
    assert [line.split(":")[0] for line in lines[:3]] == ["round   1", "round   2", "round   3"]
    assert lines[3] == ""
    assert lines[4].split()[0] == "figure"
    assert [line.split()[0] for line in lines[6:]] == ["p10", "median", "minimum"]
    assert all(line.split()[3:] == ["1.500", "1.000", "to", "2.000"] for line in lines[6:])


def test_nothing_is_measured_that_may_write(measured: Measured) -> None:
    with pytest.raises(ConfigurationError, match="--sql is not known to only read: it writes"):
        run("--sql", "delete from sales")
    assert measured.asked == []
