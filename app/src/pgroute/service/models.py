"""The shapes of requests and answers, as OpenAPI tells them."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pgroute import created_at
from pgroute.examples.shop import SalesMonth, User

NAME_LENGTH = 255
# A numeric of PostgreSQL may be NaN, and from 14 on infinite.
Amount = Annotated[Decimal, Field(allow_inf_nan=True)]


class NewUser(BaseModel):
    """A user to be written."""

    model_config = ConfigDict(extra="forbid")

    first_name: str = Field(min_length=1, max_length=NAME_LENGTH, examples=["Ada"])
    id: UUID | None = Field(
        default=None,
        description="a UUIDv7 of the caller's: the same request can then be sent again safely",
    )

    @field_validator("id")
    @classmethod
    def _has_a_time(cls, key: UUID | None) -> UUID | None:
        if key is not None:
            created_at(key)
        return key

    @field_validator("first_name")
    @classmethod
    def _can_be_stored(cls, name: str) -> str:
        if "\0" in name:
            raise ValueError("PostgreSQL stores no NUL")
        return name


class UserOut(BaseModel):
    """A user."""

    id: UUID
    first_name: str
    created_at: datetime | None = Field(description="read from the key; null: it holds none")

    @classmethod
    def of(cls, user: User) -> UserOut:
        """As the API tells it."""
        try:
            made = created_at(user.id)
        except ValueError:
            made = None  # another program's key
        return cls(id=user.id, first_name=user.first_name, created_at=made)


class UserPage(BaseModel):
    """Some users; ``next`` is the cursor of the page behind them, null when there is none."""

    users: list[UserOut]
    next: str | None


class Month(BaseModel):
    """One month's sales; amounts are decimal numbers in strings, "NaN" among them."""

    month: date = Field(description="its first day")
    orders: int
    amount: Amount
    running_total: Amount = Field(description="since the first month asked for")
    moving_average: Amount = Field(description="of this month and the two before it")
    share_of_year: Amount | None = Field(description="0 to 1; null in a year without sales")

    @classmethod
    def of(cls, month: SalesMonth) -> Month:
        """As the API tells it."""
        return cls.model_validate(month, from_attributes=True)


class Sales(BaseModel):
    """Sales of a period, by month; months without sales are there too."""

    months: list[Month]
    orders: int
    amount: Amount


class NodeOut(BaseModel):
    """One server as the router sees it."""

    name: str
    address: str
    role: str = Field(description="primary, replica, fenced, foreign or unknown")
    healthy: bool
    state: str = Field(description="a few words")
    timeline: int | None
    lag_bytes: int | None = Field(description="null: not known, which is not zero")
    lag_seconds: float | None = Field(description="how old its data are at most; null: not known")
    in_use: bool = Field(description="whether requests are sent to it now")
    breaker: str = Field(description="closed, open or half_open")


class TopologyOut(BaseModel):
    """Who is what, as of the router's last look."""

    system_identifier: str | None = Field(description="a string: it exceeds 2^53")
    timeline: int
    primary: str | None
    replicas: list[str] = Field(description="the healthy ones")
    problem: str | None = Field(description="why there is no primary, in one sentence")
    split: list[str] = Field(description="writable servers between which it cannot be decided")
    nodes: list[NodeOut]
