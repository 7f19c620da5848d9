"""SQLAlchemy's engines without servers: what they take, and how statements are told apart."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, select, text, update

from pgroute import ConfigurationError
from pgroute.integrations.sqlalchemy import AsyncEngines, Engines
from pgroute.statements import Route

USERS = Table("users", MetaData(), Column("id", Integer))


class Router:
    """Notes the texts that it is asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

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
    assert not engines.may_read(update(USERS).values(id=1))
    assert [" ".join(sql.split()) for sql in router.asked] == [
        "SELECT users.id FROM users WHERE users.id = %(id_1)s::INTEGER",
        "SELECT count(*) AS count_1 FROM users"
        " WHERE users.id IN (%(id_1_1)s::INTEGER, %(id_1_2)s::INTEGER)",
        "select 1 where %(a)s = 1",
        "UPDATE users SET id=%(id)s::INTEGER",
    ]


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
