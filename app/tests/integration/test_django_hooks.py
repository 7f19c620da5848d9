"""What is to be done after a COMMIT is not done when nobody knows of that COMMIT."""
# ruff: noqa: PT012 - what happens within a block, and how it ends, is tested

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import psycopg
import pytest
from django.db import connections, transaction

from pgroute import CommitUnknown
from pgroute.integrations.django.leases import router
from pgroute.routing.commit import Commit
from pgroute.routing.connections import NodeConnection
from tests.servers import Servers

from .django_project import User, node, project

pytestmark = pytest.mark.integration

urlpatterns: list[object] = []


@pytest.fixture(autouse=True)
def on_servers(servers: Servers) -> Iterator[None]:
    with project(servers.settings(), __name__):
        yield


@pytest.fixture
def failed_hook() -> None:
    """One that raised: Django still has in mind to run those of this connection."""

    def fail() -> NoReturn:
        raise ValueError("a hook")

    with pytest.raises(ValueError, match="a hook"), transaction.atomic():
        User.objects.create(first_name="Before")
        transaction.on_commit(fail)


def commit_with_hook(ends: type[BaseException]) -> list[str]:
    """What is heard of a COMMIT that ends so."""
    heard: list[str] = []
    with pytest.raises(ends), transaction.atomic():
        User.objects.create(first_name="In doubt")
        transaction.on_commit(lambda: heard.append("committed"))
    with transaction.atomic():
        User.objects.create(first_name="Next")
    return heard


@pytest.mark.usefixtures("failed_hook")
def test_a_commit_of_which_nobody_can_say_runs_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(connection: NodeConnection, commit: Commit) -> NoReturn:
        monkeypatch.undo()
        commit.sent = True
        connection.close()
        raise psycopg.OperationalError("no answer")

    monkeypatch.setattr(NodeConnection, "end", end)
    assert commit_with_hook(CommitUnknown) == []


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between the answer to the next COMMIT and whoever waits for it."""
    ours = NodeConnection.end

    def end(connection: NodeConnection, commit: Commit) -> NoReturn:
        monkeypatch.undo()
        ours(connection, commit)
        raise KeyboardInterrupt

    monkeypatch.setattr(NodeConnection, "end", end)


@pytest.mark.usefixtures("failed_hook", "interrupted")
def test_a_commit_that_is_interrupted_runs_no_hooks() -> None:
    assert commit_with_hook(KeyboardInterrupt) == []


@pytest.mark.usefixtures("interrupted")
def test_a_commit_that_is_interrupted_leaves_its_connection_to_nobody() -> None:
    with pytest.raises(KeyboardInterrupt), transaction.atomic():
        User.objects.create(first_name="Interrupted")
        before = connections["default"].connection
    assert node("default") is None
    with router().write() as after:
        assert after is not before
