"""Bulk load: per leaf and connection, against one COPY into the parent and executemany.

    python -m benchmarks.bulk_load [--rows 200000] [--rounds 7] [--indexes 0] [--output FOLDER]

All paths take turns in each round, on the same rows into the same emptied table of four hash
leaves with a primary key (UUIDv7, name). Wall time is quoted as the ratio of rates to one COPY
into the parent in the same round, the median over the rounds: above 1 is faster. The processor
time of client and server, per row, does not suffer from what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from random import Random
from statistics import median
from typing import Any

from benchmarks.fleet import on_loopback
from benchmarks.machine import describe_machine
from pgroute import Router
from pgroute.partitions import Partitions, load
from pgroute.people import people
from pgroute.text import table
from tests.servers import Servers

TABLE, COLUMNS = "tbl_users", ("id", "first_name")
BASELINE = "one COPY into the parent"
_MANY = 20_000  # rows for executemany, which would take the whole time otherwise
_MINUTES = 3600.0
_TICKS = 100  # per second, in /proc
_USED = (
    "for p in $(pgrep -f 'postgres: app_rw'); do "
    "cut -d' ' -f14,15 /proc/$p/stat 2>/dev/null || true; done"
)

Rows = Sequence[tuple[Any, ...]]
Path = Callable[[Router, Rows], None]


@dataclass(frozen=True)
class Run:
    """One path in one round, in microseconds per row."""

    wall: float
    client: float
    server: float


def one_copy(router: Router, rows: Rows) -> None:
    """What a careful program writes by hand."""
    with (
        router.write(timeout=_MINUTES) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"copy {TABLE} (id, first_name) from stdin (format binary)") as copy,
    ):
        copy.set_types(["uuid", "varchar"])
        for row in rows:
            copy.write_row(row)


def executemany(router: Router, rows: Rows) -> None:
    """What most programs write."""
    with router.write(timeout=_MINUTES) as connection, connection.cursor() as cursor:
        cursor.executemany(f"insert into {TABLE} (id, first_name) values (%s, %s)", rows)


def paths(partitions: Partitions) -> dict[str, Path]:
    """Every path by its name; the baseline first."""

    def loading(**options: Any) -> Path:
        def run(router: Router, rows: Rows) -> None:
            load(router, TABLE, COLUMNS, rows, partitions=partitions, **options)

        return run

    return {
        BASELINE: one_copy,
        "pgroute, 1 connection, through the parent": loading(),
        "pgroute, 1 connection, by leaf": loading(by_leaf=True),
        "pgroute, 2 connections, by leaf": loading(connections=2),
        "pgroute, 4 connections, by leaf": loading(connections=4),
        "executemany": executemany,
    }


def measure(servers: Servers, router: Router, path: Path, rows: Rows) -> Run:
    """Run one path into the emptied table."""
    servers.sql("pg1", f"truncate {TABLE}; checkpoint", database="app")
    server = _server_seconds(servers)
    client, wall = time.process_time(), time.perf_counter()
    path(router, rows)
    wall, client = time.perf_counter() - wall, time.process_time() - client
    server = _server_seconds(servers) - server
    found = int(servers.sql("pg1", f"select count(*) from {TABLE}", database="app"))
    if found != len(rows):
        raise SystemExit(f"{found} rows of {len(rows)} are in the table")
    return Run(*(1e6 * seconds / len(rows) for seconds in (wall, client, server)))


def _server_seconds(servers: Servers) -> float:
    """Processor time of the role's connections so far; the pool keeps them open."""
    used = servers.run(_USED).split()
    return sum(map(int, used)) / _TICKS


def summary(runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, float, float, float, float]]:
    """Per path: ratio of rates, and medians of wall, client and server microseconds per row."""
    base = runs[BASELINE]
    return [
        (
            name,
            median(b.wall / run.wall for b, run in zip(base, found, strict=True)),
            median(run.wall for run in found),
            median(run.client for run in found),
            median(run.server for run in found),
        )
        for name, found in runs.items()
    ]


def take_turns(rows: Rows, *, rounds: int, indexes: int) -> dict[str, list[Run]]:
    """All paths in turn, on servers of their own; a round that is not counted warms up."""
    with on_loopback() as servers, Router(servers.settings(pool_min_size=4)) as router:
        for _ in range(indexes):
            servers.sql("pg1", f"create index on {TABLE} (first_name)", database="app")
        with router.write() as connection:
            all_paths = paths(Partitions.read(connection, TABLE))
        runs: dict[str, list[Run]] = {name: [] for name in all_paths}
        for at in range(rounds + 1):
            for name, path in all_paths.items():
                some = rows[:_MANY] if name == "executemany" else rows
                run = measure(servers, router, path, some)
                if at:
                    runs[name].append(run)
    return runs


def main() -> None:
    """Measure, print the table, write it and the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--indexes", type=int, default=0, help="beside the primary key")
    parser.add_argument("--output", type=FilePath, help="folder for bulk_load.txt and .json")
    options = parser.parse_args()
    before = describe_machine()
    asked = {"rows": options.rows, "rounds": options.rounds, "indexes": options.indexes}
    rows = list(people(options.rows, Random(1)))
    runs = take_turns(rows, rounds=options.rounds, indexes=options.indexes)
    machine = before | {"load_1_minute_after": describe_machine()["load_1_minute"]}
    header = ("path", "rate, ratio", "µs per row", "client µs", "server µs")
    text = "\n\n".join(
        [
            f"{options.rounds} rounds of {options.rows:,} rows per path (at most {_MANY:,} with "
            f"executemany) into four leaves with {options.indexes} indexes beside the primary key.",
            "\n".join(f"{name}: {value}" for name, value in machine.items()),
            table(header, summary(runs), indent=0),
        ]
    )
    print(text)
    if options.output is not None:
        raw = {name: [asdict(run) for run in found] for name, found in runs.items()}
        _write(options.output, options.indexes, text, {"machine": machine, **asked, "runs": raw})


def _write(folder: FilePath, indexes: int, text: str, result: Mapping[str, Any]) -> None:
    """A run with more indexes beside the one without, not over it."""
    name = f"bulk_load-{indexes}-indexes" if indexes else "bulk_load"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text + "\n")
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
