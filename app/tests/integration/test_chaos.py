"""Every fault in turn under load: no promise is broken. Times have generous limits here;
``python -m benchmarks.chaos`` measures them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.chaos import run_faults
from benchmarks.child import environment
from benchmarks.faults import scenario
from benchmarks.fleet import create_chaos_table
from pgroute.chaos.report import Line, Report
from pgroute.chaos.tally import Promise
from tests.patience import PatientServers
from tests.servers import Servers

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def report(servers: PatientServers) -> Report:
    """The workload's report on a router that went through all faults, about a minute long."""
    create_chaos_table(servers)
    clients = ["pgroute"]
    try:
        watched = servers.as_they_are
        return run_faults(watched, scenario(1.5), clients=clients, settle=1.0)["pgroute"]
    finally:
        servers.make_anew()


def line(report: Report, window: str) -> Line:
    return next(each for each in report.lines if each.window == window)


def test_no_promise_is_broken_by_any_fault(report: Report) -> None:
    assert report.broken == []
    assert report.total.reads_of[Promise.AFTER] > 100
    assert report.total.reads_of[Promise.MONOTONIC] > 100
    assert report.total.writes > 100


def test_no_write_is_acknowledged_late_by_a_replaced_primary(report: Report) -> None:
    assert report.total.dead_branch == 0


@pytest.mark.parametrize("window", ["replica frozen", "replica cut off"])
def test_reads_go_on_without_a_replica(report: Report, window: str) -> None:
    found = line(report, window)
    assert found.reads > 10
    assert (found.last_failed_read or 0) < found.seconds
    assert found.writes > 2


def test_reads_go_on_without_a_primary(report: Report) -> None:
    assert line(report, "primary frozen").reads_of[Promise.EVENTUAL] > 2


@pytest.mark.parametrize(
    "window", ["primary killed, replica promoted", "primary frozen, replica promoted"]
)
def test_writes_go_on_after_a_promotion(report: Report, window: str) -> None:
    first = line(report, window).first_write
    assert first is not None  # how soon is what the benchmark measures


@pytest.fixture
def with_table(servers: Servers) -> Iterator[Servers]:
    """The servers with the table of the workload, for as long as a test needs it."""
    create_chaos_table(servers)
    yield servers
    servers.sql("pg1", "drop table pgroute_chaos", database="app")


def chaos(servers: Servers) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgroute", "chaos", "--seconds", "2"],
        env=environment(servers.settings()),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_command_counts_and_leaves_no_rows(with_table: Servers) -> None:
    done = chaos(with_table)
    assert done.returncode == 0, done.stderr
    counts = dict(
        line.strip().rsplit(maxsplit=1)
        for line in done.stdout.splitlines()
        if line.startswith("  ")
    )
    assert int(counts["acknowledged writes"].replace(",", "")) > 10
    assert int(counts["reads"].replace(",", "")) > 10
    assert counts["writes on the wrong node"] == "0"
    rows = with_table.sql("pg1", "select count(*) from pgroute_chaos", database="app")
    assert rows == "0"


def test_command_says_how_to_make_its_table(servers: Servers) -> None:
    done = chaos(servers)
    assert done.returncode == 2
    assert done.stderr.startswith("pgroute: the table pgroute_chaos is missing: ")
    assert "create table pgroute_chaos" in done.stderr
