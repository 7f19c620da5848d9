"""Django's PostgreSQL backend with connections leased from the router."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from django.db.backends.postgresql.base import DatabaseWrapper as PostgresqlWrapper
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.utils import OperationalError

from pgroute.errors import PgrouteError, RoutingError, TokenError
from pgroute.integrations.django.routing import REPLICA, current_visit, give_back


class DatabaseWrapper(PostgresqlWrapper):  # type: ignore[misc]
    """One thread's connection to the primary, or to a replica under the alias "replica"."""

    connection: Any
    _lease: Any = None

    def get_connection_params(self) -> dict[str, Any]:
        """None: the router knows where the servers are."""
        return {}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A lease; OperationalError when the router has none to give."""
        here = current_visit()
        try:
            if self.alias == REPLICA:
                lease, connection = _read(here)
            else:
                lease = here.session.write()
                connection = lease.__enter__()
                here.wrote = True
        except RoutingError as error:
            raise OperationalError(str(error)) from error
        self.isolation_level = IsolationLevel.READ_COMMITTED
        self._lease = lease
        return connection

    def _close(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        connection = self.connection
        with suppress(psycopg.Error, PgrouteError):  # whoever used it has had the error
            if not connection.closed:
                connection.rollback()
                connection.autocommit = self.alias == REPLICA
        with suppress(psycopg.Error, PgrouteError):
            lease.__exit__(None, None, None)
        self.connection = None
        if self.alias != REPLICA:
            give_back()  # the replica leased before may not have what was written


def _read(here: Any) -> tuple[Any, Any]:
    lease = here.session.read(**here.contract)
    try:
        return lease, lease.__enter__()
    except TokenError:  # what it stands for may be lost: the primary's is the truth now
        here.start_anew()
        lease = here.session.read("strong")
        return lease, lease.__enter__()
