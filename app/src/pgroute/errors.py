"""What can go wrong, as a tree.

    PgrouteError
    ├── ConfigurationError      the environment, DSN or passfile cannot be used as it is
    ├── RouterClosed            the router was not opened yet, or is closed
    ├── RoutingError            no server can serve this within its deadline
    │   ├── NoPrimary           nothing to write to
    │   │   └── SplitBrain      two writable servers, and neither is provably the newer one
    │   ├── NoReadableNode      no healthy replica and no primary
    │   ├── NodeUnavailable     the server asked for, or the only one left, gave no connection
    │   └── TokenNotReached     the server asked for has not replayed the token in time
    └── TokenError
        ├── MalformedToken      the text is not a token
        └── ForeignToken        the token was made by another cluster

Errors of the SQL itself are psycopg's and pass through untouched, with a note naming the node.
"""

from __future__ import annotations


class PgrouteError(Exception):
    """The root: catch this to catch all of pgroute's own errors."""


class ConfigurationError(PgrouteError):
    """The configuration cannot be used; the message names the setting."""


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


class TokenNotReached(RoutingError):
    """One particular server did not replay up to the token within the deadline."""


class TokenError(PgrouteError):
    """A token cannot be used."""


class MalformedToken(TokenError, ValueError):
    """The text is not a token."""


class ForeignToken(TokenError):
    """The token speaks of another cluster."""
