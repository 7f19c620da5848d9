"""The benchmarks run and measure what they say. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks import bulk_load
from benchmarks.budgets import read_budgets, write_budgets
from benchmarks.faults import Shell
from benchmarks.figures import FIGURES, compare
from benchmarks.fleet import reached_directly
from benchmarks.memory import measure_memory
from benchmarks.plot import bars
from benchmarks.proxies import start_proxies
from benchmarks.reads import measure_reads, measure_writes
from pgroute import Settings
from tests.patience import PatientServers
from tests.servers import Servers

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(servers: PatientServers) -> Iterator[Settings]:
    """The servers at their container's address, where the proxies listen, too."""
    yield reached_directly(servers, pool_max_size=60)
    servers.make_anew()  # the proxies end with it, and so do the rows written


def test_every_way_to_read_gives_the_row(servers: Servers, settings: Settings) -> None:
    proxies = start_proxies(servers, listen="*")
    found = measure_reads(settings, proxies, rounds=2, calls=5)
    names = [each.name for each in found]
    assert len(set(names)) == len(names)
    for expected in ("pgroute read()", "pgroute read() in a session", "pgroute execute()"):
        assert {expected, f"{expected}, async"} <= set(names)
    assert len(read_budgets(found)) == 5  # which looks for every path that a budget is about
    assert [each.name for each in found if "Pg" in each.name] == [proxy.name for proxy in proxies]
    assert all(getattr(each, figure).microseconds > 0 for each in found for figure in FIGURES)


def test_every_way_to_write_writes(servers: Servers, settings: Settings) -> None:
    found = measure_writes(settings, rounds=2, calls=5)
    rows = servers.sql(
        "pg1", "select count(*) from tbl_users where first_name = 'measured'", database="app"
    )
    assert int(rows) == 2 * (5 + 5) * len(found)  # so many rounds, calls, calls before them, paths
    names = {each.name for each in found}
    for expected in ("write()", "write() and token()", "execute()", "execute() and token()"):
        assert {f"pgroute {expected}", f"pgroute {expected}, async"} <= names
    assert len(write_budgets(found, "here")) == 4
    assert all("async" not in each.name or "async" in each.baseline for each in found)


def test_a_connection_costs_memory(settings: Settings) -> None:
    memory = measure_memory(settings, repeats=1)
    assert memory.idle_router > 0
    assert memory.connection_of_a_router > 0


@pytest.mark.parametrize(
    ("options", "name"), [([], "bulk_load"), (["--indexes", "1"], "bulk_load-1-indexes")]
)
@pytest.mark.usefixtures("settings")
def test_bulk_load_writes_its_table_and_every_run(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: list[str],
    name: str,
) -> None:
    asked = ["--rows", "200", "--rounds", "1", "--output", str(tmp_path / "new"), *options]
    monkeypatch.setattr(sys, "argv", ["bulk_load", *asked])
    monkeypatch.setattr(bulk_load, "on_loopback", lambda: nullcontext(servers))
    bulk_load.main()
    text = (tmp_path / "new" / f"{name}.txt").read_text()
    assert bulk_load.BASELINE in text
    told = json.loads((tmp_path / "new" / f"{name}.json").read_text())
    assert (told["rows"], told["rounds"], told["indexes"]) == (200, 1, len(options) // 2)
    assert told["machine"]["cores"] > 0
    assert len(told["runs"]) == 6
    assert all(len(runs) == 1 and name in text for name, runs in told["runs"].items())


def test_ratios_are_of_the_same_round() -> None:
    rounds = [{"raw": [1.0] * 10, "other": [2.0] * 10}, {"raw": [10.0] * 10, "other": [20.0] * 10}]
    (found,) = compare(rounds, {"other": "raw"})
    assert json.dumps([getattr(found, figure).ratio for figure in FIGURES]) == "[2.0, 2.0, 2.0]"


def test_plot_shows_every_path_and_escapes_its_name() -> None:
    values = [("a < b", 1.5), ("pgroute", 1.04)]
    drawn = bars("Title", [("Heading", values)], highlight="pgroute")
    assert "a &lt; b" in drawn
    assert drawn.count('class="ours"') == 1
    assert drawn.index("pgroute</text>") < drawn.index("a &lt; b</text>")


def test_a_shell_tells_the_errors_of_a_command_with_it_and_not_with_the_next(
    servers: Servers,
) -> None:
    with Shell(servers.container) as shell:
        told = [shell.run(f"echo error {turn} >&2; echo {turn}") for turn in range(300)]
    assert told == [f"error {turn}\n{turn}" for turn in range(300)]
