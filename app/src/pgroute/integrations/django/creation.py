"""The database that Django's tests run on: one that is there, and that the router leads to."""

from __future__ import annotations

from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql.creation import DatabaseCreation as PostgresqlCreation


class DatabaseCreation(PostgresqlCreation):  # type: ignore[misc]
    """Makes, clones and drops none: a router leads to one database for as long as it is open."""

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        name = str(self._get_test_db_name())
        self.connection.check_database(name)
        if not keepdb:
            raise ImproperlyConfigured(
                f"pgroute makes and drops no database for tests: make {name} yourself, and run "
                "the tests with --keepdb"
            )
        return name

    def _clone_test_db(self, *_: Any, **__: Any) -> NoReturn:
        raise ImproperlyConfigured(
            "pgroute leads to one database for tests: run them without --parallel"
        )
