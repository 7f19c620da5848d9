"""The SQL, as values: a statement, its parameters and the shape of its rows. No connection here.

Values are always bound, never part of the text; names of columns that depend on the caller come
from an enum and pass through ``psycopg.sql``. So the text of a query has few variants, and each is
planned, cached and classified once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from pgroute.examples.shop.rows import (
    Category,
    NewUser,
    RankedSale,
    Sale,
    SalesMonth,
    Sample,
    User,
)

Row = TypeVar("Row")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Query(Generic[Row]):
    """A statement ready to run; ``row`` is the dataclass its columns fill."""

    text: sql.SQL | sql.Composed
    row: type[Row]
    values: Mapping[str, object] = field(default_factory=dict)


# Users


class UserOrder(StrEnum):
    """What users are sorted by; the key decides between equals."""

    AGE = "id"  # a UUIDv7 grows with time
    NAME = "first_name"


@dataclass(frozen=True, slots=True)
class UserFilter:
    """All that is set must hold. Names are compared without regard to case."""

    name_prefix: str | None = None
    name_contains: str | None = None
    made_from: datetime | None = None
    made_before: datetime | None = None


def first_key_of(moment: datetime) -> UUID:
    """The smallest UUIDv7 (RFC 9562) made then or later; ValueError without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone")
    milliseconds = -((_EPOCH - moment) // timedelta(milliseconds=1))  # rounded up
    if not 0 <= milliseconds < 1 << 48:
        raise ValueError(f"{moment.isoformat()} cannot be the time of a UUIDv7")
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62)


def user_by_id(key: UUID) -> Query[User]:
    """One user, found in the one partition that can hold it."""
    return Query(
        sql.SQL("select id, first_name from tbl_users where id = %(id)s"), User, {"id": key}
    )


def users(
    wanted: UserFilter,
    *,
    order: UserOrder = UserOrder.AGE,
    descending: bool = False,
    after: User | None = None,
    limit: int,
) -> Query[User]:
    """At most ``limit`` users that match, beginning behind ``after`` (keyset pagination).

    A row written meanwhile shifts nothing. By age every page costs the same; by name it would
    with an index on (first_name, id). The order must be that of the page before.
    """
    conditions, values = _user_conditions(wanted)
    names = ["id"] if order is UserOrder.AGE else ["first_name", "id"]
    columns = [sql.Identifier(name) for name in names]
    if after is not None:
        condition = sql.SQL("({}) < ({})" if descending else "({}) > ({})").format(
            sql.SQL(", ").join(columns),
            sql.SQL(", ").join(sql.Placeholder(f"after_{name}") for name in names),
        )
        conditions.append(condition)
        values |= {f"after_{name}": getattr(after, name) for name in names}
    direction = sql.SQL(" desc" if descending else " asc")
    text = sql.SQL("select id, first_name from tbl_users{} order by {} limit %(limit)s").format(
        sql.SQL(" where ") + sql.SQL(" and ").join(conditions) if conditions else sql.SQL(""),
        sql.SQL(", ").join(c + direction for c in columns),
    )
    return Query(text, User, {**values, "limit": limit})


def _user_conditions(wanted: UserFilter) -> tuple[list[sql.Composable], dict[str, object]]:
    conditions: list[sql.Composable] = []
    values: dict[str, object] = {}
    # starts_with and strpos know no wildcards: nothing has to be escaped.
    if wanted.name_prefix is not None:
        conditions.append(sql.SQL("starts_with(lower(first_name), lower(%(prefix)s::text))"))
        values["prefix"] = wanted.name_prefix
    if wanted.name_contains is not None:
        conditions.append(sql.SQL("strpos(lower(first_name), lower(%(part)s::text)) > 0"))
        values["part"] = wanted.name_contains
    if wanted.made_from is not None:
        conditions.append(sql.SQL("id >= %(made_from)s"))
        values["made_from"] = first_key_of(wanted.made_from)
    if wanted.made_before is not None:
        conditions.append(sql.SQL("id < %(made_before)s"))
        values["made_before"] = first_key_of(wanted.made_before)
    return conditions, values


def insert_user(user: NewUser) -> Query[User]:
    """Gives the user when it was written, no row when its key is there already."""
    return Query(
        sql.SQL(
            "insert into tbl_users (id, first_name) values (%(id)s, %(name)s) "
            "on conflict (id) do nothing returning id, first_name"
        ),
        User,
        {"id": user.id, "name": user.first_name},
    )


def insert_users(batch: Sequence[NewUser]) -> Query[User]:
    """Gives those that were written, in one statement however many there are."""
    return Query(
        sql.SQL(
            "insert into tbl_users (id, first_name) "
            "select id, first_name "
            "from unnest(%(ids)s::uuid[], %(names)s::text[]) with ordinality "
            "  as batch (id, first_name, place) "
            "order by place "
            "on conflict (id) do nothing returning id, first_name"
        ),
        User,
        {"ids": [user.id for user in batch], "names": [user.first_name for user in batch]},
    )


def update_user(key: UUID, name: str) -> Query[User]:
    """Gives the user as it is now, no row when there is none."""
    return Query(
        sql.SQL(
            "update tbl_users set first_name = %(name)s where id = %(id)s returning id, first_name"
        ),
        User,
        {"id": key, "name": name},
    )


# Sales


def insert_sale(sale: Sale) -> Query[Sale]:
    """Gives the sale as it was written."""
    return Query(
        sql.SQL(
            "insert into sales (order_id, order_date, order_amount) "
            "values (%(id)s, %(date)s, %(amount)s) returning order_id, order_date, order_amount"
        ),
        Sale,
        {"id": sale.order_id, "date": sale.order_date, "amount": sale.order_amount},
    )


_MONTHS = sql.SQL("""
with months as (
    select month::date
    from generate_series(%(from)s::timestamp, %(to)s::timestamp, interval '1 month') as month
), summed as (
    select date_trunc('month', order_date::timestamp)::date as month,
           count(*) as orders, coalesce(sum(order_amount), 0) as amount
    from sales
    where order_date >= %(from)s and order_date < %(to)s
    group by 1
), filled as (
    select month, coalesce(orders, 0) as orders, coalesce(amount, 0) as amount
    from months left join summed using (month)
), compared as (
    select month, orders, amount,
           avg(amount) over (order by month rows between 2 preceding and current row) as average,
           amount / nullif(sum(amount) over (partition by extract(year from month)), 0) as share
    from filled
)
select month, orders, amount,
       sum(amount) over (order by month) as running_total,
       round(average, 2) as moving_average,
       round(share, 4) as share_of_year
from compared
where month between %(first)s and %(last)s
order by month
""")


def months(first: date, last: date) -> Query[SalesMonth]:
    """Every month from that of ``first`` to that of ``last``, both whole."""
    first, last = first.replace(day=1), last.replace(day=1)
    # The whole years for the shares, two months more for the average.
    return Query(
        _MONTHS,
        SalesMonth,
        {
            "first": first,
            "last": last,
            "from": min(_months_before(first, 2), date(first.year, 1, 1)),
            "to": date(last.year + 1, 1, 1),
        },
    )


def _months_before(month: date, count: int) -> date:
    years, index = divmod(month.year * 12 + month.month - 1 - count, 12)
    return date(years, index + 1, 1)


def best_sales(first_year: int, last_year: int, places: int) -> Query[RankedSale]:
    """The ``places`` greatest sales of each year, more when amounts are equal."""
    return Query(
        sql.SQL("""
with ranked as (
    select extract(year from order_date)::int as year, order_id, order_date, order_amount,
           rank() over (
               partition by extract(year from order_date) order by order_amount desc
           ) as place
    from sales
    where order_date >= %(from)s and order_date < %(to)s and order_amount is not null
)
select year, place, order_id, order_date, order_amount
from ranked
where place <= %(places)s
order by year, place, order_id
"""),
        RankedSale,
        {"from": date(first_year, 1, 1), "to": date(last_year + 1, 1, 1), "places": places},
    )


# Categories


@dataclass(frozen=True, slots=True)
class NewId:
    """The key that the server gave."""

    id: int


def insert_category(name: str, parent_id: int | None) -> Query[NewId]:
    """Gives the key of the new category."""
    return Query(
        sql.SQL(
            "insert into shop.categories (parent_id, name) values (%(parent)s, %(name)s) "
            "returning id"
        ),
        NewId,
        {"parent": parent_id, "name": name},
    )


def categories(root: int | None, depth: int) -> Query[Category]:
    """The tree below ``root`` (None: all trees), parents before children, ``depth`` levels."""
    start = sql.SQL("parent_id is null" if root is None else "id = %(root)s")
    return Query(
        sql.SQL("""
with recursive tree (id, parent_id, name, depth, path) as (
    select id, parent_id, name, 0, array[name]
    from shop.categories where {}
    union all
    select child.id, child.parent_id, child.name, tree.depth + 1, tree.path || child.name
    from shop.categories as child join tree on child.parent_id = tree.id
    where tree.depth < %(depth)s
) cycle id set is_cycle using visited
select id, parent_id, name, depth, path from tree where not is_cycle order by path, id
""").format(start),
        Category,
        {"root": root, "depth": depth},
    )


# Types

_SAMPLE_COLUMNS = sql.SQL("id, amount, document, tags, numbers, mood, happened_at, note")


def insert_sample(sample: Sample) -> Query[Sample]:
    """Gives the row as the server keeps it."""
    return Query(
        sql.SQL(
            "insert into shop.samples ({columns}) values (%(id)s, %(amount)s, %(document)s, "
            "%(tags)s, %(numbers)s, %(mood)s::shop.mood, %(happened_at)s, %(note)s) "
            "returning {columns}"
        ).format(columns=_SAMPLE_COLUMNS),
        Sample,
        {
            "id": sample.id,
            "amount": sample.amount,
            # None is SQL's NULL; JSON's null would be Jsonb(None).
            "document": None if sample.document is None else Jsonb(sample.document),
            "tags": sample.tags,
            "numbers": sample.numbers,
            "mood": sample.mood,
            "happened_at": sample.happened_at,
            "note": sample.note,
        },
    )


def sample_by_id(key: UUID) -> Query[Sample]:
    """One row with every type."""
    return Query(
        sql.SQL("select {} from shop.samples where id = %(id)s").format(_SAMPLE_COLUMNS),
        Sample,
        {"id": key},
    )
