"""pgroute routes reads and writes over a PostgreSQL primary and its replicas."""

from pgroute.config import Node, Settings
from pgroute.errors import (
    ConfigurationError,
    ForeignToken,
    MalformedToken,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    PgrouteError,
    RouterClosed,
    RoutingError,
    SplitBrain,
    TokenError,
    TokenNotReached,
)
from pgroute.keys import created_at, new_key
from pgroute.lsn import Token
from pgroute.observer import Fault, Observer, Reason
from pgroute.policies import Policy, RandomOrder, RoundRobin
from pgroute.pool import NodeConnection
from pgroute.router import Router
from pgroute.topology import NodeState, Role, Topology

__all__ = [
    "ConfigurationError",
    "Fault",
    "ForeignToken",
    "MalformedToken",
    "NoPrimary",
    "NoReadableNode",
    "Node",
    "NodeConnection",
    "NodeState",
    "NodeUnavailable",
    "Observer",
    "PgrouteError",
    "Policy",
    "RandomOrder",
    "Reason",
    "Role",
    "RoundRobin",
    "Router",
    "RouterClosed",
    "RoutingError",
    "Settings",
    "SplitBrain",
    "Token",
    "TokenError",
    "TokenNotReached",
    "Topology",
    "created_at",
    "new_key",
]
