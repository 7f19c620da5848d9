"""The command line and the service, as processes, over real servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.patience import PATIENT
from tests.servers import FIRST_PORT, NAMES, Servers, eventually, port

pytestmark = pytest.mark.integration

SERVICE_PORT = FIRST_PORT + 92
SOURCE = Path(__file__).parents[2] / "src"


def environment(servers: Servers, **change: str) -> dict[str, str]:
    own = {
        "PYTHONPATH": str(SOURCE),
        "PGROUTE_NODES": ",".join(f"{name}=127.0.0.1:{port(name)}" for name in NAMES),
        "PGROUTE_DATABASE": "app",
        "PGROUTE_WRITE_USER": "app_rw",
        "PGROUTE_READ_USER": "app_ro",
        "PGROUTE_PASSFILE": str(servers.passfile),
        "PGROUTE_REFRESH_INTERVAL_SECONDS": "0.2",
        **{f"PGROUTE_{name.upper()}": str(value) for name, value in PATIENT.items()},
        "PGROUTE_LISTEN_PORT": str(SERVICE_PORT),
        "PGROUTE_HEARTBEAT_SECONDS": "0.1",
    }
    others = {key: value for key, value in os.environ.items() if not key.startswith("PGROUTE_")}
    return others | own | change


def pgroute(servers: Servers, *arguments: str, **change: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgroute", *arguments],
        env=environment(servers, **change),
        capture_output=True,
        text=True,
        timeout=300,
    )


def rows(servers: Servers, table: str) -> int:
    return int(servers.sql("pg1", f"select count(*) from {table}", database="app"))


def test_status_shows_every_node(servers: Servers) -> None:
    done = pgroute(servers, "status")
    assert done.returncode == 0, done.stderr
    shown = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()[4:]}
    assert shown == {"pg1": "primary", "pg2": "replica", "pg3": "replica"}


def test_status_fails_without_a_primary(servers: Servers) -> None:
    done = pgroute(servers, "status", PGROUTE_NODES=f"pg2=127.0.0.1:{port('pg2')}")
    assert done.returncode == 1
    assert done.stderr.startswith("pgroute: no writable server: pg2 is a replica")
    assert "Traceback" not in done.stderr


def test_wrong_configuration_is_one_sentence_and_exit_2(servers: Servers) -> None:
    done = pgroute(servers, "status", PGROUTE_NODE="pg1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "pgroute: PGROUTE_NODE is not a setting of pgroute; did you mean PGROUTE_NODES?\n"
    )


def test_demo_passes_twice_and_adds_nothing_the_second_time(servers: Servers) -> None:
    before = rows(servers, "tbl_users")
    first = pgroute(servers, "demo", "--rows", "20000")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "written to pg1" in first.stdout
    counted = rows(servers, "tbl_users"), rows(servers, "sales")
    assert counted == (max(before, 20_005), 8)

    second = pgroute(servers, "demo", "--rows", "20000")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Nothing to load." in second.stdout
    assert (rows(servers, "tbl_users"), rows(servers, "sales")) == counted


def test_demo_passes_on_an_empty_table(servers: Servers) -> None:
    servers.sql("pg1", "truncate tbl_users", database="app")
    done = pgroute(servers, "demo", "--rows", "0")  # five rows, hardly ever in all four leaves
    assert done.returncode == 0, done.stdout + done.stderr
    for leaf in range(4):
        assert f"  tbl_users_p{leaf}" in done.stdout


def test_demo_fails_when_a_row_is_not_what_was_written(servers: Servers) -> None:
    assert pgroute(servers, "demo", "--rows", "0").returncode == 0
    change = "update sales set order_amount = order_amount {} 1 where order_id = 3"
    servers.sql("pg1", change.format("+"), database="app")
    try:
        done = pgroute(servers, "demo", "--rows", "0")
    finally:
        servers.sql("pg1", change.format("-"), database="app")
    assert done.returncode == 1
    assert "FAIL  the eight sales are there once each, as written" in done.stdout


def test_demo_fails_when_a_replica_is_down(servers: Servers) -> None:
    servers.stop("pg3")
    try:
        done = pgroute(servers, "demo", "--rows", "0")
    finally:
        servers.start("pg3")
    assert done.returncode == 1
    assert "FAIL  every other node is a healthy replica" in done.stdout
    assert "FAIL  the same rows with the same hash on every node" in done.stdout


def test_load_adds_exactly_that_many(servers: Servers) -> None:
    before = rows(servers, "tbl_users")
    done = pgroute(servers, "load", "1234")
    assert done.returncode == 0, done.stderr
    assert "1,234 users into pg1" in done.stdout
    assert rows(servers, "tbl_users") == before + 1234


def test_a_load_that_is_interrupted_says_what_is_written(servers: Servers) -> None:
    before = rows(servers, "tbl_users")
    process = subprocess.Popen(
        [sys.executable, "-m", "pgroute", "load", "5000000"],
        env=environment(servers),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs this in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.readline()  # some rows are with the server
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert told == "pgroute: the load of tbl_users was interrupted: nothing was written\n"
    assert process.returncode == 130
    assert rows(servers, "tbl_users") == before


def fetch(path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{SERVICE_PORT}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def reads_on_replicas() -> float:
    counted = re.findall(r'reason="read",role="replica"\} (\S+)', fetch("/metrics")[1])
    return sum(map(float, counted))


def test_service_serves_and_stops_when_told(servers: Servers) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pgroute", "serve"], env=environment(servers), text=True
    )
    try:
        eventually(lambda: fetch("/healthz")[0] == 200, what="alive")
        eventually(lambda: fetch("/readyz") == (200, "writes go to pg1\n"), what="ready")
        eventually(lambda: reads_on_replicas() > 3, what="heartbeats on replicas")
        servers.stop("pg1")
        try:
            eventually(lambda: fetch("/readyz")[0] == 503, what="not ready without a primary")
            assert fetch("/readyz")[1].startswith("no writable server: pg1: ")
            assert fetch("/healthz")[0] == 200
        finally:
            servers.start("pg1")
        eventually(lambda: fetch("/readyz")[0] == 200, what="ready again")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
