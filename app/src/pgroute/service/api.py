"""Users and sales: what applications ask."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation, localcontext
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import AwareDatetime

from pgroute import Token
from pgroute.examples.shop import UserFilter, UserOrder
from pgroute.examples.shop.queries import first_key_of
from pgroute.service import cursors
from pgroute.service.models import NAME_LENGTH, Month, NewUser, Sales, UserOut, UserPage
from pgroute.service.problems import Refusal
from pgroute.service.store import Store

PAGE_ROWS = 200
PERIOD_MONTHS = 120
TOKEN_HEADER = "Consistency-Token"  # noqa: S105 - a header's name
NODE_HEADER = "Served-By"

DESCRIPTION = f"""
Reads go to a replica, writes to the primary.

A write answers with a `{TOKEN_HEADER}`. Send it with a read, and the read is answered by a server
that has that write; without it, a read right after a write may not see it. `{NODE_HEADER}` names
the server that answered. A write whose answer has no token is written all the same: the primary
was lost before it told how far it was.

Errors are `application/problem+json` (RFC 9457). There is no authentication. A body may have
64 KiB, a page {PAGE_ROWS} users, a period {PERIOD_MONTHS} months.
"""


class Sort(StrEnum):
    """By age or by name; with a minus, backwards."""

    AGE = "age"
    AGE_BACKWARDS = "-age"
    NAME = "name"
    NAME_BACKWARDS = "-name"

    @property
    def parts(self) -> tuple[UserOrder, bool]:
        """The order, and whether it is backwards."""
        order = UserOrder.NAME if self.value.endswith("name") else UserOrder.AGE
        return order, self.value.startswith("-")


def after(
    token: Annotated[
        str | None,
        Header(
            alias=TOKEN_HEADER,
            max_length=200,
            description="of an earlier write: the answer will have that write",
        ),
    ] = None,
) -> Token | None:
    """The token of the request, if there is one. MalformedToken when it is none."""
    return None if token is None else Token.parse(token)


After = Annotated[Token | None, Depends(after)]
MonthText = Annotated[
    str | None,
    Query(
        pattern=r"^(19|20|21)[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2024-01"], description="YYYY-MM"
    ),
]
Name = Annotated[str | None, Query(min_length=1, max_length=NAME_LENGTH)]

_TOKEN_OUT = {TOKEN_HEADER: {"schema": {"type": "string"}, "description": "for reads after this"}}
_NODE_OUT = {NODE_HEADER: {"schema": {"type": "string"}, "description": "the node that answered"}}


def routes(store: Store) -> APIRouter:
    """The paths under ``/users`` and ``/sales``."""
    router = APIRouter()

    @router.post(
        "/users",
        status_code=201,
        summary="Add a user",
        responses={
            201: {"description": "Written", "headers": _TOKEN_OUT | _NODE_OUT},
            200: {
                "description": "It was there already, with this key and name",
                "model": UserOut,
                "headers": _TOKEN_OUT | _NODE_OUT,
            },
        },
    )
    async def add_user(user: NewUser, response: Response) -> UserOut:
        try:
            written = await store.add_user(user.first_name, user.id)
        except ValueError as error:
            raise Refusal(409, "key-taken", "The key is taken", str(error)) from error
        found, fresh = written.value
        response.status_code = 201 if fresh else 200
        response.headers["Location"] = f"/users/{found.id}"
        if written.token is not None:
            response.headers[TOKEN_HEADER] = written.token
        response.headers[NODE_HEADER] = written.node
        return UserOut.of(found)

    @router.get(
        "/users/{key}",
        summary="One user",
        responses={
            200: {"headers": _NODE_OUT},
            404: {"description": "The node that answered has no such user"},
        },
    )
    async def user(key: Annotated[UUID, Path()], after: After, response: Response) -> UserOut:
        found = await store.user(key, after)
        if found.value is None:
            hint = "" if after else f"; after a write, send its {TOKEN_HEADER}"
            raise Refusal(404, "no-user", "No such user", f"{found.node} has no user {key}{hint}")
        response.headers[NODE_HEADER] = found.node
        return UserOut.of(found.value)

    @router.get("/users", summary="Search users", responses={200: {"headers": _NODE_OUT}})
    async def users(
        response: Response,
        after: After,
        name_prefix: Name = None,
        name_contains: Name = None,
        made_from: AwareDatetime | None = None,
        made_before: AwareDatetime | None = None,
        sort: Sort = Sort.AGE,
        limit: Annotated[int, Query(ge=1, le=PAGE_ROWS)] = 50,
        cursor: Annotated[
            str | None,
            Query(max_length=cursors.CURSOR_LENGTH, description="`next` of the page before"),
        ] = None,
    ) -> UserPage:
        order, descending = sort.parts
        behind = None
        if cursor is not None:
            try:
                behind = cursors.read(cursor, order, descending)
            except ValueError as error:
                raise Refusal(400, "malformed-cursor", "The cursor is none", str(error)) from error
        for moment in (made_from, made_before):
            _refuse_moment(moment)
        found = await store.users(
            UserFilter(name_prefix, name_contains, made_from, made_before),
            after,
            order=order,
            descending=descending,
            behind=behind,
            limit=limit,
        )
        response.headers[NODE_HEADER] = found.node
        page = found.value
        return UserPage(
            users=[UserOut.of(user) for user in page.rows],
            next=cursors.write(order, descending, page.rows[-1]) if page.more else None,
        )

    @router.get("/sales", summary="Sales by month", responses={200: {"headers": _NODE_OUT}})
    async def sales(
        response: Response,
        after: After,
        first: Annotated[MonthText, Query(alias="from")] = None,
        last: Annotated[MonthText, Query(alias="to")] = None,
    ) -> Sales:
        since, until = period(first, last, today=datetime.now(UTC).date())
        found = await store.sales(since, until, after)
        response.headers[NODE_HEADER] = found.node
        months = [Month.of(month) for month in found.value]
        with localcontext() as as_the_server:
            as_the_server.traps[InvalidOperation] = False  # Infinity - Infinity is NaN
            amount = sum((month.amount for month in months), Decimal(0))
        return Sales(months=months, orders=sum(month.orders for month in months), amount=amount)

    return router


def _refuse_moment(moment: datetime | None) -> None:
    if moment is None:
        return
    try:
        first_key_of(moment)
    except ValueError as error:
        raise Refusal(422, "invalid-request", "The request cannot be used", str(error)) from error


def period(first: str | None, last: str | None, *, today: date) -> tuple[date, date]:
    """The first days of the first and the last month; this year's months when not told.

    Raises Refusal for an empty or too long period.
    """
    until = date.fromisoformat(f"{last}-01") if last else today.replace(month=12, day=1)
    since = date.fromisoformat(f"{first}-01") if first else until.replace(month=1)
    months = (until.year - since.year) * 12 + until.month - since.month + 1
    if not 1 <= months <= PERIOD_MONTHS:
        raise Refusal(
            422,
            "invalid-request",
            "The request cannot be used",
            f"the period has {months} months; it may have 1 to {PERIOD_MONTHS}",
        )
    return since, until
