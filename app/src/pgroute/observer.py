"""What the router tells to whoever counts: implemented by metrics, silent by default."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from pgroute.topology import Role


class Reason(StrEnum):
    """Why a connection came from the server it came from."""

    WRITE = "write"
    READ = "read"
    AFTER_TOKEN = "after_token"  # noqa: S105 - a label, not a secret
    NAMED = "named"  # the caller named the node
    NO_HEALTHY_REPLICA = "no_healthy_replica"
    TOKEN_NOT_REACHED = "token_not_reached"  # noqa: S105 - a label, not a secret


class Fault(StrEnum):
    """What went wrong on a server."""

    NO_CONNECTION = "no_connection"
    CONNECTION_LOST = "connection_lost"
    READ_ONLY = "read_only"
    OVERDUE = "overdue"


class Observer(Protocol):
    """Called on the fast path: must be quick and must not raise."""

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        """A connection to ``node`` was handed out."""

    def failed(self, node: str, fault: Fault) -> None:
        """Something went wrong on ``node``."""


class Silent:
    """Counts nothing."""

    def routed(self, node: str, role: Role, reason: Reason) -> None:
        return

    def failed(self, node: str, fault: Fault) -> None:
        return
