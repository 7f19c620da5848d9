"""The worked example on real servers: what is written on the primary is read on every node."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from importlib.resources import files

import psycopg
import pytest

from pgroute import PgrouteError, Router, new_key
from pgroute.examples.shop import (
    Mood,
    NewUser,
    Page,
    Result,
    Sale,
    Sample,
    UnitOfWork,
    User,
    UserFilter,
    UserOrder,
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
    unit_of_work,
)
from tests.servers import NAMES, Servers

pytestmark = pytest.mark.integration

SCHEMA = files("pgroute.examples.shop").joinpath("schema.sql").read_text()


@pytest.fixture(scope="module", autouse=True)
def _schema(servers: Servers) -> Iterator[None]:
    servers.sql("pg1", SCHEMA, database="app")
    yield
    servers.sql("pg1", "drop schema shop cascade", database="app")


@pytest.fixture
def _no_sales(servers: Servers) -> Iterator[None]:
    """A table of sales that holds only what the test writes."""
    servers.sql("pg1", "create table kept as table sales; delete from sales", database="app")
    yield
    put_back = "delete from sales; insert into sales table kept; drop table kept"
    servers.sql("pg1", put_back, database="app")


def unique() -> str:
    """A prefix that no other test's users have."""
    return f"Q{new_key().hex}"


# The schema


def test_the_schema_can_be_made_again_and_keeps_what_is_there(
    servers: Servers, router: Router
) -> None:
    with unit_of_work(router) as unit:
        key = add_category(unit, unique())
    servers.sql("pg1", SCHEMA, database="app")
    with router.read(after=unit.token()) as connection:
        assert category_tree(connection, key)


def test_the_writing_role_may_not_change_the_schema(router: Router) -> None:
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        router.write() as connection,
    ):
        connection.execute("create table shop.more (id int)")


def test_everything_in_the_schema_belongs_to_the_owner(servers: Servers) -> None:
    owners = servers.sql(
        "pg1",
        "select distinct relowner::regrole from pg_class where relnamespace = 'shop'::regnamespace",
        database="app",
    )
    assert owners == "app_owner"


# Users: search


def all_pages(ask: Callable[[User | None], Page[User]]) -> list[User]:
    found: list[User] = []
    after: User | None = None
    while True:
        page = ask(after)
        found += page.rows
        if not page.more:
            return found
        after = page.rows[-1]


@pytest.mark.parametrize("order", UserOrder)
@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_every_match_once_in_order_on_every_node(
    router: Router, order: UserOrder, descending: bool
) -> None:
    prefix = unique()
    rng = random.Random(7)
    batch = [NewUser(new_key(), f"{prefix} {rng.choice('abc')}") for _ in range(23)]
    with unit_of_work(router) as unit:
        add_users(unit, batch)
    wanted = UserFilter(name_prefix=prefix.lower())
    expected = sorted(
        (User(user.id, user.first_name) for user in batch),
        key=lambda user: user.id if order is UserOrder.AGE else (user.first_name, user.id),
        reverse=descending,
    )
    for node in NAMES:
        with router.read(node=node, after=unit.token()) as connection:
            found = all_pages(
                lambda after, on=connection: search_users(  # type: ignore[misc]
                    on, wanted, order=order, descending=descending, after=after, limit=5
                )
            )
        assert found == expected, node


def test_the_last_full_page_says_that_there_is_no_more(router: Router) -> None:
    prefix = unique()
    with unit_of_work(router) as unit:
        add_users(unit, [NewUser(new_key(), prefix) for _ in range(4)])
        page = search_users(unit, UserFilter(name_prefix=prefix), limit=4)
    assert (len(page.rows), page.more) == (4, False)


def test_filters_are_combined_and_wildcards_are_plain_text(router: Router) -> None:
    prefix = unique()
    with unit_of_work(router) as unit:
        odd, _ = add_user(unit, f"{prefix} 100%_\\")
        add_user(unit, f"{prefix} 100 per cent")
        assert list(search_users(unit, UserFilter(prefix, "%_\\")).rows) == [odd]
        assert list(search_users(unit, UserFilter(prefix, "nobody")).rows) == []


def test_the_time_of_a_key_bounds_the_search(router: Router) -> None:
    prefix = unique()
    with unit_of_work(router) as unit:
        user, _ = add_user(unit, prefix)
        now = datetime.now(UTC)
        soon, earlier = now + timedelta(hours=1), now - timedelta(hours=1)
        assert list(search_users(unit, UserFilter(prefix, made_from=earlier)).rows) == [user]
        assert list(search_users(unit, UserFilter(prefix, made_before=soon)).rows) == [user]
        assert list(search_users(unit, UserFilter(prefix, made_from=soon)).rows) == []
        assert list(search_users(unit, UserFilter(prefix, made_before=earlier)).rows) == []


# Users: writing


def test_the_same_user_twice_is_written_once(router: Router) -> None:
    key, name = new_key(), unique()
    with unit_of_work(router) as unit:
        assert add_user(unit, name, key=key) == (User(key, name), True)
    with unit_of_work(router) as unit:
        assert add_user(unit, name, key=key) == (User(key, name), False)
        assert len(search_users(unit, UserFilter(name)).rows) == 1


def test_a_key_is_not_given_to_another_name(router: Router) -> None:
    key, name = new_key(), unique()
    with unit_of_work(router) as unit:
        add_user(unit, name, key=key)
        with pytest.raises(ValueError, match=f"{key} belongs to another user"):
            add_user(unit, f"not {name}", key=key)


def test_a_renamed_user_has_the_new_name_and_nobody_else(router: Router) -> None:
    name = unique()
    with unit_of_work(router) as unit:
        one, _ = add_user(unit, name)
        other, _ = add_user(unit, name)
        assert rename_user(unit, one.id, f"{name} B") == User(one.id, f"{name} B")
        assert find_user(unit, other.id) == other
        assert rename_user(unit, new_key(), name) is None


def test_a_batch_has_a_result_for_each_row_in_order(router: Router) -> None:
    name = unique()
    there = NewUser(new_key(), name)
    with unit_of_work(router) as unit:
        add_user(unit, name, key=there.id)
    fresh = [NewUser(new_key(), name) for _ in range(40)]
    too_long = NewUser(new_key(), name + "x" * 255)
    nul = NewUser(new_key(), f"{name}\0")
    surrogate = NewUser(new_key(), f"{name}\ud800")
    nameless = NewUser(new_key(), None)  # type: ignore[arg-type]
    batch = [
        *fresh[:3], there, too_long, *fresh[3:20], nul, fresh[0], surrogate, *fresh[20:], nameless,
    ]  # fmt: skip
    with unit_of_work(router) as unit:
        outcomes = add_users(unit, batch)

    assert [outcome.user for outcome in outcomes] == batch
    by_result = {result: [o.user for o in outcomes if o.result is result] for result in Result}
    assert by_result[Result.INSERTED] == fresh
    assert by_result[Result.DUPLICATE] == [there, fresh[0]]
    assert by_result[Result.REJECTED] == [too_long, nul, surrogate, nameless]
    reasons = [o.why for o in outcomes if o.result is Result.REJECTED]
    for reason, said in zip(reasons, ("too long", "NUL", "surrogates", "null value"), strict=True):
        assert said in (reason or "")
    with router.read(after=unit.token()) as connection:
        found = search_users(connection, UserFilter(name), limit=100).rows
    assert len(found) == len(fresh) + 1


def test_a_key_twice_in_one_batch_is_written_once(router: Router) -> None:
    one, other = NewUser(new_key(), unique()), NewUser(new_key(), unique())
    with unit_of_work(router) as unit:
        outcomes = add_users(unit, [one, other, one])
        assert find_user(unit, one.id) == User(one.id, one.first_name)
    assert [outcome.result for outcome in outcomes] == [
        Result.INSERTED,
        Result.INSERTED,
        Result.DUPLICATE,
    ]


def test_an_empty_batch_is_nothing(router: Router) -> None:
    with unit_of_work(router) as unit:
        assert add_users(unit, []) == []


# The unit of work


def add_two_and_one_too_long(within: Router | UnitOfWork, name: str, called: list[str]) -> None:
    with unit_of_work(within) as unit:
        unit.after_commit(lambda: called.append("undone"))
        add_user(unit, name)
        add_user(unit, name)
        add_user(unit, name + "x" * 255)


def test_a_failed_unit_leaves_nothing(router: Router) -> None:
    name = unique()
    called: list[str] = []
    with pytest.raises(psycopg.DataError):
        add_two_and_one_too_long(router, name, called)
    assert called == []
    with router.write() as connection:
        assert list(search_users(connection, UserFilter(name)).rows) == []


def test_a_failed_inner_unit_leaves_the_outer_one_whole(router: Router) -> None:
    name = unique()
    called: list[str] = []
    with unit_of_work(router) as outer:
        kept, _ = add_user(outer, name)
        outer.after_commit(lambda: called.append("outer"))
        with pytest.raises(psycopg.DataError):
            add_two_and_one_too_long(outer, name, called)
        with unit_of_work(outer) as inner:
            inner.after_commit(lambda: called.append("inner"))
            also, _ = add_user(inner, name)
        assert called == []
    assert called == ["outer", "inner"]
    with router.read(after=outer.token()) as connection:
        assert list(search_users(connection, UserFilter(name)).rows) == [kept, also]


def test_an_inner_unit_that_is_rolled_back_without_an_error_calls_nothing(router: Router) -> None:
    called: list[str] = []
    with unit_of_work(router) as outer:
        with unit_of_work(outer) as inner:
            inner.after_commit(lambda: called.append("undone"))
            raise psycopg.Rollback
        outer.after_commit(lambda: called.append("outer"))
    assert called == ["outer"]


def test_a_unit_has_no_token_before_its_commit(router: Router) -> None:
    with unit_of_work(router) as unit, pytest.raises(PgrouteError, match="once it is committed"):
        unit.token()


# Sales

WRITTEN = [
    Sale(1, date(2023, 11, 5), Decimal("30.00")),
    Sale(2, date(2023, 12, 24), Decimal("60.00")),
    Sale(3, date(2024, 1, 31), Decimal("10.00")),
    Sale(4, date(2024, 2, 29), Decimal("20.00")),
    Sale(5, date(2024, 2, 1), Decimal("20.00")),
    Sale(6, date(2024, 4, 1), Decimal("50.00")),
    Sale(7, date(2024, 12, 31), Decimal("100.00")),
]


@pytest.fixture
def _sales(_no_sales: None, router: Router) -> None:
    with unit_of_work(router) as unit:
        for sale in WRITTEN:
            assert add_sale(unit, sale) == sale
    for node in NAMES:
        with router.read(node=node, after=unit.token(), token_timeout=10):
            pass


@pytest.mark.usefixtures("_sales")
@pytest.mark.parametrize("node", NAMES)
def test_sales_per_month_with_total_average_and_share(router: Router, node: str) -> None:
    with router.read(node=node) as connection:
        found = sales_by_month(connection, date(2024, 1, 15), date(2024, 4, 2))
    assert [(m.month.month, m.orders, m.amount, m.running_total) for m in found] == [
        (1, 1, Decimal(10), Decimal(10)),
        (2, 2, Decimal(40), Decimal(50)),
        (3, 0, Decimal(0), Decimal(50)),
        (4, 1, Decimal(50), Decimal(100)),
    ]
    # The average of January knows November and December; the shares know the whole year.
    assert [m.moving_average for m in found] == [
        Decimal("33.33"), Decimal("36.67"), Decimal("16.67"), Decimal("30.00"),
    ]  # fmt: skip
    assert [m.share_of_year for m in found] == [
        Decimal("0.0500"), Decimal("0.2000"), Decimal("0.0000"), Decimal("0.2500"),
    ]  # fmt: skip


@pytest.mark.usefixtures("_no_sales")
def test_months_without_any_sale_are_zero_and_have_no_share(router: Router) -> None:
    with router.write() as connection:
        found = sales_by_month(connection, date(2024, 12, 1), date(2025, 1, 1))
    assert [(m.month, m.orders, m.amount, m.share_of_year) for m in found] == [
        (date(2024, 12, 1), 0, Decimal(0), None),
        (date(2025, 1, 1), 0, Decimal(0), None),
    ]


@pytest.mark.usefixtures("_sales")
@pytest.mark.parametrize("node", NAMES)
def test_the_best_sales_of_each_year_share_places_when_equal(router: Router, node: str) -> None:
    with router.read(node=node) as connection:
        found = top_sales(connection, 2023, 2024, places=3)
    assert [(sale.year, sale.place, sale.order_id) for sale in found] == [
        (2023, 1, 2), (2023, 2, 1), (2024, 1, 7), (2024, 2, 6), (2024, 3, 4), (2024, 3, 5),
    ]  # fmt: skip


# Categories


@pytest.mark.parametrize("node", NAMES)
def test_the_category_tree_gives_parents_before_children(router: Router, node: str) -> None:
    name = unique()
    with unit_of_work(router) as unit:
        root = add_category(unit, name)
        shoes = add_category(unit, "shoes", parent_id=root)
        books = add_category(unit, "books", parent_id=root)
        novels = add_category(unit, "novels", parent_id=books)
    with router.read(node=node, after=unit.token(), token_timeout=10) as connection:
        tree = category_tree(connection, root)
        shallow = category_tree(connection, root, depth=1)
        forest = category_tree(connection)
    assert [(c.id, c.parent_id, c.depth, c.path) for c in tree] == [
        (root, None, 0, (name,)),
        (books, root, 1, (name, "books")),
        (novels, books, 2, (name, "books", "novels")),
        (shoes, root, 1, (name, "shoes")),
    ]
    assert [c.id for c in shallow] == [root, books, shoes]
    assert [c for c in forest if c.path[0] == name] == tree


def test_a_category_that_is_its_own_ancestor_is_followed_once(router: Router) -> None:
    with unit_of_work(router) as unit:
        root = add_category(unit, unique())
        child = add_category(unit, "child", parent_id=root)
        unit.connection.execute(
            "update shop.categories set parent_id = %s where id = %s", (child, root)
        )
        assert [c.id for c in category_tree(unit, root)] == [root, child]


# Types

SAMPLES = [
    Sample(new_key()),
    Sample(
        new_key(),
        amount=Decimal("99999999999999.999999"),
        document={"a": [1, 2.5, None, "ü"], "b": {"c": True}},
        tags=["one", 'two "quoted", {braced}', "", "NULL", None],
        numbers=[-(2**31), 0, 2**31 - 1],
        mood=Mood.CALM,
        happened_at=datetime(2024, 2, 29, 23, 59, 59, 999_999, timezone(timedelta(hours=5.5))),
        note="\\ \t\n 'x' ü 🐘",
    ),
    Sample(
        new_key(),
        amount=Decimal("-0.000001"),
        document=[],
        tags=[],
        numbers=[],
        mood=Mood.GRUMPY,
        happened_at=datetime(1, 1, 2, tzinfo=UTC),
        note="",
    ),
    Sample(new_key(), amount=Decimal("NaN"), document=False),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=["nulls", "full", "empty", "not a number"])
@pytest.mark.parametrize("node", NAMES)
def test_every_type_comes_back_as_it_was_written(router: Router, node: str, sample: Sample) -> None:
    sample = Sample(new_key(), *[getattr(sample, f) for f in list(Sample.__slots__)[1:]])
    with unit_of_work(router) as unit:
        written = save_sample(unit, sample)
    with router.read(node=node, after=unit.token(), token_timeout=10) as connection:
        found = find_sample(connection, sample.id)
        assert find_sample(connection, new_key()) is None
    # As text: a Decimal that is no number equals nothing, and 1.0 would equal 1.
    assert repr(written) == repr(found)
    assert found is not None
    assert isinstance(found.mood, Mood | None)
    assert found.happened_at == sample.happened_at
    assert (found.document, found.tags, found.numbers, found.mood, found.note) == (
        sample.document, sample.tags, sample.numbers, sample.mood, sample.note,
    )  # fmt: skip
    if sample.amount is None or sample.amount.is_nan():
        assert str(found.amount) == str(sample.amount)
    else:
        assert found.amount == sample.amount
