"""Looks up a host and connects to each of its addresses."""

from __future__ import annotations

import socket
import time

from pgroute.config import Node
from pgroute.doctor.facts import Address, Reach

_FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


def reach(node: Node, limit: float) -> Reach:
    """The node's addresses, each tried for at most ``limit`` seconds."""
    if node.host.startswith("/"):
        path = f"{node.host}/.s.PGSQL.{node.port}"
        return Reach((_tried("socket", path, socket.AF_UNIX, path, limit),))
    try:
        found = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Reach(failure=_words(error))
    return Reach(
        tuple(
            _tried(_FAMILIES.get(family, str(family)), str(where[0]), family, where, limit)
            for family, _, _, _, where in found
        )
    )


def _tried(family: str, address: str, kind: int, where: object, limit: float) -> Address:
    started = time.monotonic()
    try:
        with socket.socket(kind, socket.SOCK_STREAM) as tried:
            tried.settimeout(limit)
            tried.connect(where)  # type: ignore[arg-type]
    except TimeoutError:
        return Address(family, address, failure=f"no answer within {limit:g} s")
    except OSError as error:
        return Address(family, address, failure=_words(error))
    return Address(family, address, time.monotonic() - started)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
