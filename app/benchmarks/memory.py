"""Resident memory of a router and of its connections.

Each state is measured in a fresh interpreter: the private memory (``smaps_rollup``) after the
state is reached and garbage is collected. The difference between two states is the cost of what
lies between them; the median of several interpreters is quoted.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg
import psycopg_pool  # noqa: F401 - part of what "imported" means

from benchmarks.child import environment
from pgroute import Router, Settings
from tests.servers import eventually

_CONNECTIONS = 40
_STATES = ("imported", "open", "connected", "raw")


@dataclass(frozen=True)
class Memory:
    """KiB."""

    idle_router: float
    connection_of_a_router: float
    raw_connection: float


def measure_memory(settings: Settings, *, repeats: int = 5) -> Memory:
    """The memory of an open router without connections in its pools, and of each connection."""
    used = {state: median(_in_child(settings, state) for _ in range(repeats)) for state in _STATES}
    return Memory(
        idle_router=used["open"] - used["imported"],
        connection_of_a_router=(used["connected"] - used["open"]) / _CONNECTIONS,
        raw_connection=(used["raw"] - used["imported"]) / _CONNECTIONS,
    )


def _in_child(settings: Settings, state: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", state],
        check=True,
        capture_output=True,
        text=True,
        env=environment(settings),
    )
    return int(done.stdout)


def private_kib() -> int:
    """This process's private memory in KiB."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(
        int(line.split()[1])
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def main() -> None:
    """Reach one state and print the memory."""
    state = sys.argv[1]
    settings = Settings.from_environment()
    with ExitStack() as stack:
        if state in ("open", "connected"):
            router = stack.enter_context(Router(settings))
            eventually(lambda: router.topology.primary is not None, what="a primary")
        if state == "connected":
            held = [stack.enter_context(router.read(node="pg2")) for _ in range(_CONNECTIONS)]
            assert len({id(connection) for connection in held}) == _CONNECTIONS
        if state == "raw":
            node = settings.members[1]
            parameters = settings.connection(node, user=settings.reader, read_only=True)
            for _ in range(_CONNECTIONS):
                stack.enter_context(psycopg.connect(**parameters, autocommit=True))
        print(private_kib(), flush=True)
        os._exit(0)  # what closing costs is not asked


if __name__ == "__main__":
    main()
