"""Errors as they reach a Django project.

Those of the server are Django's, as with any backend. Those of routing are pgroute's own and
Django's OperationalError as well, which is what Django and others catch where a database is away.
CommitUnknown is pgroute's alone: whoever tries again at an OperationalError must not try that.
"""

from __future__ import annotations

from types import TracebackType

from django.db.utils import DatabaseErrorWrapper, OperationalError

from pgroute import errors


class RoutingError(errors.RoutingError, OperationalError):  # type: ignore[misc]
    """Its subclasses are those of pgroute's, each by the same name."""


class NoPrimary(errors.NoPrimary, RoutingError):
    pass


class SplitBrain(errors.SplitBrain, NoPrimary):
    pass


class NoReadableNode(errors.NoReadableNode, RoutingError):
    pass


class NodeUnavailable(errors.NodeUnavailable, RoutingError):
    pass


class DeadlineExceeded(errors.DeadlineExceeded, RoutingError):
    pass


class ContractNotMet(errors.ContractNotMet, RoutingError):
    pass


class TokenNotReached(errors.TokenNotReached, ContractNotMet):
    pass


_DJANGO_S: dict[type, type[RoutingError]] = {
    kind.__bases__[0]: kind
    for kind in (
        RoutingError,
        NoPrimary,
        SplitBrain,
        NoReadableNode,
        NodeUnavailable,
        DeadlineExceeded,
        ContractNotMet,
        TokenNotReached,
    )
}


class Errors(DatabaseErrorWrapper):  # type: ignore[misc]
    """Django's translation of errors, which ends the lease of a connection that is lost."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        told = self.wrapper.end_if_lost(error)
        if type(told) in _DJANGO_S:
            told.__class__ = _DJANGO_S[type(told)]  # of the same object: what it carries stays
        if told is not error:
            raise told
        super().__exit__(kind, error, trace)
