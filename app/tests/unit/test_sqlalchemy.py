"""SQLAlchemy's engines without servers: what they take, and how statements are told apart."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    BindParameter,
    Column,
    Integer,
    MetaData,
    Sequence,
    Table,
    TypeDecorator,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import NullType

from pgroute import ConfigurationError, UnknownContract
from pgroute.integrations.sqlalchemy import AsyncEngines, Engines, RoutedSession
from pgroute.statements import Route

USERS = Table("users", MetaData(), Column("id", Integer))
IDS: BindParameter[Any] = bindparam("ids", expanding=True)


class Router:
    """Notes the texts that it is asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def session(self, **_: Any) -> object:
        return object()

    def lane(self, sql: str) -> Route:
        self.asked.append(sql)
        return Route.REPLICA if sql.lower().startswith("select") else Route.PRIMARY


@pytest.fixture
def router() -> Router:
    return Router()


def test_texts_are_asked_about_as_psycopg_gets_them(router: Router) -> None:
    engines = Engines(router)
    assert engines.may_read(select(USERS.c.id).where(USERS.c.id == 7))
    assert engines.may_read(select(func.count()).where(USERS.c.id.in_([1, 2])))
    assert engines.may_read(text("select 1 where :a = 1"))
    assert engines.may_read(select(USERS.c.id).where(USERS.c.id.in_(IDS)))
    assert engines.may_read(text("select 1 where 1 in :ids").bindparams(IDS))
    assert not engines.may_read(text("update users set id = 1"))
    assert [" ".join(sql.split()) for sql in router.asked] == [
        "SELECT users.id FROM users WHERE users.id = %(id_1)s::INTEGER",
        "SELECT count(*) AS count_1 FROM users WHERE users.id IN (%(id_1)s)",
        "select 1 where %(a)s = 1",
        "SELECT users.id FROM users WHERE users.id IN (%(ids)s)",
        "select 1 where 1 in (%(ids)s)",
        "update users set id = 1",
    ]


class Wrapped(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        return func.nextval(bindparam)


def test_what_a_type_puts_around_each_value_is_asked_about(router: Router) -> None:
    wrapped = bindparam("ids", expanding=True, type_=Wrapped())
    assert Engines(router).may_read(select(USERS.c.id).where(USERS.c.id.in_(wrapped)))
    (asked,) = router.asked
    assert "nextval(%(ids)s)" in asked


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize(
    "statement",
    [
        insert(Person),
        insert(Person).returning(Person),
        postgresql.insert(Person).on_conflict_do_nothing(),
        update(USERS).values(id=1),
        Sequence("numbers"),
        CreateTable(USERS),
        select(Column("none", NullType()).cast(NullType())),
    ],
    ids=["insert", "returning", "upsert", "update", "sequence", "no shape", "no text"],
)
def test_what_has_no_text_to_ask_about_is_no_read(router: Router, statement: Any) -> None:
    assert not Engines(router).may_read(statement)
    assert router.asked == []


def test_a_shape_is_compiled_once_and_asked_about_each_time(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Engines(router)
    assert engines.may_read(select(USERS).where(USERS.c.id == 1))

    def compile_again(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    again = select(USERS).where(USERS.c.id == 2)
    monkeypatch.setattr(type(again), "compile", compile_again)
    assert engines.may_read(again)
    assert len(router.asked) == 2


@pytest.mark.parametrize("kind", [Engines, AsyncEngines])
def test_options_of_an_engine_reach_it(router: Router, kind: type[Engines]) -> None:
    engines = kind(router, hide_parameters=True, execution_options={"logging_token": "here"})
    for engine in (engines.sync_write, engines.sync_read):
        assert engine.hide_parameters
        assert engine.get_execution_options()["logging_token"] == "here"  # noqa: S105


@pytest.mark.parametrize("name", ["pool_size", "poolclass", "connect_args", "json_serializer"])
def test_options_of_connections_are_refused(router: Router, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: connections are made and kept"):
        Engines(router, **{name: 1})


@pytest.mark.parametrize("name", ["maxlag", "wait", "pgroute_max_lag"])
def test_a_contract_of_a_session_that_is_misspelt_is_refused(router: Router, name: str) -> None:
    with pytest.raises(UnknownContract, match=f"{name} is no part of a contract"):
        Engines(router).sessionmaker(contract={"pgroute_contract": "strong", name: "1s"})()


@pytest.mark.parametrize("name", ["contract", "pgroute_contract"])
def test_a_session_s_contract_goes_by_two_names(router: Router, name: str) -> None:
    session = RoutedSession(engines=Engines(router), contract={name: "strong", "max_lag": "1s"})
    assert session._contract == {"pgroute_contract": "strong", "max_lag": "1s"}
