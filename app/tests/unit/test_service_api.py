"""Users and sales over HTTP: what is asked of the store, and how its errors are answered."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from pgroute import (
    ForeignToken,
    MalformedToken,
    NodeUnavailable,
    NoPrimary,
    NoReadableNode,
    RouterClosed,
    SplitBrain,
    Token,
    errors,
    new_key,
)
from pgroute.examples.shop import Page, SalesMonth, User, UserFilter, UserOrder
from pgroute.service import api, cursors, guards, problems
from pgroute.service.guards import BODY_BYTES, BodyLimit
from pgroute.service.store import Read, Written

TOKEN = Token(7, 2, 0x5000000)
ADA = User(new_key(), "Ada")


@dataclass
class Scripted:
    """A store that answers what the test says, and remembers what it was asked."""

    answer: Any = None
    asked: list[Any] = field(default_factory=list)

    def _reply(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def user(self, key: UUID, after: Token | None) -> Any:
        return self._reply(key, after)

    async def users(self, wanted: UserFilter, after: Token | None, **more: Any) -> Any:
        return self._reply(wanted, after, more)

    async def sales(self, first: date, last: date, after: Token | None) -> Any:
        return self._reply(first, last, after)

    async def add_user(self, first_name: str, key: UUID | None) -> Any:
        return self._reply(first_name, key)


@pytest.fixture
def store() -> Scripted:
    return Scripted()


@pytest.fixture
def client(store: Scripted) -> Iterator[TestClient]:
    app = FastAPI(responses=problems.DOCUMENTED)
    problems.install(app)
    app.include_router(api.routes(store))  # type: ignore[arg-type]
    guards.install(app)
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert "\n" not in told["detail"]
    return told


# Keys

FAR = "ffffffff-ffff-7fff-bfff-ffffffffffff"  # a UUIDv7 of the year 10889


def test_a_key_of_a_year_that_cannot_be_told_is_not_written(
    client: TestClient, store: Scripted
) -> None:
    told = problem(client.post("/users", json={"first_name": "Ada", "id": FAR}), 422)
    assert told["detail"] == f"body.id: Value error, {FAR} is of a year after 9999"
    assert store.asked == []


def test_what_another_program_wrote_can_be_read(client: TestClient, store: Scripted) -> None:
    strange = [User(UUID(FAR), "far"), User(uuid4(), "random"), ADA]
    store.answer = Read(Page(strange, more=False), "pg2")
    told = client.get("/users").json()["users"]
    assert [user["created_at"] is None for user in told] == [True, True, False]


# Writing


def test_a_new_user_comes_with_its_place_and_a_token(client: TestClient, store: Scripted) -> None:
    store.answer = Written((ADA, True), "pg1", str(TOKEN))
    answer = client.post("/users", json={"first_name": "Ada"})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/users/{ADA.id}"
    assert Token.parse(answer.headers["consistency-token"]) == TOKEN
    assert answer.headers["served-by"] == "pg1"
    assert answer.json()["id"] == str(ADA.id)
    assert store.asked == [("Ada", None)]


def test_a_user_that_was_there_is_200_and_has_a_token_too(
    client: TestClient, store: Scripted
) -> None:
    store.answer = Written((ADA, False), "pg1", str(TOKEN))
    answer = client.post("/users", json={"first_name": "Ada", "id": str(ADA.id)})
    assert (answer.status_code, answer.headers["consistency-token"]) == (200, str(TOKEN))
    assert store.asked == [("Ada", ADA.id)]


def test_what_was_written_is_told_even_when_its_token_cannot_be(
    client: TestClient, store: Scripted
) -> None:
    store.answer = Written((ADA, True), "pg1", None)
    answer = client.post("/users", json={"first_name": "Ada"})
    assert (answer.status_code, answer.headers.get("consistency-token")) == (201, None)


def test_a_taken_key_is_a_conflict(client: TestClient, store: Scripted) -> None:
    store.answer = ValueError("the key belongs to another user")
    told = problem(client.post("/users", json={"first_name": "Ada"}), 409)
    assert told["type"] == "urn:pgroute:key-taken"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body.first_name"),
        ({"first_name": ""}, "body.first_name"),
        ({"first_name": "x" * 256}, "body.first_name"),
        ({"first_name": "a\0b"}, "body.first_name"),
        ({"first_name": 5}, "body.first_name"),
        ({"first_name": "Ada", "id": str(uuid4())}, "body.id"),
        ({"first_name": "Ada", "id": "5"}, "body.id"),
        ({"first_name": "Ada", "is_admin": True}, "body.is_admin"),
        ([], "body"),
    ],
)
def test_a_body_that_cannot_be_used_is_422_and_never_written(
    client: TestClient, store: Scripted, body: Any, where: str
) -> None:
    told = problem(client.post("/users", json=body), 422)
    assert told["errors"][0]["where"] == where
    assert store.asked == []


def test_a_lone_surrogate_is_422(client: TestClient, store: Scripted) -> None:
    body = b'{"first_name": "\\ud800"}'
    problem(client.post("/users", content=body, headers={"Content-Type": "application/json"}), 422)
    assert store.asked == []


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_form_of_another_site_writes_nothing(
    client: TestClient, store: Scripted, media_type: str
) -> None:
    # Such types a browser sends across sites without asking; JSON it does not.
    body = b'{"first_name": "Ada"}'
    problem(client.post("/users", content=body, headers={"Content-Type": media_type}), 422)
    assert store.asked == []


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_long_is_413(
    client: TestClient, store: Scripted, announced: bool
) -> None:
    body = b'{"first_name": "' + b"x" * BODY_BYTES + b'"}'
    parts = (body[at : at + 4096] for at in range(0, len(body), 4096))
    answer = client.post(
        "/users",
        content=body if announced else parts,
        headers={"Content-Type": "application/json"},
    )
    assert problem(answer, 413)["detail"] == "a body may have 65536 bytes"
    assert store.asked == []


def test_a_body_that_announces_its_length_is_refused_unread() -> None:
    sent: list[Any] = []

    async def unread(*_: object) -> Any:
        raise AssertionError("nothing is read, and the application is not asked")

    async def send(message: Any) -> None:
        sent.append(message)

    length = str(BODY_BYTES + 1).encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", length)]}
    asyncio.run(BodyLimit(unread)(scope, unread, send))
    assert sent[0]["status"] == 413


# Tokens


def test_a_read_without_a_token_asks_for_none(client: TestClient, store: Scripted) -> None:
    store.answer = Read(ADA, "pg2")
    answer = client.get(f"/users/{ADA.id}")
    assert (answer.status_code, answer.headers["served-by"]) == (200, "pg2")
    assert answer.json()["first_name"] == "Ada"
    assert store.asked == [(ADA.id, None)]


@pytest.mark.parametrize("path", [f"/users/{ADA.id}", "/users", "/sales?from=2024-01&to=2024-02"])
def test_every_read_honours_the_token(client: TestClient, store: Scripted, path: str) -> None:
    store.answer = NoReadableNode("on purpose")
    client.get(path, headers={"Consistency-Token": str(TOKEN)})
    assert TOKEN in store.asked[0]


@pytest.mark.parametrize("path", [f"/users/{ADA.id}", "/users", "/sales"])
@pytest.mark.parametrize("token", ["", "x", "1-2-3", "7-2-0/5000000' or 1=1", "9" * 201])
def test_a_malformed_token_is_refused_and_nothing_is_asked(
    client: TestClient, store: Scripted, path: str, token: str
) -> None:
    answer = client.get(path, headers={"Consistency-Token": token})
    problem(answer, 422 if len(token) > 200 else 400)
    assert store.asked == []


# Errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (MalformedToken("it is none"), 400, "malformed-token"),
        (ForeignToken("of another cluster"), 409, "foreign-token"),
        (errors.TokenUnproven("may be lost"), 412, "unproven-token"),
        (NoPrimary("pg1: gone (waited 5 s)"), 503, "no-primary"),
        (SplitBrain("pg1 and pg2 are both writable"), 503, "split-brain"),
        (NoReadableNode("nobody"), 503, "no-node"),
        (NodeUnavailable("pg2: refused"), 503, "no-node"),
        (errors.DeadlineExceeded("pg2", 1), 504, "deadline"),
        (errors.CommitUnknown("pg1", 745, "lost at COMMIT"), 504, "commit-unknown"),
        (RouterClosed("closed"), 503, "closing"),
    ],
)
def test_an_error_of_the_router_has_its_status_and_its_words(
    client: TestClient, store: Scripted, error: Exception, status: int, kind: str
) -> None:
    store.answer = error
    answer = client.get(f"/users/{ADA.id}")
    told = problem(answer, status)
    assert (told["type"], told["detail"]) == (f"urn:pgroute:{kind}", str(error))
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (psycopg.errors.QueryCanceled("canceling statement"), 504, "deadline"),
        (psycopg.errors.StringDataRightTruncation("value too long"), 422, "invalid-value"),
        (psycopg.errors.AdminShutdown("secret-host going down"), 503, "connection"),
        (psycopg.errors.ReadOnlySqlTransaction("secret-host"), 503, "no-primary"),
        (psycopg.errors.DeadlockDetected("secret-host"), 503, "conflict"),
        (psycopg.errors.LockNotAvailable("secret-host"), 503, "conflict"),
        (psycopg.errors.DiskFull("secret-host"), 503, "full"),
        (psycopg.errors.CheckViolation("Failing row contains (secret-host)"), 500, "internal"),
        (psycopg.errors.InsufficientPrivilege("secret-host"), 500, "internal"),
        (RuntimeError("secret-host"), 500, "internal"),
    ],
)
def test_an_error_of_the_database_tells_no_internals(
    client: TestClient,
    store: Scripted,
    error: Exception,
    status: int,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error.add_note("pgroute: on node pg2")
    store.answer = error
    told = problem(client.get(f"/users/{ADA.id}"), status)
    assert told["type"] == f"urn:pgroute:{kind}"
    assert "secret-host" not in str(told)
    if isinstance(error, psycopg.Error):
        assert "secret-host" not in caplog.text
        assert (f"{error.sqlstate}" in caplog.text) == (status == 500)
    assert told["detail"].endswith("(on node pg2)")


def test_a_user_that_is_not_there_is_404_with_the_node(client: TestClient, store: Scripted) -> None:
    store.answer = Read(None, "pg3")
    told = problem(client.get(f"/users/{ADA.id}"), 404)
    assert told["detail"] == f"pg3 has no user {ADA.id}; after a write, send its Consistency-Token"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("DELETE", "/users", 405), ("GET", "/users/5", 422)],
)
def test_a_path_or_method_that_is_none_is_a_problem_too(
    client: TestClient, method: str, path: str, status: int
) -> None:
    problem(client.request(method, path), status)


# Search


def test_a_search_passes_its_filters_on(client: TestClient, store: Scripted) -> None:
    store.answer = Read(Page([ADA], more=False), "pg2")
    answer = client.get(
        "/users",
        params={
            "name_prefix": "A",
            "name_contains": "d",
            "made_from": "2024-01-01T00:00:00Z",
            "sort": "-name",
            "limit": 200,
        },
    )
    assert answer.json()["next"] is None
    wanted = UserFilter("A", "d", datetime(2024, 1, 1, tzinfo=UTC), None)
    more = {"order": UserOrder.NAME, "descending": True, "behind": None, "limit": 200}
    assert store.asked == [(wanted, None, more)]


def test_the_cursor_leads_to_the_next_page(client: TestClient, store: Scripted) -> None:
    store.answer = Read(Page([ADA], more=True), "pg2")
    cursor = client.get("/users?sort=name").json()["next"]
    client.get("/users", params={"sort": "name", "cursor": cursor})
    assert store.asked[1][2]["behind"] == ADA


@pytest.mark.parametrize("character", ["я", "\N{GRINNING FACE}", '"', "\1"])
@pytest.mark.parametrize("sort", ["name", "age"])
def test_the_service_takes_the_cursor_behind_the_longest_name(
    client: TestClient, store: Scripted, character: str, sort: str
) -> None:
    longest = User(ADA.id, character * 255)
    store.answer = Read(Page([longest], more=True), "pg2")
    cursor = client.get(f"/users?sort={sort}").json()["next"]
    again = client.get("/users", params={"sort": sort, "cursor": cursor})
    assert again.status_code == 200, again.text
    assert store.asked[1][2]["behind"] == (longest if sort == "name" else User(ADA.id, ""))


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "ü",
        "=",
        "W10",
        "bnVsbA",
        cursors.write(UserOrder.AGE, True, ADA),
        base64.urlsafe_b64encode(b"[" * 1490).decode(),
        base64.urlsafe_b64encode(b'["id",false,"%s","\\ud800"]' % str(ADA.id).encode()).decode(),
    ],
    ids=["text", "not ascii", "padding", "empty list", "null", "another order", "deep", "half"],
)
def test_a_cursor_that_is_none_is_400(client: TestClient, store: Scripted, cursor: str) -> None:
    told = problem(client.get("/users", params={"cursor": cursor}), 400)
    assert told["type"] == "urn:pgroute:malformed-cursor"
    assert store.asked == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=many",
        "sort=first_name;drop",
        "name_prefix=",
        "made_from=2024-01-01T00:00:00",
        "made_before=1969-01-01T00:00:00Z",
        "made_before=1970-01-01T00:00:00%2B05:00",
        "made_from=0001-01-01T00:00:00%2B05:00",
    ],
)
def test_a_search_that_cannot_be_made_is_422(
    client: TestClient, store: Scripted, query: str
) -> None:
    problem(client.get(f"/users?{query}"), 422)
    assert store.asked == []


# Sales


def test_sales_are_summed_over_the_period(client: TestClient, store: Scripted) -> None:
    one, third = Decimal(1), Decimal("0.3333")
    store.answer = Read(
        [
            SalesMonth(date(2024, 1, 1), 2, Decimal("10.10"), one, one, third),
            SalesMonth(date(2024, 2, 1), 1, Decimal("0.20"), one, one, None),
        ],
        "pg2",
    )
    told = client.get("/sales?from=2024-01&to=2024-02").json()
    assert (told["orders"], told["amount"]) == (3, "10.30")
    assert told["months"][0]["share_of_year"] == "0.3333"
    assert told["months"][1]["share_of_year"] is None
    assert store.asked == [(date(2024, 1, 1), date(2024, 2, 1), None)]


def test_amounts_that_are_no_numbers_are_told(client: TestClient, store: Scripted) -> None:
    more, less, none = Decimal("Infinity"), Decimal("-Infinity"), Decimal("NaN")
    store.answer = Read(
        [
            SalesMonth(date(2024, 1, 1), 2, more, more, more, none),
            SalesMonth(date(2024, 2, 1), 1, less, none, none, None),
        ],
        "pg2",
    )
    told = client.get("/sales?from=2024-01&to=2024-02").json()
    assert told["amount"] == "NaN"
    assert [month["amount"] for month in told["months"]] == ["Infinity", "-Infinity"]
    assert told["months"][0]["share_of_year"] == "NaN"


def test_a_row_that_has_no_shape_is_not_logged(
    client: TestClient, store: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    store.answer = Read(User(ADA.id, b"secret-\xff"), "pg2")  # type: ignore[arg-type]
    problem(client.get(f"/users/{ADA.id}"), 500)
    assert "ValidationError" in caplog.text
    assert "secret" not in caplog.text


TODAY = date(2024, 5, 17)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (None, None, (date(2024, 1, 1), date(2024, 12, 1))),
        ("2023-11", None, (date(2023, 11, 1), date(2024, 12, 1))),
        (None, "2023-03", (date(2023, 1, 1), date(2023, 3, 1))),
        ("2015-01", "2024-12", (date(2015, 1, 1), date(2024, 12, 1))),
    ],
)
def test_a_period_not_told_is_this_year(
    first: str | None, last: str | None, expected: tuple[date, date]
) -> None:
    assert api.period(first, last, today=TODAY) == expected


@pytest.mark.parametrize(
    "query", ["from=2024-13", "from=2024-1", "from=2024-02&to=2024-01", "from=2014-12&to=2024-12",
              "from=0000-01", "to=9999-12"],
)  # fmt: skip
def test_a_period_that_is_none_is_422(client: TestClient, store: Scripted, query: str) -> None:
    problem(client.get(f"/sales?{query}"), 422)
    assert store.asked == []


# What is documented


def test_openapi_types_every_answer_and_problem(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            success = answers["201" if method == "post" else "200"]
            assert "$ref" in success["content"]["application/json"]["schema"], path
            for status in ("400", "409", "412", "422", "503", "504"):
                schema = answers[status]["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (path, status)
    assert {"Problem", "UserOut", "UserPage", "Sales"} <= told["components"]["schemas"].keys()
    assert "HTTPValidationError" not in told["components"]["schemas"]
