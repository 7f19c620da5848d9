"""Every fault in turn, pgroute and hasql under the same load on the same servers at once.

python -m benchmarks.chaos [--seconds 5] [--promotions 6] [--clients pgroute,hasql] [--output DIR]

Exit 1 when pgroute broke a promise of ``budgets.py``; what hasql does is only counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter

from benchmarks.budgets import broken_promises, complaint
from benchmarks.child import APP, environment
from benchmarks.faults import Faults, Shell, Step, play, promotions, scenario
from benchmarks.fleet import breakable, reached_directly
from benchmarks.machine import describe_machine
from pgroute import Settings, new_key
from pgroute.chaos.report import Line, Report, judge
from pgroute.chaos.tally import Promise, Record
from pgroute.chaos.witness import Witness
from pgroute.text import table
from tests.servers import Servers

CLIENTS = ("pgroute", "hasql")
_WITNESS_SECONDS = 0.005


@dataclass(frozen=True)
class Child:
    """A running client."""

    name: str
    run: UUID
    process: subprocess.Popen[str]
    output: Path

    def record(self) -> Record:
        """Stop it; what it noted."""
        self.process.communicate("", timeout=120)
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
        return TypeAdapter(Record).validate_json(self.output.read_bytes())


def run_faults(
    servers: Servers,
    steps: Sequence[Step],
    *,
    clients: Sequence[str] = CLIENTS,
    settle: float = 2.0,
    say: Callable[[str], None] = print,
) -> dict[str, Report]:
    """A report per client. The servers are left as the last step left them."""
    settings = reached_directly(servers)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        faults = Faults(servers, stack.enter_context(Shell(servers.container)))
        witness = Witness(settings, interval=_WITNESS_SECONDS)
        witness.start()
        stack.callback(witness.stop)
        children = [stack.enter_context(_started(name, settings, folder)) for name in clients]
        windows = play(faults, steps, say, settle=settle)
        records = {child.name: child.record() for child in children}
        return {
            child.name: judge(
                records[child.name],
                windows,
                witness.promotions,
                _present(faults, child.run),
            )
            for child in children
        }


@contextmanager
def _started(name: str, settings: Settings, folder: Path) -> Iterator[Child]:
    run, output = UUID(str(new_key())), folder / f"{name}.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.chaos_client", name, str(run), str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=APP,
        env=environment(settings),
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{name} did not start")
        yield Child(name, run, process, output)
    finally:
        process.kill()
        process.wait()


def _present(faults: Faults, run: UUID) -> set[tuple[int, int]]:
    rows = faults.servers.sql(
        faults.primary,
        f"select worker, sequence from pgroute_chaos where run = '{run}'",
        database="app",
    )
    return {(int(w), int(s)) for w, _, s in (row.partition("|") for row in rows.splitlines())}


# What is shown

_COLUMNS: dict[str, Callable[[Line], object]] = {
    "writes": lambda line: line.writes,
    "failed": lambda line: line.failed_writes,
    "wrong node": lambda line: line.wrong_node,
    "late": lambda line: line.dead_branch,
    "lost": lambda line: line.lost,
    "reads": lambda line: line.reads,
    "failed ": lambda line: line.failed_reads,
    "refused": lambda line: line.refused_reads,
    "stale: after": lambda line: line.stale[Promise.AFTER],
    "monotonic": lambda line: line.stale[Promise.MONOTONIC],
    "max lag": lambda line: line.stale[Promise.MAX_LAG],
    "last failed read s": lambda line: line.last_failed_read,
    "slowest read s": lambda line: line.slowest_read,
    "first write s": lambda line: line.first_write,
}


def as_table(reports: Mapping[str, Report]) -> str:
    """All windows, the clients one under the other in each."""
    rows: list[tuple[object, ...]] = []
    names = list(reports)
    for lines in zip(*([*r.lines, r.total] for r in reports.values()), strict=True):
        for name, line in zip(names, lines, strict=True):
            label = line.window if name == names[0] else ""
            rows.append((label, name, *(column(line) for column in _COLUMNS.values())))
    return table(("window", "client", *_COLUMNS), rows, indent=0)


def _verdicts(reports: Mapping[str, Report], *, every_fault: bool) -> list[str]:
    """A sentence per client, all measured alike: what only ours are asked for ends the command."""
    broken = {n: broken_promises(r, every_fault=every_fault) for n, r in reports.items()}
    return [f"{name}: {'; '.join(each) or 'every promise held'}" for name, each in broken.items()]


def main() -> None:
    """Run everything, print the table, write the JSON; exit 1 when pgroute broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="each fault lasts this long")
    parser.add_argument(
        "--clients", default=",".join(CLIENTS), help="of pgroute, pgroute-async, hasql"
    )
    parser.add_argument("--promotions", type=int, help="so many of them, and no other fault")
    parser.add_argument(
        "--output", type=Path, help="folder for chaos.txt and .json, or with -asyncio"
    )
    arguments = parser.parse_args()
    clients = arguments.clients.split(",")
    times, seconds = arguments.promotions, arguments.seconds
    steps = scenario(seconds) if times is None else promotions(times, seconds)
    with breakable() as servers:
        reports = run_faults(servers, steps, clients=clients)
    text = "\n\n".join([as_table(reports), *_verdicts(reports, every_fault=times is None)])
    print(f"\n{text}")
    if arguments.output is not None:
        machine = describe_machine()
        result = {
            "machine": machine,
            "seconds": arguments.seconds,
            "clients": {name: asdict(report) for name, report in reports.items()},
        }
        shown = "\n".join(f"{name}: {value}" for name, value in machine.items())
        arguments.output.mkdir(parents=True, exist_ok=True)
        name = "chaos" if times is None else "promotions"
        if clients[0].endswith("-async"):
            name += "-asyncio"
        (arguments.output / f"{name}.txt").write_text(f"{shown}\n\n{text}\n")
        (arguments.output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if broken := complaint(reports, every_fault=times is None):
        sys.exit(f"a promise is broken: {broken}")


if __name__ == "__main__":
    main()
