"""Django's test runner over the router: on a database made for tests, never on another."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import Client, TestCase, TransactionTestCase
from django.test.runner import DiscoverRunner

from pgroute.integrations.django.leases import close_router
from tests.servers import Servers

from .django_project import node, project
from .test_django import urlpatterns as urlpatterns

pytestmark = pytest.mark.integration

LEADS_TO_APP = "settings.PGROUTE leads to the database app, but Django wants test_app for"


@pytest.fixture(autouse=True)
def on_servers(servers: Servers) -> Iterator[None]:
    with project(servers.settings(), __name__):
        yield


@pytest.fixture(autouse=True)
def may_create(servers: Servers) -> Iterator[None]:
    """What is refused is not so for want of a privilege."""
    servers.sql("pg1", "alter role app_rw createdb")
    yield
    servers.sql("pg1", "drop database if exists test_app with (force)")
    servers.sql("pg1", "alter role app_rw nocreatedb")


@pytest.fixture
def test_app(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A project whose router leads to a database for tests."""
    passfile = tmp_path / "passfile"
    passfile.write_text(servers.passfile.read_text().replace(":app:", ":test_app:"))
    passfile.chmod(0o600)
    for alias in ("default", "replica"):  # the runner leaves the name of a mirror as it set it
        monkeypatch.setitem(connections[alias].settings_dict, "NAME", "app")
    monkeypatch.setitem(connections["replica"].settings_dict["TEST"], "MIRROR", "default")
    servers.sql("pg1", "create database test_app owner app_rw")
    table = "create table tbl_users (id uuid primary key, first_name text)"
    grant = "grant select on tbl_users to app_ro"
    servers.sql("pg1", f"set role app_rw; {table}; {grant}", database="test_app")
    close_router()
    with project(servers.settings(database="test_app", passfile=passfile), __name__):
        yield


def databases(servers: Servers) -> str:
    named = "datname like '%app%'"
    return servers.sql("pg1", f"select string_agg(datname, ' ') from pg_database where {named}")


@pytest.mark.parametrize("alias", ["default", "replica"])
def test_a_database_that_the_router_does_not_lead_to_is_refused(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections[alias].settings_dict, "NAME", "test_app")
    with pytest.raises(ImproperlyConfigured, match=f"{LEADS_TO_APP} '{alias}'"):
        connections[alias].ensure_connection()
    assert node(alias) is None


def test_a_database_may_go_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "")
    connections["default"].ensure_connection()
    assert node("default") == "pg1"


def test_django_is_given_no_database_to_manage_others_from() -> None:
    with pytest.raises(ImproperlyConfigured, match="but Django wants postgres"):
        connections["default"].creation._nodb_cursor().__enter__()


@pytest.mark.parametrize("keepdb", [False, True])
def test_tests_do_not_run_on_the_database_of_the_project(servers: Servers, keepdb: bool) -> None:
    runner = DiscoverRunner(keepdb=keepdb, interactive=False, verbosity=0)
    with pytest.raises(ImproperlyConfigured, match=LEADS_TO_APP):
        runner.setup_databases()
    assert databases(servers) == "app"
    assert connections["default"].settings_dict["NAME"] == "app"


@pytest.mark.usefixtures("test_app")
def test_a_database_for_tests_is_neither_made_nor_dropped() -> None:
    runner = DiscoverRunner(interactive=False, verbosity=0)
    with pytest.raises(ImproperlyConfigured, match="make test_app yourself"):
        runner.setup_databases()


@pytest.mark.usefixtures("test_app")
def test_a_database_for_tests_is_not_cloned() -> None:
    runner = DiscoverRunner(keepdb=True, interactive=False, verbosity=0, parallel=2)
    with pytest.raises(ImproperlyConfigured, match="without --parallel"):
        runner.setup_databases()


@pytest.mark.usefixtures("test_app")
def test_tests_run_on_a_database_made_for_them(servers: Servers) -> None:
    class Rolled(TestCase):  # type: ignore[misc]
        databases = ("default", "replica")

        def test_a_visitor_is_found(self) -> None:
            key = Client().get("/users").json()["id"]
            assert Client().get(f"/users/{key}").json()["found"] == 1  # of the same transaction

    class Flushed(TransactionTestCase):  # type: ignore[misc]
        databases = ("default", "replica")

        def test_a_visitor_is_found(self) -> None:
            visitor = Client()
            key = visitor.get("/users").json()["id"]
            assert visitor.get(f"/users/{key}").json()["found"] == 1

    runner = DiscoverRunner(keepdb=True, interactive=False, verbosity=0)
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(kind) for kind in (Rolled, Flushed)
    )
    made = runner.setup_databases()
    try:
        result = runner.run_suite(suite)
    finally:
        runner.teardown_databases(made)
    assert (result.testsRun, result.errors, result.failures) == (2, [], [])
    assert "test_app" in databases(servers)
