"""Each command of the command line, as a process: what it prints, and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_commands import environment, pgroute
from tests.servers import Servers, port

pytestmark = pytest.mark.integration


def test_every_command_is_listed(servers: Servers) -> None:
    done = pgroute(servers, "--help")
    listed = [
        line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line
    ]
    assert listed == [
        *("status", "doctor", "demo", "load", "partitions", "explain", "bench", "chaos", "serve")
    ]


def test_a_wrong_option_is_exit_2(servers: Servers) -> None:
    done = pgroute(servers, "status", "--watch", "soon")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# status


def test_status_as_json(servers: Servers) -> None:
    done = pgroute(servers, "status", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["primary"] == "pg1"
    assert told["system_identifier"].isdecimal()
    assert {node["node"]: node["role"] for node in told["nodes"]} == {
        "pg1": "primary",
        "pg2": "replica",
        "pg3": "replica",
    }


def test_status_counts_the_sessions_of_the_application(servers: Servers) -> None:
    member = servers.settings().members[1]
    parameters = servers.settings().connection(member, user="app_ro", read_only=True)
    parameters["application_name"] = "counted"
    with psycopg.connect(**parameters) as connection:
        connection.execute("select 1")
        looks = ("status", "--watch", "0.1", "--count", "20", "--json")
        done = pgroute(servers, *looks, PGROUTE_APPLICATION_NAME="counted")
    assert done.returncode == 0, done.stderr
    pictures = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(pictures) == 20
    seen = [{node["node"]: node for node in picture["nodes"]} for picture in pictures]
    # On a busy machine a node may have been too slow to say it in one of the looks.
    last = next(each for each in reversed(seen) if each["pg2"]["lag_seconds"] and _counted(each))
    assert {name: node["sessions"] for name, node in last.items()} == {"pg1": 0, "pg2": 1, "pg3": 0}
    assert {name: node["in_flight"] for name, node in last.items()} == dict.fromkeys(last, 0)
    assert all(0 < node["round_trip"] < 60 for node in last.values())
    assert all(node["breaker"] in ("closed", "half_open", "open") for node in last.values())
    assert last["pg1"]["lag_seconds"] is None


def _counted(nodes: dict[str, dict[str, object]]) -> bool:
    return all(node["sessions"] is not None for node in nodes.values())


def test_status_watches_a_replica_that_is_down(servers: Servers) -> None:
    servers.stop("pg3")
    try:
        done = pgroute(servers, "status", "--watch", "0.1", "--count", "2")
    finally:
        servers.start("pg3")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("pg3")]
    assert [line[1] for line in lines] == ["unknown", "unknown"]
    assert "\x1b" not in done.stdout  # it goes to no terminal


def test_status_watches_until_it_is_known_that_there_is_no_primary(servers: Servers) -> None:
    nodes = f"pg2=127.0.0.1:{port('pg2')}"
    done = pgroute(servers, "status", "--watch", "0.1", "--count", "1", PGROUTE_NODES=nodes)
    assert done.returncode == 1
    assert done.stderr.startswith("pgroute: no writable server: pg2 is a replica")


def test_status_is_refreshed_in_place_on_a_terminal(servers: Servers) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-m", "pgroute", "status", "--watch", "0.1", "--count", "1"],
            env=environment(servers),
            stdout=theirs,
            timeout=300,
        )
        os.close(theirs)
        shown = terminal.read(65536).decode()
    assert done.returncode == 0
    assert shown.startswith("\x1b[HCluster ")
    assert shown.rstrip().endswith("\x1b[J")


def test_an_interrupt_ends_the_watch_well(servers: Servers) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pgroute", "status", "--watch", "60", "--json"],
        env=environment(servers),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in a shell's background, an interrupt is ignored, by children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["primary"] == "pg1"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")


# doctor


def well(servers: Servers, *options: str) -> subprocess.CompletedProcess[str]:
    """What the doctor says of the healthy fleet; replicas may be behind for a moment."""
    for node in ("pg2", "pg3"):  # reads that other tests had cancelled are no warning here
        servers.sql(node, "select pg_stat_reset()", database="app")
    until = time.monotonic() + 120
    while True:
        done = pgroute(servers, "doctor", *options)
        if done.returncode == 0:
            return done
        assert time.monotonic() < until, done.stdout


def test_doctor_finds_a_healthy_fleet_well(servers: Servers) -> None:
    done = well(servers)
    assert "writes go to pg1; replicas: pg2, pg3" in done.stdout
    assert "on 3 nodes: 0 problems" in done.stdout.splitlines()[-1]


def test_doctor_fails_on_warnings_when_told_to(servers: Servers) -> None:
    well(servers, "--strict")
    servers.sql("pg1", "alter role app_ro set statement_timeout = '5s'")
    try:
        well(servers)
        done = pgroute(servers, "doctor", "--strict")
    finally:
        servers.sql("pg1", "alter role app_ro reset statement_timeout")
    assert done.returncode == 1
    assert "0 problems, 1 warning" in done.stdout


def test_doctor_says_what_to_do_and_fails(servers: Servers) -> None:
    well(servers)
    done = pgroute(servers, "doctor", "--processes", "9", "--table", "nowhere")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    advice = done.stdout.partition("What to do:\n")[2]
    assert "the table nowhere does not exist" in advice
    assert "pg1 pg2 pg3: max_connections leaves 97 connections, full pools want 189" in advice


def test_doctor_tells_it_as_json(servers: Servers, tmp_path: Path) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text("*:*:app:app_rw:wrong\n*:*:app:app_ro:ro-for-tests\n")
    done = pgroute(servers, "doctor", "--json", PGROUTE_PASSFILE=str(passfile))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["well"] is False
    refused = [found for found in told["findings"] if found["verdict"] == "problem"]
    assert {(found["check"], found["node"]) for found in refused} >= {
        ("login", "pg1"),
        ("login", "pg2"),
        ("login", "pg3"),
    }
    assert all(found["advice"] for found in refused)


def test_doctor_without_any_server(servers: Servers) -> None:
    done = pgroute(servers, "doctor", PGROUTE_NODES="a=127.0.0.1:1,b=127.0.0.1:2")
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "4 checks on 2 nodes: 3 problems, 0 warnings"


def test_doctor_with_an_open_passfile_is_wrong_configuration(
    servers: Servers, tmp_path: Path
) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o644)
    done = pgroute(servers, "doctor", PGROUTE_PASSFILE=str(passfile))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"pgroute: the passfile {passfile} can be read by others: chmod 0600 it\n"
    )


# partitions, explain, bench


def test_partitions_of_all_tables_and_of_one(servers: Servers) -> None:
    everything = pgroute(servers, "partitions")
    assert everything.returncode == 0, everything.stderr
    assert "tbl_users, by hash of id uuid" in everything.stdout
    assert "sales, by range of order_date date" in everything.stdout
    one = pgroute(servers, "partitions", "tbl_users", "--exact")
    assert one.returncode == 0, one.stderr
    assert "the server agrees on the leaf of 32 made-up keys" in one.stdout
    assert "sales" not in one.stdout


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("nowhere", 'relation "nowhere" does not exist'),
        ("sales_2023", "is not a partitioned table"),
    ],
)
def test_partitions_of_what_has_none(servers: Servers, table: str, words: str) -> None:
    done = pgroute(servers, "partitions", table)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_explain_says_where_and_what(servers: Servers) -> None:
    done = pgroute(servers, "explain", "select * from sales where order_date = date '2024-05-05'")
    assert done.returncode == 0, done.stderr
    assert "replica" in done.stdout.splitlines()[0]
    assert "sales_2024" in done.stdout


def test_explain_takes_the_values_of_parameters(servers: Servers) -> None:
    sql = "select * from sales where order_date = %s and order_amount > %s"
    done = pgroute(servers, "explain", sql, "--param", "2024-05-05", "--param", "5")
    assert done.returncode == 0, done.stderr
    assert "sales_2024" in done.stdout
    assert "sales_2023" in done.stdout.partition("pruned")[2]


def test_bench_tells_the_ratio_of_each_round(servers: Servers) -> None:
    done = pgroute(servers, "bench", "--rounds", "3", "--calls", "20")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["round   1", "round   2", "round   3"]
    ratios = {line.split()[0]: float(line.split()[3]) for line in lines[-3:]}
    assert set(ratios) == {"p10", "median", "minimum"}
    assert all(0.1 < ratio < 100 for ratio in ratios.values())


def test_bench_runs_nothing_that_may_write(servers: Servers) -> None:
    done = pgroute(servers, "bench", "--sql", "delete from sales")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("pgroute: --sql is not known to only read: DELETE is no query\n")


def test_bench_without_a_server(servers: Servers) -> None:
    done = pgroute(servers, "bench", PGROUTE_NODES="a=127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("pgroute: ")
    assert "Traceback" not in done.stderr
