"""Errors as they reach a Django project.

Those of the server are Django's, as with any backend. Those of routing are pgroute's own and
Django's OperationalError as well, which is what Django and others catch where a database is away.
CommitUnknown is pgroute's alone: whoever tries again at an OperationalError must not try that.
"""

from __future__ import annotations

from types import TracebackType

from django.db.utils import DatabaseErrorWrapper, OperationalError

from pgroute.errors import RoutingError


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
        if isinstance(told, RoutingError):
            told.__class__ = _both(told.__class__)  # of the same object: what it carries stays
        if told is not error:
            raise told
        super().__exit__(kind, error, trace)


def _both(kind: type[RoutingError]) -> type[RoutingError]:
    """``kind`` and OperationalError in one."""
    if issubclass(kind, OperationalError):
        return kind
    return type(kind.__name__, (kind, OperationalError), {"__module__": kind.__module__})
