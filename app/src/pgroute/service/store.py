"""What the requests ask of the database. The only place of the service that uses the router.

The repository's functions are blocking, so each call runs in a thread of its own; how many at
once is limited by the event loop's pool of threads and by the router's pools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Generic, TypeVar
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from pgroute import NodeConnection, Router, Token
from pgroute.examples import shop
from pgroute.examples.shop.repository import rows
from pgroute.service.partitions import PARTITIONS, Partition

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Read(Generic[Value]):
    """What was found, and the node that told it."""

    value: Value
    node: str


@dataclass(frozen=True, slots=True)
class Written(Generic[Value]):
    """What was written, where, and the text of the token that stands for it."""

    value: Value
    node: str
    token: str


class Store:
    """Users and sales. Raises pgroute's and psycopg's errors."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def user(self, key: UUID, after: Token | None) -> Read[shop.User | None]:
        """The user with this key, from a node that has all that ``after`` stands for."""
        return await self._read(lambda on: shop.find_user(on, key), after)

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
        return await self._read(
            lambda on: shop.search_users(
                on, wanted, order=order, descending=descending, after=behind, limit=limit
            ),
            after,
        )

    async def sales(
        self, first: date, last: date, after: Token | None
    ) -> Read[list[shop.SalesMonth]]:
        """Sales by month."""
        return await self._read(lambda on: shop.sales_by_month(on, first, last), after)

    async def partitions(self) -> Read[list[Partition]]:
        """Every partition of every partitioned table."""
        return await self._read(lambda on: rows(on, PARTITIONS), None)

    async def add_user(self, first_name: str, key: UUID | None) -> Written[tuple[shop.User, bool]]:
        """The user, and whether it was written now. ValueError: the key has another name."""

        def write() -> Written[tuple[shop.User, bool]]:
            with shop.unit_of_work(self._router) as unit:
                value = shop.add_user(unit, first_name, key=key)
            return Written(value, unit.connection.node, str(unit.token()))

        return await run_in_threadpool(write)

    async def _read(
        self, ask: Callable[[NodeConnection], Value], after: Token | None
    ) -> Read[Value]:
        def read() -> Read[Value]:
            with self._router.read(after=after) as connection:
                return Read(ask(connection), connection.node)

        return await run_in_threadpool(read)
