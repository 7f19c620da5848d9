"""A small shop: the queries that applications write, each typed and each sent where it belongs.

    with router.read() as connection:                       # a replica
        page = search_users(connection, UserFilter(name_prefix="J"), limit=20)

    with unit_of_work(router) as unit:                      # the primary, one transaction
        user, _ = add_user(unit, "Ada")
        outcomes = add_users(unit, [NewUser(new_key(), "Grace"), NewUser(new_key(), "")])
    with router.read(after=unit.token()) as connection:     # a replica that has them
        find_user(connection, user.id)

Where to look: ``rows`` are the shapes, ``queries`` the SQL (no connection in sight), ``repository``
the functions that run it, ``unit_of_work`` what they join. ``schema.sql`` makes the tables that
the fleet does not have by itself: run it as the owner of the database.
"""

from pgroute.examples.shop.queries import UserFilter, UserOrder
from pgroute.examples.shop.repository import (
    add_category,
    add_sale,
    add_user,
    add_users,
    category_tree,
    find_sample,
    find_user,
    rename_user,
    sales_by_month,
    save_sample,
    search_users,
    top_sales,
)
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
from pgroute.examples.shop.unit_of_work import UnitOfWork, unit_of_work

__all__ = [
    "Category",
    "Mood",
    "NewUser",
    "Outcome",
    "Page",
    "RankedSale",
    "Result",
    "Sale",
    "SalesMonth",
    "Sample",
    "UnitOfWork",
    "User",
    "UserFilter",
    "UserOrder",
    "add_category",
    "add_sale",
    "add_user",
    "add_users",
    "category_tree",
    "find_sample",
    "find_user",
    "rename_user",
    "sales_by_month",
    "save_sample",
    "search_users",
    "top_sales",
    "unit_of_work",
]
