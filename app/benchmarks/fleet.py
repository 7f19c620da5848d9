"""The servers that the benchmarks measure and break."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgroute import Settings
from tests.servers import NAMES, Servers, port, running, why_not

_TABLE = """
set role app_owner;
create table pgroute_chaos (run uuid, worker int, sequence bigint,
                            primary key (run, worker, sequence));
"""


@contextmanager
def on_loopback(*, durable: bool = False) -> Iterator[Servers]:
    """Servers in this machine's own network: nothing lies between a client and a server.

    ``durable``: a commit waits for this machine's disk.
    """
    with _started(("--network=host",), listen="127.0.0.1", durable=durable) as servers:
        yield servers


def keep_to(servers: Servers, cores: Sequence[int]) -> None:
    """Run the servers on these cores; no cores: wherever they like."""
    if cores:
        among = f"--cpuset-cpus={','.join(map(str, cores))}"
        update = ["docker", "update", among, servers.container]
        subprocess.run(update, check=True, capture_output=True)


@contextmanager
def breakable() -> Iterator[Servers]:
    """Servers in a network of their own, which faults may cut, with the chaos table."""
    with _started(("--cap-add=NET_ADMIN",), listen="*") as servers:
        create_chaos_table(servers)
        yield servers


@contextmanager
def _started(options: Sequence[str], *, listen: str, durable: bool = False) -> Iterator[Servers]:
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    with (
        tempfile.TemporaryDirectory() as secrets,
        running(Path(secrets), options=options, listen=listen, durable=durable) as servers,
    ):
        yield servers


def create_chaos_table(servers: Servers) -> None:
    """Make the table of the chaos workload on the primary."""
    servers.sql("pg1", _TABLE, database="app")


def reached_directly(servers: Servers, **options: object) -> Settings:
    """Settings with the container's own address: a cut is then a cut, not a silent proxy."""
    shown = subprocess.run(
        ["docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", servers.container],
        check=True,
        capture_output=True,
        text=True,
    )
    address = shown.stdout.strip()
    nodes = ",".join(f"{name}={address}:{port(name)}" for name in NAMES)
    return servers.settings(nodes=nodes, **options)
