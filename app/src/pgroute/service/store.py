"""What the requests ask of the database. The only place of the service that uses the router.

A read is one statement: ``AsyncRouter.execute`` finds out where it may run and tries another
server when one fails. A write is a transaction that is tried again as a whole when that is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Generic, TypeVar
from uuid import UUID

from psycopg.rows import class_row

from pgroute import AsyncNodeConnection, AsyncRouter, RoutingError, Token, TokenError, new_key
from pgroute.examples import shop
from pgroute.examples.shop import queries
from pgroute.examples.shop.queries import Query
from pgroute.service.partitions import PARTITIONS, Partition

Value = TypeVar("Value")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Read(Generic[Value]):
    """What was found, and the node that told it."""

    value: Value
    node: str


@dataclass(frozen=True, slots=True)
class Written(Generic[Value]):
    """What was written, where, and the text of the token that stands for it.

    ``token`` is None when the primary was lost before it told its position.
    """

    value: Value
    node: str
    token: str | None


class Store:
    """Users and sales. Raises pgroute's and psycopg's errors."""

    def __init__(self, router: AsyncRouter) -> None:
        self._router = router

    async def user(self, key: UUID, after: Token | None) -> Read[shop.User | None]:
        """The user with this key, from a node that has all that ``after`` stands for."""
        found = await self._read(queries.user_by_id(key), after)
        return Read(next(iter(found.value), None), found.node)

    async def users(
        self,
        wanted: shop.UserFilter,
        after: Token | None,
        *,
        order: shop.UserOrder,
        descending: bool,
        behind: shop.User | None,
        limit: int,
    ) -> Read[shop.Page[shop.User]]:
        """A page of users."""
        query = queries.users(
            wanted, order=order, descending=descending, after=behind, limit=limit + 1
        )
        found = await self._read(query, after)
        return Read(shop.Page.of(found.value, limit), found.node)

    async def sales(
        self, first: date, last: date, after: Token | None
    ) -> Read[list[shop.SalesMonth]]:
        """Sales by month."""
        return await self._read(queries.months(first, last), after)

    async def partitions(self) -> Read[list[Partition]]:
        """Every partition of every partitioned table, from any node that can be read."""
        async with self._router.read() as connection:
            return Read(await _rows(connection, PARTITIONS), connection.node)

    async def add_user(self, first_name: str, key: UUID | None) -> Written[tuple[shop.User, bool]]:
        """The user, and whether it was written now. ValueError: the key has another name."""
        wanted = shop.NewUser(key or new_key(), first_name)

        async def write(connection: AsyncNodeConnection) -> tuple[list[shop.User], bool, str]:
            written = await _rows(connection, queries.insert_user(wanted))
            if written:
                return written, True, connection.node
            found = await _rows(connection, queries.user_by_id(wanted.id))
            return found, False, connection.node

        found, fresh, node = await self._router.transaction(write)
        if not found or found[0].first_name != first_name:
            raise ValueError(f"the key {wanted.id} belongs to another user")
        return Written((found[0], fresh), node, await self._token())

    async def _read(self, query: Query[Row], after: Token | None) -> Read[list[Row]]:
        result = await self._router.execute(query.text.as_string(), query.values, after=after)
        columns = result.columns
        rows = [query.row(**dict(zip(columns, row, strict=True))) for row in result]
        return Read(rows, result.node)

    async def _token(self) -> str | None:
        # What was written stays written, whether or not its token can be told.
        try:
            return str(await self._router.settle(self._router.token()))
        except (RoutingError, TokenError):
            return None


async def _rows(on: AsyncNodeConnection, query: Query[Row]) -> list[Row]:
    async with on.cursor(row_factory=class_row(query.row)) as cursor:
        await cursor.execute(query.text, query.values)
        return await cursor.fetchall()
