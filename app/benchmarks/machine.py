"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "psycopg",
    "psycopg-binary",
    "psycopg-pool",
    "hasql",
    "asyncpg",
    "sqlalchemy",
    "prometheus-client",
)


def take_a_core() -> list[int]:
    """Keep this process on one of its processor's cores; the others, for the servers. None are left
    where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(0, {first})
    return others


def describe_machine() -> dict[str, str | int | float]:
    """Processor, cores, load, Python and the packages' versions."""
    found: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "cores_of_this_process": len(os.sched_getaffinity(0)),
        "load_1_minute": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
