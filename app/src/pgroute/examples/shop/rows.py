"""What goes in and comes out: one dataclass per shape of row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be written."""

    id: UUID
    first_name: str


@dataclass(frozen=True, slots=True)
class User:
    """A row of tbl_users."""

    id: UUID
    first_name: str


@dataclass(frozen=True, slots=True)
class Sale:
    """A row of sales."""

    order_id: int
    order_date: date
    order_amount: Decimal


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows; ``more`` tells whether others follow, after the last of these."""

    rows: Sequence[Row]
    more: bool

    @classmethod
    def of(cls, found: Sequence[Row], limit: int) -> Page[Row]:
        """The page of ``limit`` rows, made of one row more than that, if there is one."""
        return cls(found[:limit], more=len(found) > limit)


class Result(StrEnum):
    """What became of one row of a batch."""

    INSERTED = "inserted"
    DUPLICATE = "duplicate"  # the key was there already, or earlier in the batch
    REJECTED = "rejected"  # the server, or the way to it, does not take such a value


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one row, in the place of that row; ``why`` is set for rejected ones."""

    user: NewUser
    result: Result
    why: str | None = None


@dataclass(frozen=True, slots=True)
class SalesMonth:
    """One month's sales. A month without sales is there too, with zeros.

    ``running_total`` starts with the first month asked for. ``moving_average`` is that of the
    month and the two before it. ``share_of_year`` is between 0 and 1; None in a year without
    sales.
    """

    month: date
    orders: int
    amount: Decimal
    running_total: Decimal
    moving_average: Decimal
    share_of_year: Decimal | None


@dataclass(frozen=True, slots=True)
class RankedSale:
    """A sale and its place within its year; equal amounts share a place."""

    year: int
    place: int
    order_id: int
    order_date: date
    order_amount: Decimal


@dataclass(frozen=True, slots=True)
class Category:
    """A node of the category tree: ``depth`` is 0 at the root, ``path`` the names down to it."""

    id: int
    parent_id: int | None
    name: str
    depth: int
    path: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", tuple(self.path))  # psycopg gives lists


class Mood(StrEnum):
    """shop.mood, an enum of the database."""

    HAPPY = "happy"
    CALM = "calm"
    GRUMPY = "grumpy"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of each type that is easily lost on the way; everything but the key may be None."""

    id: UUID
    amount: Decimal | None = None
    document: Any = None
    tags: list[str | None] | None = None
    numbers: list[int] | None = None
    mood: Mood | None = None
    happened_at: datetime | None = None
    note: str | None = None
