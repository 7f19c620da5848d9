"""A small Django project over the router, on real servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import OperationalError, connections, transaction
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path

from pgroute import NodeUnavailable
from pgroute.integrations.django.leases import close_router, router
from pgroute.integrations.django.routing import COOKIE, HEADER, reading, visit
from tests.servers import Servers, eventually

from .django_project import User, node, project

pytestmark = pytest.mark.integration

PAIRS = 3000


def create(_: HttpRequest) -> JsonResponse:
    user = User.objects.create(first_name="Visitor")
    return JsonResponse({"id": str(user.id)})


def find(_: HttpRequest, key: uuid.UUID) -> JsonResponse:
    found = User.objects.filter(id=key).count()
    return JsonResponse({"found": found, "node": node("replica") or node("default")})


def both(_: HttpRequest) -> JsonResponse:
    """Reads, writes in a transaction, reads again."""
    first = User.objects.filter(first_name="Both").first()
    before = node("replica")
    with transaction.atomic():
        user = User.objects.create(first_name="Both")
        seen = User.objects.filter(id=user.id).count()
    after = User.objects.filter(id=user.id).count()
    return JsonResponse(
        {"before": before, "seen": [seen, after], "default": node("default"), "had": bool(first)}
    )


urlpatterns = [
    path("users", create),
    path("users/<uuid:key>", find),
    path("both", both),
]


@pytest.fixture(autouse=True)
def on_servers(servers: Servers) -> Iterator[None]:
    with project(servers.settings(), __name__):
        yield


def test_requests_that_only_read_go_to_replicas() -> None:
    seen = {Client().get(f"/users/{uuid.uuid4()}").json()["node"] for _ in range(20)}
    assert seen == {"pg2", "pg3"}


def test_a_visitor_never_misses_what_they_wrote() -> None:
    """Thousands of requests that write, each followed by one that reads: none is stale."""

    def visits(share: int) -> tuple[int, int]:
        visitor, stale, on_replicas = Client(), 0, 0
        for _ in range(share):
            key = visitor.get("/users").json()["id"]
            told = visitor.get(f"/users/{key}").json()
            stale += told["found"] != 1
            on_replicas += told["node"] != "pg1"
        connections.close_all()
        return stale, on_replicas

    with ThreadPoolExecutor(4) as threads:
        counted = list(threads.map(visits, [PAIRS // 4] * 4))
    assert sum(stale for stale, _ in counted) == 0
    assert sum(replicas for _, replicas in counted) > PAIRS // 100


def test_a_request_that_writes_sees_it_and_stays_on_the_primary() -> None:
    for _ in range(5):
        told = Client().get("/both").json()
        assert told["before"] in ("pg2", "pg3")
        assert told["seen"] == [1, 1]
        assert told["default"] == "pg1"


def test_the_token_travels_in_a_header_as_well() -> None:
    answer = Client().get("/users")
    assert answer.headers[HEADER] == answer.cookies[COOKIE].value
    key = answer.json()["id"]
    for _ in range(20):
        told = Client().get(f"/users/{key}", headers={HEADER: answer.headers[HEADER]})
        assert told.json()["found"] == 1
        assert HEADER not in told.headers  # nothing was written


@pytest.mark.parametrize(
    "given", ["nonsense", "1-1-0/FF", ""], ids=["malformed", "foreign", "none"]
)
def test_a_token_that_is_none_does_no_harm(given: str) -> None:
    visitor = Client()
    visitor.cookies[COOKIE] = given
    answer = visitor.get(f"/users/{uuid.uuid4()}")
    assert answer.json()["found"] == 0


def test_a_foreign_token_is_replaced() -> None:
    visitor = Client()
    visitor.cookies[COOKIE] = "1-1-0/FF"
    first = visitor.get(f"/users/{uuid.uuid4()}")
    assert first.json()["node"] == "pg1"
    assert first.cookies[COOKIE].value != "1-1-0/FF"
    second = visitor.get(f"/users/{uuid.uuid4()}")
    assert COOKIE not in second.cookies


def test_who_brings_a_foreign_token_may_write() -> None:
    visitor = Client()
    visitor.cookies[COOKIE] = "1-1-0/FF"
    first = visitor.get("/users")  # writes and reads nothing
    assert first.status_code == 200
    assert first.cookies[COOKIE].value != "1-1-0/FF"
    assert visitor.get(f"/users/{first.json()['id']}").json()["found"] == 1


def test_a_job_reads_what_it_wrote_and_may_ask_for_more() -> None:
    with visit():
        user = User.objects.create(first_name="Job")
        connections["default"].close()
        assert User.objects.filter(id=user.id).count() == 1
        with reading("strong"):
            User.objects.count()
            assert node("replica") == "pg1"
        with reading(node="pg3"):
            User.objects.count()
            assert node("replica") == "pg3"
    assert node("replica") is None


def test_connections_are_as_django_makes_them() -> None:
    with connections["replica"].cursor() as cursor:
        cursor.execute("select now(), '{\"a\": 1}'::jsonb, current_setting('TimeZone')")
        now, document, zone = cursor.fetchone()
    assert now.utcoffset() is not None
    assert (document, zone) == ('{"a": 1}', "UTC")
    assert User.objects.filter(first_name__in=["a", "b"]).count() == 0


def test_slow_statements_are_logged(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    close_router()
    slow = project(servers.settings(slow_query_seconds=0.1), __name__)
    with slow, connections["replica"].cursor() as cursor:
        cursor.execute("select pg_sleep(0.2), %s", ["secret"])
    assert "select pg_sleep(0.2), %s" in caplog.text
    assert "secret" not in caplog.text


def test_a_connection_comes_back_as_it_was() -> None:
    for alias in ("default", "replica"):
        with connections[alias].cursor() as cursor:
            cursor.execute("select 1")
        connections[alias].close()
    eventually(
        lambda: not any(pool.in_flight for pool in router().pools_by_key.values()),
        what="no connection is held",
    )
    with router().write() as connection:
        connection.execute("delete from tbl_users where false")
        assert not connection.autocommit


def test_nobody_to_read_from_is_pgroute_s_error_and_django_s() -> None:
    for kind in (NodeUnavailable, OperationalError):
        with visit(node="pg9"), pytest.raises(kind, match="there is no node pg9"):
            User.objects.count()


def test_requests_go_on_after_a_failover(expendable: Servers) -> None:
    visitor = Client(raise_request_exception=False)
    visitor.get("/users")
    expendable.stop("pg1")

    def read() -> bool:
        answer = Client(raise_request_exception=False).get(f"/users/{uuid.uuid4()}")
        return answer.status_code == 200 and answer.json()["node"] in ("pg2", "pg3")

    eventually(read, what="reads go on")
    expendable.sql("pg2", "select pg_promote()")

    def wrote() -> bool:
        written = visitor.get("/users")
        if written.status_code != 200:
            return False
        answer = visitor.get(f"/users/{written.json()['id']}")
        assert answer.status_code != 200 or answer.json()["found"] == 1
        return bool(answer.status_code == 200)

    eventually(wrote, what="writes go on, and are seen")
