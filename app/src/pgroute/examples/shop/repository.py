"""The functions that an application calls. Each takes a connection or a unit of work.

Those that only read do well with ``Router.read()``; the others want ``Router.write()`` or a unit
of work. None commits: whoever gave the connection does. Errors of the SQL are psycopg's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.enum import EnumInfo, register_enum

from pgroute import NodeConnection, new_key
from pgroute.examples.shop import queries
from pgroute.examples.shop.queries import Query, Row, UserFilter, UserOrder
from pgroute.examples.shop.rows import (
    Category,
    Mood,
    NewUser,
    Outcome,
    Page,
    RankedSale,
    Result,
    Sale,
    SalesMonth,
    Sample,
    User,
)
from pgroute.examples.shop.unit_of_work import UnitOfWork

Place = NodeConnection | UnitOfWork

_EVERYONE = UserFilter()
_NOT_THE_VALUE = (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError)


def _connection(on: Place) -> NodeConnection:
    return on.connection if isinstance(on, UnitOfWork) else on


def rows(on: Place, query: Query[Row]) -> list[Row]:
    """All rows of a query, each in its dataclass."""
    with _connection(on).cursor(row_factory=class_row(query.row)) as cursor:
        return cursor.execute(query.text, query.values).fetchall()


def row(on: Place, query: Query[Row]) -> Row | None:
    """The only row of a query, or None."""
    return next(iter(rows(on, query)), None)


# Users


def find_user(on: Place, key: UUID) -> User | None:
    """The user with this key. Reads."""
    return row(on, queries.user_by_id(key))


def search_users(
    on: Place,
    wanted: UserFilter = _EVERYONE,
    *,
    order: UserOrder = UserOrder.AGE,
    descending: bool = False,
    after: User | None = None,
    limit: int = 50,
) -> Page[User]:
    """A page of at most ``limit`` users, behind ``after``: the last of the page before. Reads."""
    # One more than asked for tells whether there is another page.
    found = rows(
        on,
        queries.users(wanted, order=order, descending=descending, after=after, limit=limit + 1),
    )
    return Page.of(found, limit)


def add_user(on: Place, first_name: str, *, key: UUID | None = None) -> tuple[User, bool]:
    """The user, and whether it was written now. Writes.

    With the same ``key`` and name again, it finds what it wrote: a caller that does not know
    whether the first try got through just tries again. ValueError: the key has another name.
    """
    wanted = NewUser(key or new_key(), first_name)
    written = row(on, queries.insert_user(wanted))
    if written is not None:
        return written, True
    found = row(on, queries.user_by_id(wanted.id))
    if found is None or found.first_name != first_name:
        raise ValueError(f"the key {wanted.id} belongs to another user")
    return found, False


def add_users(on: Place, batch: Sequence[NewUser]) -> list[Outcome]:
    """What became of each, in the order given. Writes all that can be written.

    One statement when nothing is refused; a refused value costs about log2(batch) more, each
    within a savepoint, and harms no other row.
    """
    connection = _connection(on)
    seen: set[UUID] = set()
    outcomes: dict[int, Outcome] = {}

    def attempt(first: int, last: int) -> None:
        part = batch[first:last]
        if not part:
            return
        try:
            with connection.transaction():
                written = {user.id for user in rows(connection, queries.insert_users(part))}
        except _NOT_THE_VALUE as error:
            if len(part) == 1:
                outcomes[first] = Outcome(part[0], Result.REJECTED, _why(error))
                return
            middle = (first + last) // 2
            attempt(first, middle)
            attempt(middle, last)
            return
        for place, user in enumerate(part, first):
            fresh = user.id in written and user.id not in seen
            seen.add(user.id)
            outcomes[place] = Outcome(user, Result.INSERTED if fresh else Result.DUPLICATE)

    attempt(0, len(batch))
    return [outcomes[place] for place in range(len(batch))]


def _why(error: Exception) -> str:
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return said or str(error)


def rename_user(on: Place, key: UUID, first_name: str) -> User | None:
    """The user under the new name, None when there is no such user. Writes."""
    return row(on, queries.update_user(key, first_name))


# Sales


def add_sale(on: Place, sale: Sale) -> Sale:
    """The sale as it was written. Writes."""
    (written,) = rows(on, queries.insert_sale(sale))
    return written


def sales_by_month(on: Place, first: date, last: date) -> list[SalesMonth]:
    """Every month from that of ``first`` to that of ``last``, both whole. Reads."""
    return rows(on, queries.months(first, last))


def top_sales(on: Place, first_year: int, last_year: int, *, places: int = 3) -> list[RankedSale]:
    """The greatest sales of each year. Reads."""
    return rows(on, queries.best_sales(first_year, last_year, places))


# Categories


def add_category(on: Place, name: str, *, parent_id: int | None = None) -> int:
    """The key of the new category. Writes."""
    (made,) = rows(on, queries.insert_category(name, parent_id))
    return made.id


def category_tree(on: Place, root: int | None = None, *, depth: int = 100) -> list[Category]:
    """The categories below ``root`` with itself, or all; parents before children. Reads.

    A row that is its own ancestor is given once and not followed.
    """
    return rows(on, queries.categories(root, depth))


# Types


def _know_types(on: Place) -> Place:
    """Teach the connection shop.mood: one question, the first time it is needed."""
    connection = _connection(on)
    if connection.adapters.types.get("mood") is None:
        info = EnumInfo.fetch(connection, "shop.mood")
        if info is None:
            raise LookupError("there is no type shop.mood: run schema.sql as the owner")
        register_enum(info, connection, Mood, mapping={mood: mood.value for mood in Mood})
    return on


def save_sample(on: Place, sample: Sample) -> Sample:
    """The sample as the server keeps it. Writes."""
    (written,) = rows(_know_types(on), queries.insert_sample(sample))
    return written


def find_sample(on: Place, key: UUID) -> Sample | None:
    """The sample with this key. Reads."""
    return row(_know_types(on), queries.sample_by_id(key))
