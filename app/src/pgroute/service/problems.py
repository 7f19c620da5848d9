"""Errors as answers: ``application/problem+json`` (RFC 9457), each in one sentence."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from pgroute import errors
from pgroute.observing.logs import kind_of

_log = logging.getLogger("pgroute")
MEDIA_TYPE = "application/problem+json"
_RETRY_SECONDS = "1"


class Wrong(BaseModel):
    """One part of a request that cannot be used."""

    where: str = Field(description="such as body.first_name or query.limit")
    what: str


class Problem(BaseModel):
    """What went wrong. ``type`` names the kind and stays the same; ``detail`` is for people."""

    type: str = Field(description="urn:pgroute:...; one per kind of problem")
    title: str
    status: int
    detail: str = Field(description="one sentence that names the node and the limit")
    errors: list[Wrong] | None = Field(default=None, description="of a request that cannot be used")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one class of exceptions is answered."""

    status: int
    name: str
    title: str
    tell: bool = True  # whether the exception's own words are fit to be sent


# The first that matches counts.
_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (errors.MalformedToken, Kind(400, "malformed-token", "The consistency token is none")),
    (errors.ForeignToken, Kind(409, "foreign-token", "The token is another cluster's")),
    (errors.TokenUnproven, Kind(412, "unproven-token", "The token's write may have been lost")),
    (errors.DeadlineExceeded, Kind(504, "deadline", "The database did not answer in time")),
    (errors.CommitUnknown, Kind(504, "commit-unknown", "Whether it was written is unknown")),
    (errors.SplitBrain, Kind(503, "split-brain", "Two servers claim to be the primary")),
    (errors.NoPrimary, Kind(503, "no-primary", "There is nowhere to write")),
    (errors.RoutingError, Kind(503, "no-node", "No server can serve this now")),
    (errors.RouterClosed, Kind(503, "closing", "The service is closing")),
    (psycopg.DataError, Kind(422, "invalid-value", "The database does not take this value")),
    (
        psycopg.OperationalError,
        Kind(503, "connection", "The database's connection was lost", False),
    ),
    (Exception, Kind(500, "internal", "An error of the service", False)),
)

# Of a server's errors, by the beginning of their SQLSTATE; psycopg has no classes for these groups.
_STATES: dict[str, Kind] = {
    "25006": Kind(503, "no-primary", "There is nowhere to write", False),
    "40": Kind(503, "conflict", "Another change was in the way: try again", False),
    "53": Kind(503, "full", "The database has no room for it now", False),
    "55P03": Kind(503, "conflict", "Another change was in the way: try again", False),
    "57014": Kind(504, "deadline", "The database did not answer in time"),
}

_TITLES = {404: "Not found", 405: "Method not allowed"}

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {
        "model": Problem,
        "description": title,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, title in (
        (400, "A token or cursor that is none"),
        (409, "A token of another cluster, or a key that is taken"),
        (412, "A token whose write may have been lost in a failover"),
        (413, "A body that is too long"),
        (422, "A request that cannot be used"),
        (503, "No server can serve this now"),
        (504, "The database did not answer in time"),
    )
}


class Refusal(Exception):
    """Raised by a handler that knows its problem."""

    def __init__(self, status: int, name: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(
            type=f"urn:pgroute:{name}", title=title, status=status, detail=detail
        )


def answer(problem: Problem, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that tells a problem."""
    more = {"Retry-After": _RETRY_SECONDS} if problem.status == 503 else {}
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={**more, **(headers or {})},
    )


def describe(error: Exception) -> Problem:
    """The problem of an exception."""
    kind = _kind_of(error)
    said = " ".join(str(error).split()) if kind.tell else ""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("pgroute: ")]
    where = "".join(f" ({note.removeprefix('pgroute: ')})" for note in notes)
    return Problem(
        type=f"urn:pgroute:{kind.name}",
        title=kind.title,
        status=kind.status,
        detail=f"{said or kind.title}{where}",
    )


def _kind_of(error: Exception) -> Kind:
    if isinstance(error, psycopg.Error):
        state = error.sqlstate or ""
        kind = _STATES.get(state) or _STATES.get(state[:2])
        if kind is not None:
            return kind
    return next(kind for type_, kind in _KINDS if isinstance(error, type_))


def install(app: FastAPI) -> None:
    """Answer every exception that a handler of ``app`` may raise with its problem."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return answer(error.problem)

    @app.exception_handler(RequestValidationError)
    async def unusable(_: Request, error: RequestValidationError) -> JSONResponse:
        wrong = [
            Wrong(where=".".join(str(part) for part in one["loc"]), what=one["msg"])
            for one in error.errors()
        ]
        first = f"{wrong[0].where}: {wrong[0].what}" if wrong else "the request"
        return answer(
            Problem(
                type="urn:pgroute:invalid-request",
                title="The request cannot be used",
                status=422,
                detail=first,
                errors=wrong,
            )
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        title = _TITLES.get(error.status_code, str(error.detail))
        return answer(
            Problem(
                type="about:blank",
                title=title,
                status=error.status_code,
                detail=f"{request.method} {request.url.path}: {error.detail}",
            ),
            headers=error.headers,
        )

    @app.exception_handler(errors.PgrouteError)
    @app.exception_handler(psycopg.Error)
    async def known(request: Request, error: Exception) -> JSONResponse:
        return failed(request, error)


def failed(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that an exception has ended; logged when nobody foresaw it."""
    problem = describe(error)
    if problem.status == 500:
        if isinstance(error, psycopg.Error | ValidationError):  # its words may hold a row
            _log.error("%s %s: %s", request.method, request.url.path, kind_of(error))
        else:
            _log.error("%s %s: %r", request.method, request.url.path, error, exc_info=error)
    return answer(problem)
