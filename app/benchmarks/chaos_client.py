"""One client under the chaos workload, in a process of its own: started by ``benchmarks.chaos``.

Reads its settings from ``PGROUTE_*``, says "ready", works until its input ends, and then writes
what it noted as JSON to the file it was given.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter

from pgroute import Router, Settings
from pgroute.chaos.client import Client
from pgroute.chaos.router_client import RouterClient
from pgroute.chaos.tally import Record, Tally
from pgroute.chaos.workload import Workload

TIMEOUT_SECONDS = 0.8
MAX_LAG_SECONDS = 0.5
_LIMIT = "500ms"


def main() -> None:
    """Work until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=("pgroute", "pgroute-async", "hasql"))
    parser.add_argument("run", type=UUID)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    tally = Tally()
    with ExitStack() as stack:
        client = _client(arguments.client, settings, arguments.run, stack)
        workload = Workload(client, tally, max_lag_seconds=MAX_LAG_SECONDS)
        workload.start()
        print("ready", flush=True)
        sys.stdin.read()
        if not workload.stop():
            sys.exit("a thread of the workload hangs")
        arguments.output.write_bytes(TypeAdapter(Record).dump_json(tally.record()))


def _client(name: str, settings: Settings, run: UUID, stack: ExitStack) -> Client:
    if name == "pgroute":
        router = stack.enter_context(Router(settings))
        return RouterClient(router, run, timeout=TIMEOUT_SECONDS, max_lag=_LIMIT)
    from benchmarks.peers import AsyncRouterClient, HasqlClient  # needs what a benchmark needs

    if name == "pgroute-async":
        return stack.enter_context(
            AsyncRouterClient(settings, run, timeout=TIMEOUT_SECONDS, max_lag=_LIMIT)
        )
    lag = timedelta(seconds=MAX_LAG_SECONDS)
    return stack.enter_context(HasqlClient(settings, run, timeout=TIMEOUT_SECONDS, max_lag=lag))


if __name__ == "__main__":
    main()
