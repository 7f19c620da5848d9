"""pgroute routes reads and writes over a PostgreSQL primary and its replicas."""

from pgroute.async_router import AsyncRouter
from pgroute.config import Node, Settings
from pgroute.core.contracts import EVENTUAL, STRONG, Contract
from pgroute.core.lsn import Token
from pgroute.core.policies import (
    LeastInFlight,
    NodeStats,
    Policy,
    PowerOfTwo,
    RandomOrder,
    RoundRobin,
    Weighted,
)
from pgroute.core.topology import NodeState, Role, Topology
from pgroute.errors import (
    CommitUnknown,
    ConfigurationError,
    ContractNotMet,
    DeadlineExceeded,
    ForeignToken,
    LoadFailed,
    MalformedToken,
    NodeUnavailable,
    NoLeaf,
    NoPrimary,
    NoReadableNode,
    NotExplained,
    NotPartitioned,
    PartitionError,
    PartitionMismatch,
    PgrouteError,
    RouterClosed,
    RoutingError,
    SplitBrain,
    TokenError,
    TokenNotReached,
    TokenUnproven,
    UncomputableKey,
    UnknownContract,
)
from pgroute.explain import Explanation
from pgroute.keys import created_at, new_key
from pgroute.observing.observer import Fault, Observer, Reason, together
from pgroute.partitions import Partitions
from pgroute.results import NoSuchRow, Result
from pgroute.router import Router
from pgroute.routing.connections import AsyncNodeConnection, NodeConnection
from pgroute.session import AsyncSession, Session
from pgroute.statements import Statements

__all__ = [
    "EVENTUAL",
    "STRONG",
    "AsyncNodeConnection",
    "AsyncRouter",
    "AsyncSession",
    "CommitUnknown",
    "ConfigurationError",
    "Contract",
    "ContractNotMet",
    "DeadlineExceeded",
    "Explanation",
    "Fault",
    "ForeignToken",
    "LeastInFlight",
    "LoadFailed",
    "MalformedToken",
    "NoLeaf",
    "NoPrimary",
    "NoReadableNode",
    "NoSuchRow",
    "Node",
    "NodeConnection",
    "NodeState",
    "NodeStats",
    "NodeUnavailable",
    "NotExplained",
    "NotPartitioned",
    "Observer",
    "PartitionError",
    "PartitionMismatch",
    "Partitions",
    "PgrouteError",
    "Policy",
    "PowerOfTwo",
    "RandomOrder",
    "Reason",
    "Result",
    "Role",
    "RoundRobin",
    "Router",
    "RouterClosed",
    "RoutingError",
    "Session",
    "Settings",
    "SplitBrain",
    "Statements",
    "Token",
    "TokenError",
    "TokenNotReached",
    "TokenUnproven",
    "Topology",
    "UncomputableKey",
    "UnknownContract",
    "Weighted",
    "created_at",
    "new_key",
    "together",
]
