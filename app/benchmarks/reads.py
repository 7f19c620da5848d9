"""What a routed read costs beside a raw connection and beside others. One command:

python -m benchmarks.reads [--rounds 100] [--calls 200] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Any
from uuid import UUID

from benchmarks.budgets import Budget, budget_table, read_budgets, write_budgets
from benchmarks.figures import FIGURES, PathFigures, Round, compare
from benchmarks.fleet import keep_to, on_loopback
from benchmarks.machine import describe_machine, take_a_core
from benchmarks.memory import Memory, measure_memory
from benchmarks.paths import (
    NAME,
    RAW,
    RAW_ASYNC,
    RAW_IN_TURN,
    Path,
    async_reads,
    async_writes,
    run,
    sync_reads,
    writes,
)
from benchmarks.plot import bars
from benchmarks.proxies import Proxy, start_proxies
from pgroute import Router, Settings, new_key
from pgroute.text import table
from tests.servers import eventually, whole

_WARM_UP = 20  # calls before the timed ones, each round


def measure_reads(
    settings: Settings, proxies: Sequence[Proxy], *, rounds: int, calls: int
) -> list[PathFigures]:
    """Figures of every way to read."""
    key = _one_row(settings)
    loop = asyncio.new_event_loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        async_stack = AsyncExitStack()
        stack.callback(lambda: run(loop, async_stack.aclose()))
        paths = sync_reads(settings, proxies, stack)
        paths += run(loop, async_reads(settings, async_stack))
        for path in paths:
            found = _call(path, key, loop)
            assert tuple(found) == (NAME,), f"{path.name} found {found}"
        return _compare(paths, lambda: [key] * calls, loop, rounds)


def measure_writes(settings: Settings, *, rounds: int, calls: int) -> list[PathFigures]:
    """Figures of every way to write."""
    loop = asyncio.new_event_loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        async_stack = AsyncExitStack()
        stack.callback(lambda: run(loop, async_stack.aclose()))
        paths = writes(settings, stack) + run(loop, async_writes(settings, async_stack))
        return _compare(paths, lambda: [UUID(str(new_key())) for _ in range(calls)], loop, rounds)


def _one_row(settings: Settings) -> UUID:
    """The key of a row that every server has."""
    key = UUID(str(new_key()))
    with Router(settings) as router:
        eventually(lambda: whole(router), what="a primary and two healthy replicas")
        with router.write() as connection:
            connection.execute("insert into tbl_users values (%s, %s)", (key, NAME))
        token = router.token()
        for replica in router.topology.replicas:
            with router.read(node=replica, after=token, token_timeout=10):
                pass
    return key


def _compare(
    paths: Sequence[Path],
    keys: Callable[[], list[UUID]],
    loop: asyncio.AbstractEventLoop,
    rounds: int,
) -> list[PathFigures]:
    """Interleaved: every round calls every path, in an order of its own."""
    shuffle = random.Random(1).sample
    done: list[Round] = []
    gc.disable()  # a collection in the middle would be charged to whoever is running
    try:
        for _ in range(rounds):
            gc.collect()
            order = shuffle(list(paths), len(paths))
            done.append({path.name: _time(path, keys(), keys()[:_WARM_UP], loop) for path in order})
    finally:
        gc.enable()
    return compare(done, {path.name: path.baseline for path in paths})


def _call(path: Path, key: UUID, loop: asyncio.AbstractEventLoop) -> Any:
    return run(loop, path.call(key)) if path.is_async else path.call(key)


def _time(
    path: Path, keys: Sequence[UUID], warm_up: Sequence[UUID], loop: asyncio.AbstractEventLoop
) -> list[float]:
    """Seconds of each call."""
    if path.is_async:
        return list(loop.run_until_complete(_time_async(path, keys, warm_up)))
    call, clock = path.call, time.perf_counter
    for key in warm_up:
        call(key)
    times = []
    for key in keys:
        began = clock()
        call(key)
        times.append(clock() - began)
    return times


async def _time_async(path: Path, keys: Sequence[UUID], warm_up: Sequence[UUID]) -> list[float]:
    call, clock = path.call, time.perf_counter
    for key in warm_up:
        await call(key)
    times = []
    for key in keys:
        began = clock()
        await call(key)
        times.append(clock() - began)
    return times


def as_table(figures: Sequence[PathFigures]) -> str:
    """Ratios, and the median in microseconds."""
    return table(
        ("path", *FIGURES, "median in us", "of"),
        [
            (
                f.name,
                f.p10.ratio,
                f.median.ratio,
                f.minimum.ratio,
                f.median.microseconds,
                f.baseline,
            )
            for f in figures
        ],
        indent=0,
    )


def _shown(figures: Sequence[PathFigures], baseline: str) -> list[tuple[str, float]]:
    """What the plot shows of the paths that are compared with ``baseline``."""
    return [
        (figure.name.removesuffix(", async"), figure.p10.ratio)
        for figure in figures
        if figure.baseline == baseline and figure.name != RAW_IN_TURN
    ]


def memory_table(memory: Memory) -> str:
    """Resident memory in KiB."""
    rows = [(name.replace("_", " "), value) for name, value in asdict(memory).items()]
    return table(("memory", "KiB"), rows, indent=0)


def all_budgets(
    reads: Sequence[PathFigures], writing: Sequence[PathFigures], durable: Sequence[PathFigures]
) -> list[Budget]:
    """Every limit of the issue beside what was measured."""
    return [
        *read_budgets(reads),
        *write_budgets(writing, "fsync off"),
        *write_budgets(durable, "on the disk"),
    ]


def main() -> None:
    """Measure, print, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--calls", type=int, default=200, help="timed calls per path and round")
    parser.add_argument("--output", type=FilePath, help="folder for reads.txt, .json and .svg")
    arguments = parser.parse_args()
    cores = take_a_core()
    machine = describe_machine()
    limits = {"rounds": arguments.rounds, "calls": arguments.calls}
    with on_loopback() as servers:
        settings = servers.settings()
        proxies = start_proxies(servers)
        keep_to(servers, cores[:1])  # one process works at a time: always on the same core
        reads = measure_reads(settings, proxies, **limits)
        keep_to(servers, cores)  # three servers do
        writing = measure_writes(settings, **limits)
        memory = measure_memory(servers.settings(pool_max_size=60))
    with on_loopback(durable=True) as servers:
        keep_to(servers, cores)
        durable = measure_writes(servers.settings(), **limits)
    machine["load_1_minute_after"] = describe_machine()["load_1_minute"]
    budgets = all_budgets(reads, writing, durable)
    text = "\n\n".join(
        [
            f"{arguments.rounds} rounds of {arguments.calls} calls per path, interleaved; "
            "ratios to the baseline of the same round, median over the rounds.",
            "\n".join(f"{name}: {value}" for name, value in machine.items()),
            as_table(reads),
            "Writes whose commit waits for nothing (fsync off):\n" + as_table(writing),
            "Writes whose commit waits for this machine's disk:\n" + as_table(durable),
            memory_table(memory),
            budget_table(budgets),
        ]
    )
    print(text)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "reads.txt").write_text(text + "\n")
        result = {
            "machine": machine,
            **limits,
            "reads": [asdict(each) for each in reads],
            "writes": [asdict(each) for each in writing],
            "durable_writes": [asdict(each) for each in durable],
            "memory_kib": asdict(memory),
            "budgets": [asdict(each) | {"holds": each.holds} for each in budgets],
        }
        (arguments.output / "reads.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.output / "reads.svg").write_text(
            bars(
                "One read by primary key: time relative to a raw connection (p10)",
                [
                    ("threads", _shown(reads, RAW)),
                    (
                        "asyncio",
                        _shown(reads, RAW_ASYNC),
                    ),
                ],
                highlight="pgroute",
            )
        )


if __name__ == "__main__":
    main()
