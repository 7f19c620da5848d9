"""Django's PostgreSQL backend with connections leased from the router."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql.base import DatabaseWrapper as PostgresqlWrapper
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.backends.utils import debug_transaction
from django.db.utils import OperationalError

from pgroute.errors import CommitUnknown, DeadlineExceeded, PgrouteError, TokenError
from pgroute.integrations.django.creation import DatabaseCreation
from pgroute.integrations.django.errors import Errors
from pgroute.integrations.django.leases import router, unless_ended
from pgroute.integrations.django.routing import REPLICA, current_visit, give_back
from pgroute.integrations.renewing import renew_no_more, renew_with_use
from pgroute.routing.commit import Commit
from pgroute.routing.ending import ending_failed
from pgroute.routing.probe import one_line
from pgroute.statements import Route as Lane


class DatabaseWrapper(PostgresqlWrapper):  # type: ignore[misc]
    """One thread's connection to the primary, or to a replica under the alias "replica".

    Its lease ends with the connection: when Django closes it, or when it is found to be lost. A
    lost connection stays in its place, closed, until the transaction or Django is done with it.
    """

    creation_class = DatabaseCreation
    connection: Any
    run_commit_hooks_on_set_autocommit_on: bool
    run_on_commit: list[Any]
    _lease: Any = None
    _give_up: Any = None  # of the lease

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wrap_database_errors = Errors(self)
        self.execute_wrappers.append(self._execute)

    def get_connection_params(self) -> dict[str, Any]:
        """None: the router knows where the servers are."""
        return {}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A lease; the router's error when it has none to give."""
        name = self.settings_dict["NAME"]
        self.check_database("postgres" if name is None else name)  # None: as Django's own has it
        here = current_visit()
        if self.alias == REPLICA:
            lease, connection = _read(here)
        else:
            lease, connection = _write(here)
            here.wrote = True
        self.isolation_level = IsolationLevel.READ_COMMITTED
        self._lease = lease
        self._give_up = unless_ended(self, lease)
        if self.alias != REPLICA or "timeout" not in here.contract:
            renew_with_use(lease)
        return connection

    def check_database(self, wanted: str) -> None:
        """ImproperlyConfigured when the router leads to another one; "" is any."""
        ours = router().settings.database_name
        if wanted not in ("", ours):
            raise ImproperlyConfigured(
                f"settings.PGROUTE leads to the database {ours}, but Django wants {wanted} for "
                f"{self.alias!r}: let both name the same (for tests, too: see "
                "pgroute.integrations.django)"
            )

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """As Django's. A connection that was lost in its transaction is let go of instead."""
        if not autocommit or self.connection is None or not self.connection.closed:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
            return
        self.validate_no_atomic_block()
        self._close()
        self.autocommit = True
        # To connect would forget what is to be done after the COMMIT, which may have been done.
        if self.run_commit_hooks_on_set_autocommit_on:
            self.run_commit_hooks_on_set_autocommit_on = False
            self.run_and_clear_commit_hooks()

    def end_if_lost(self, error: BaseException) -> BaseException:
        """End the lease when its connection cannot be used any more; the error to raise."""
        lease = self._lease
        if lease is None or not _is_lost(lease):
            return error
        self._take_lease()
        self.errors_occurred = True
        try:
            lease.__exit__(type(error), error, None)
        except PgrouteError as told:
            return told
        return error

    def _take_lease(self) -> Any:
        """The lease, for whoever ends it now."""
        lease, self._lease = self._lease, None
        if lease is not None:
            self._give_up.detach()
            renew_no_more(lease.connection)
        return lease

    def _execute(self, execute: Callable[..., Any], sql: Any, *how: Any) -> Any:
        """Run a statement. CommitUnknown when the answer to a write that commits is lost."""
        lease = self._lease
        try:
            return execute(sql, *how)
        except OperationalError as error:
            lost = lease is not None and self._lease is None
            if (
                not lost
                or not self.autocommit
                or self.alias == REPLICA
                or isinstance(error, DeadlineExceeded)
                or lease.router.lane(sql) is Lane.REPLICA
            ):
                raise
            raise CommitUnknown(lease.route.node, None, one_line(error)) from error

    def _commit(self) -> None:
        """COMMIT as the router does it: when its answer is lost, the primary is asked."""
        lease = self._lease
        try:
            if lease is None or self.alias == REPLICA:
                super()._commit()
            elif self.connection.in_transaction:
                with debug_transaction(self, "COMMIT"), self.wrap_database_errors:
                    self._commit_leased(lease)
        except BaseException:
            # Django forgets its hooks when it rolls back, which it does after a DatabaseError only.
            self.run_on_commit = []
            self.run_commit_hooks_on_set_autocommit_on = False
            raise

    def _commit_leased(self, lease: Any) -> None:
        router, commit = lease.router, Commit()
        try:
            if lease not in lease.pool.in_flight:
                raise psycopg.OperationalError("the connection was cut before the COMMIT")
            self.connection.end(commit)
        except BaseException as error:
            if not isinstance(error, psycopg.Error):
                self.connection.close()  # an interrupt: it stays here, so it is nobody else's
            elif not _is_lost(lease):
                raise  # the server's answer: the connection goes on
            self._take_lease()
            self.errors_occurred = True
            router.drive(ending_failed(router, lease, commit, error))
        else:
            router.wrote(lease)  # now: whoever is told of the commit may ask for a token

    def _rollback(self) -> None:
        try:
            super()._rollback()
        except OperationalError:
            if not self.connection.closed:  # else the server has rolled back by itself
                raise

    def _close(self) -> None:
        lease = self._take_lease()
        connection, self.connection = self.connection, None
        if lease is not None:
            _end(lease, connection, autocommit=self.alias == REPLICA)
        if self.alias != REPLICA:
            give_back(REPLICA)  # the one leased before may not have what was written


def _read(here: Any) -> tuple[Any, Any]:
    lease = here.session.read(**here.contract)
    try:
        return lease, lease.__enter__()
    except TokenError:  # what it stands for may be lost: the primary's is the truth now
        here.start_anew()
        lease = here.session.read("strong")
        return lease, lease.__enter__()


def _write(here: Any) -> tuple[Any, Any]:
    lease = here.session.write()
    try:
        return lease, lease.__enter__()
    except TokenError:  # as above
        here.start_anew()
        lease = here.session.write()
        return lease, lease.__enter__()


def _is_lost(lease: Any) -> bool:
    return lease.connection.closed or lease not in lease.pool.in_flight


def _end(lease: Any, connection: Any, *, autocommit: bool) -> None:
    """Give a connection back as it came."""
    error: psycopg.Error | None = None
    try:
        connection.rollback()
        connection.autocommit = autocommit
    except psycopg.Error as failure:
        error = failure
    with suppress(psycopg.Error, PgrouteError):  # whoever used it has had the error
        lease.__exit__(type(error) if error else None, error, None)
