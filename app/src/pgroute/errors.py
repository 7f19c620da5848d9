"""What can go wrong, as a tree.

    PgrouteError
    ├── ConfigurationError      the environment, DSN or passfile cannot be used as it is
    ├── UnknownContract         a read's contract or its limit is none that pgroute knows
    ├── RouterClosed            the router was not opened yet, or is closed
    ├── RoutingError            no server can serve this within its deadline
    │   ├── NoPrimary           nothing to write to
    │   │   └── SplitBrain      two writable servers, and neither is provably the newer one
    │   ├── NoReadableNode      no healthy replica and no primary
    │   ├── NodeUnavailable     the server asked for, or the only one left, gave no connection
    │   ├── DeadlineExceeded    the server did not answer in time; its connection was cut
    │   └── ContractNotMet      no replica meets the contract, and the primary was not wanted
    │       └── TokenNotReached the server asked for has not replayed the token in time
    ├── CommitUnknown           the connection was lost at COMMIT: it may have happened or not
    ├── PartitionError          the partitions of a table cannot be used as asked
    │   ├── NotPartitioned      the table has no partitions
    │   ├── UncomputableKey     only the server knows the leaf of this table's keys
    │   ├── PartitionMismatch   the server puts a key elsewhere, or a leaf is no longer what it was
    │   └── NoLeaf              no partition takes the key
    ├── LoadFailed              a bulk load stopped; it says what is in the table and what is not
    ├── NotExplained            a statement cannot be explained without a risk
    └── TokenError
        ├── MalformedToken      the text is not a token
        ├── ForeignToken        the token was made by another cluster
        └── TokenUnproven       the token's write may have been lost in a failover

Errors of the SQL itself are psycopg's and pass through untouched, with a note naming the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgroute.partitions.reports import Loaded


class PgrouteError(Exception):
    """The root: catch this to catch all of pgroute's own errors. All can be pickled and copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's would call the class with the message, which not all of them take.
        return _as_it_was, (type(self), self.args), vars(self)


class ConfigurationError(PgrouteError):
    """The configuration cannot be used; the message names the setting."""


class UnknownContract(PgrouteError, ValueError):
    """The contract of a read, or its limit, is none that pgroute knows."""


class RouterClosed(PgrouteError):
    """The router is not open."""


class RoutingError(PgrouteError):
    """No server could serve this within its deadline."""


class NoPrimary(RoutingError):
    """There is no server that may be written to."""


class SplitBrain(NoPrimary):
    """Two servers are writable and neither is provably the newer one: writes are refused."""


class NoReadableNode(RoutingError):
    """There is no healthy replica and no primary to read from."""


class NodeUnavailable(RoutingError):
    """One particular server gave no connection within its deadline."""


class DeadlineExceeded(RoutingError):
    """A server did not answer within the limit: ``node`` and ``limit`` (in seconds) say which.

    The connection was cut. What it was executing may still end on the server; a transaction that
    was open there is rolled back.
    """

    def __init__(self, node: str, limit: float) -> None:
        super().__init__(f"{node}: not done within {limit:g} s, its connection was cut")
        self.node = node
        self.limit = limit


class ContractNotMet(RoutingError):
    """No replica meets the contract of a read within its deadline, and no primary was wanted."""


class TokenNotReached(ContractNotMet):
    """One particular server did not replay up to the token within the deadline."""


class CommitUnknown(PgrouteError):
    """The connection was lost while COMMIT was under way: it may have happened or not.

    ``node`` is where it was sent; ``transaction_id`` is the server's 64-bit number of it, None
    when it was not known.
    """

    def __init__(self, node: str, transaction_id: int | None, why: str) -> None:
        number = "" if transaction_id is None else f" of transaction {transaction_id}"
        super().__init__(f"{node}: the connection was lost at the COMMIT{number}: {why}")
        self.node = node
        self.transaction_id = transaction_id


class TokenError(PgrouteError):
    """A token cannot be used."""


class MalformedToken(TokenError, ValueError):
    """The text is not a token."""


class ForeignToken(TokenError):
    """The token speaks of another cluster."""


class TokenUnproven(TokenError):
    """The token is of an older timeline, and its write may have been lost in the failover."""


class PartitionError(PgrouteError):
    """The partitions of a table cannot be used as asked."""


class NotPartitioned(PartitionError):
    """The table has no partitions."""


class UncomputableKey(PartitionError):
    """The leaf of this table's keys is known to the server only.

    ``table`` is the partitioned table, ``key`` its key column in words, ``sql_type`` the type.
    """

    def __init__(self, table: str, key: str, sql_type: str, reason: str) -> None:
        super().__init__(f"the leaf of {table} is not computed: {key} of type {sql_type}: {reason}")
        self.table = table
        self.key = key
        self.sql_type = sql_type
        self.reason = reason


class PartitionMismatch(PartitionError):
    """The server puts a key elsewhere than was computed, and nothing is computed any more; or a
    leaf has changed since the partitions were read."""


class NoLeaf(PartitionError, LookupError):
    """No partition takes the key."""


class LoadFailed(PgrouteError):
    """A bulk load stopped. ``report`` says what is in the table, what is not, what is unknown."""

    def __init__(self, message: str, report: Loaded) -> None:
        super().__init__(message)
        self.report = report


class NotExplained(PgrouteError):
    """The statement cannot be explained without a risk; the message says which."""


def _as_it_was(kind: type[PgrouteError], arguments: tuple[Any, ...]) -> PgrouteError:
    return kind.__new__(kind, *arguments)
