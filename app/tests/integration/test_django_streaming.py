"""Responses of a Django project that are streamed: made in the visit, after the middleware."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.signals import request_finished
from django.db import close_old_connections
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path

from pgroute.integrations.django.routing import HEADER, TokenMiddleware, current_visit, visit
from tests.servers import Servers, eventually

from .django_project import User, node, project

pytestmark = pytest.mark.integration

PAUSED = "select pg_get_wal_replay_pause_state()"


@pytest.fixture(autouse=True)
def on_servers(servers: Servers) -> Iterator[None]:
    with project(servers.settings(), __name__):
        yield


@pytest.fixture
def stale_replicas(servers: Servers) -> Iterator[None]:
    """Replicas that show nothing of what is written from now on."""
    for name in ("pg2", "pg3"):
        servers.sql(name, "select pg_wal_replay_pause()")
        eventually(lambda n=name: servers.sql(n, PAUSED) == "paused", what=f"{name} is paused")
    yield
    for name in ("pg2", "pg3"):
        servers.sql(name, "select pg_wal_replay_resume()")


def create(_: HttpRequest) -> StreamingHttpResponse:
    """Writes, then streams how often that is found."""
    user = User.objects.create(first_name="Streamed")
    return found(user.id)


def find(_: HttpRequest, key: uuid.UUID) -> StreamingHttpResponse:
    return found(key)


def found(key: uuid.UUID) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield f"{key} "
        yield str(User.objects.filter(id=key).count())

    return StreamingHttpResponse(parts())


async def create_async(_: HttpRequest) -> StreamingHttpResponse:
    user = await User.objects.acreate(first_name="Streamed")
    return found_async(user.id)


async def find_async(_: HttpRequest, key: uuid.UUID) -> StreamingHttpResponse:
    return found_async(key)


def found_async(key: uuid.UUID) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield f"{key} "
        yield str(await User.objects.filter(id=key).acount())

    return StreamingHttpResponse(parts())


def within_a_visit(_: HttpRequest) -> StreamingHttpResponse:
    """A body that is a visit of its own from one part to the next."""

    def parts() -> Iterator[str]:
        with visit(contract="strong"):
            yield "begun "
            User.objects.count()
            yield str(node("replica"))

    return StreamingHttpResponse(parts())


def endless(_: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        try:
            while True:
                yield str(User.objects.count())
        finally:
            closed.append("closed")

    closed.clear()
    return StreamingHttpResponse(parts())


closed: list[str] = []

urlpatterns = [
    path("users", create),
    path("users/<uuid:key>", find),
    path("async/users", create_async),
    path("async/users/<uuid:key>", find_async),
    path("within", within_a_visit),
]


def told(response: Any) -> tuple[str, str]:
    """The key that a response speaks of, and how often it was found."""
    key, count = response.getvalue().decode().split()
    return key, count


async def told_async(response: Any) -> tuple[str, str]:
    key, count = b"".join([part async for part in response]).decode().split()
    return key, count


@pytest.mark.usefixtures("stale_replicas")
def test_what_is_streamed_shows_what_the_visitor_wrote() -> None:
    visitor = Client()
    written = visitor.get("/users")
    key, count = told(written)
    assert count == "1"
    assert HEADER in written.headers
    read = visitor.get(f"/users/{key}")
    assert told(read) == (key, "1")
    assert HEADER not in read.headers  # nothing was written
    assert node("replica") is node("default") is None


@pytest.mark.usefixtures("stale_replicas")
def test_what_is_streamed_asynchronously_shows_what_the_visitor_wrote() -> None:
    async def visits() -> None:
        visitor = AsyncClient()
        written = await visitor.get("/async/users")
        key, count = await told_async(written)
        assert count == "1"
        assert HEADER in written.headers
        read = await visitor.get(f"/async/users/{key}")
        assert await told_async(read) == (key, "1")
        assert HEADER not in read.headers
        assert await sync_to_async(node)("replica") is None
        assert await sync_to_async(node)("default") is None

    asyncio.run(visits())


@pytest.mark.usefixtures("stale_replicas")
def test_visits_do_not_mix_with_what_is_streamed_meanwhile() -> None:
    """One visitor's token is no other's: who has written nothing reads on a replica."""
    visitor = Client()
    key, _ = told(visitor.get("/users"))
    response = visitor.get(f"/users/{key}")
    parts = iter(response)
    ours = current_visit()
    assert next(parts) == f"{key} ".encode()
    assert current_visit() is ours
    assert told(Client().get(f"/users/{key}")) == (key, "0")
    assert next(parts) == b"1"
    response.close()


def test_a_body_may_be_a_visit_of_its_own() -> None:
    assert Client().get("/within").getvalue() == b"begun pg1"


@pytest.fixture
def kept_connections() -> Iterator[None]:
    """Django does not close connections at the end of a request."""
    request_finished.disconnect(close_old_connections)
    yield
    request_finished.connect(close_old_connections)


@pytest.mark.usefixtures("kept_connections")
def test_a_stream_that_is_closed_early_gives_its_connection_back() -> None:
    response = TokenMiddleware(endless)(RequestFactory().get("/endless"))
    next(iter(response))
    assert node("replica") is not None
    response.close()
    assert closed == ["closed"]
    assert node("replica") is None


def test_a_file_is_left_for_the_server_to_send() -> None:
    response = TokenMiddleware(lambda _: FileResponse(BytesIO(b"file")))(RequestFactory().get("/"))
    assert response.file_to_stream is not None
    assert response.getvalue() == b"file"
