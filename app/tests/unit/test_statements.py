"""Where a statement may run, decided without a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg._queries import PostgresQuery

from pgroute.statements import Catalog, Route, Statements, classify, queries, text_of
from pgroute.statements.classify import is_undone_whole
from pgroute.statements.lexer import Unsure, tokens
from pgroute.statements.loading import catalog_from
from pgroute.statements.references import References, read_query, statements

HARMFUL = {
    "nextval": "is volatile",
    "pg_advisory_lock": "is volatile",
    "numbered": "uses nextval",
    "locked_int": "uses a lock",
    "*!*": "takes a lock",
    "row_lock": "is volatile",
}


class Anything(Mapping[Any, str]):
    """A catalogue's worst case: every name is known and harmless, but for the harmful ones."""

    def __getitem__(self, name: object) -> str:
        last = name[-1] if isinstance(name, tuple) else name
        return HARMFUL.get(str(last), "")

    def __iter__(self) -> Iterator[str]:
        return iter(HARMFUL)

    def __len__(self) -> int:
        return len(HARMFUL)

    def __contains__(self, name: object) -> bool:
        return True


CATALOG = Catalog(
    version="1",
    functions=Anything(),
    relations=Anything(),
    types=Anything(),
    operators=Anything(),
    attributes={"row_lock": "is volatile"},
)


def route(sql: str) -> Route:
    return classify(sql, CATALOG).route


# Noise: what may stand between two words without a meaning

NASTY = ["'", '"', "$$", "--", "/*", "*/", ";", "(", ")", "\\", "%s", "select", "nextval(", "\n"]
TEXT = st.lists(st.sampled_from([*NASTY, "a", " ", "é", "1"]), max_size=6).map("".join)


def _comment(text: str) -> str:
    return "/*" + text.replace("/*", "").replace("*/", "") + "*/"


SPACE = st.sampled_from([" ", "\n", "\t", "\r\n", " \f "])
COMMENT = st.one_of(
    TEXT.map(_comment),
    st.tuples(TEXT, TEXT).map(lambda two: "/*" + _comment(two[0]) + _comment(two[1])[2:-2] + "*/"),
    TEXT.map(lambda text: "--" + text.replace("\n", "").replace("\r", "") + "\n"),
)
NOISE = st.lists(st.one_of(SPACE, COMMENT), min_size=1, max_size=3).map("".join)


def _dollar(text: str) -> str:
    return "$tag$" + text.replace("$", "") + "$tag$"


STRING = st.one_of(
    TEXT.map(lambda text: "'" + text.replace("'", "''") + "'"),
    TEXT.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    TEXT.map(_dollar),
)


def noisy(data: st.DataObject, statement: str) -> str:
    """A statement, its words in any case, any strings, and noise between all parts."""
    draw, written = data.draw, []
    for part in statement.split():
        if part.isidentifier() and draw(st.booleans()):
            part = "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in part)
        if part == "STRING":
            part = draw(STRING)
        written.append(part + draw(NOISE))
    return draw(NOISE) + "".join(written)


WRITES = [
    "insert into t values ( 1 )",
    "select STRING ; delete from t",
    "with x as ( delete from t returning 1 ) select STRING",
    "with x as materialized ( update t set a = STRING returning a ) table x",
    "with a as ( select STRING ) insert into t select * from a",
    "select STRING , a from t for update",
    "select STRING from ( select 1 from t for no key update ) u",
    "select STRING as a into t",
    "select STRING , nextval ( STRING )",
    "select STRING from t where STRING = a and nextval ( STRING ) > 0",
    "select pg_catalog . nextval ( STRING )",
    'select "nextval" ( STRING )',
    "select distinct on ( a ) nextval ( STRING ) from t",
    "select extract ( year from nextval ( STRING ) )",
    "with x as materialized ( select nextval ( STRING ) ) select 1",
    "with x ( a ) as ( select STRING ) , y as not materialized ( table numbered ) select 1",
    "select * from t u ( a , b ) join v on nextval ( STRING ) > 0",
    "select * from ( t cross join numbered )",
    "select * from t , numbered",
    "select STRING from t join public . numbered n on true",
    "select * from f ( STRING ) as t ( a locked_int )",
    "select cast ( STRING as locked_int )",
    "select STRING :: locked_int",
    "select locked_int STRING",
    "select a *!* 1 from t",
    "select a operator ( public . *!* ) 1 from t",
    "select t . row_lock from t",
    "select ( t ) . row_lock from t",
    "explain analyze select nextval ( STRING )",
    "explain ( analyze , costs off ) delete from t",
    "values ( STRING , nextval ( STRING ) )",
    "table numbered",
    "set a = STRING",
    "call p ( STRING )",
    "do STRING",
    "show a",
    "listen a",
    "begin",
    "copy t to stdout",
    "prepare p as select STRING",
    "lock table t",
    "truncate t",
    "select current_user , STRING",
]

READS = [
    "select STRING",
    "select a , STRING from t where b = STRING",
    "with x as materialized ( select STRING as a ) select a from x",
    "select * from ( values ( 1 , STRING ) ) as v ( a , b ) join t using ( a )",
    "select extract ( year from a ) from t order by STRING",
    "select t . update , f ( STRING ) from s . t as delete",
    "explain ( analyze , costs off ) select STRING",
    "values ( STRING )",
    "select date STRING , STRING :: date",
]


@pytest.mark.parametrize("write", WRITES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_noise_makes_a_write_a_read(write: str, data: st.DataObject) -> None:
    assert route(noisy(data, write)) is Route.PRIMARY


@pytest.mark.parametrize("read", READS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_noise_does_not_hide_a_read(read: str, data: st.DataObject) -> None:
    decision = classify(noisy(data, read), CATALOG)
    if decision.reason not in {"a dollar before %", "%( without a plain name"}:
        assert decision.route is Route.REPLICA, decision.reason


@given(st.text(), st.sampled_from(NASTY), st.text())
def test_any_text_gets_a_route(before: str, nasty: str, after: str) -> None:
    assert isinstance(Statements().route(before + nasty + after), Route)
    assert isinstance(route(before + nasty + after), Route)


PERCENTS = ["%", "%%", "%s", "%b", "%t", "%(a)s", "%(t.row_lock)s", "%(user)s", "(1)", "nextval",
            "(nextval(1))", ".row_lock", "s", "t", "'x'", "5", "a", "<", "-", " ", "\n", "/*", "*/",
            "'", "$$"]  # fmt: skip


def _replaced(sql: str) -> str:
    """The text that psycopg sends when there are parameters."""
    query = PostgresQuery(psycopg.adapt.Transformer())
    names = re.findall(r"%\((\w+)\)", sql.replace("%%", ""))
    values = [None] * len(re.findall("%[sbt]", sql.replace("%%", "")))
    query.convert(sql, dict.fromkeys(names) if names else values)
    return query.query.decode()


def _read(sql: str) -> References:
    found = References()
    for items in statements(tokens(sql, placeholders=False)):
        read_query(items, found)
    return found


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PERCENTS), max_size=8).map("".join))
def test_what_looks_like_a_placeholder_is_harmless_replaced_or_not(middle: str) -> None:
    sql = f"select 5 {middle}"
    if route(sql) is Route.PRIMARY:
        return
    assert CATALOG.object_to(_read(sql)) is None
    with contextlib.suppress(psycopg.ProgrammingError, Unsure):  # refused, or glued: 'x'$1
        assert CATALOG.object_to(_read(_replaced(sql))) is None


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("select nextval('a')", "function nextval is volatile"),
        ("select * from t for update", "row locks"),
        ("select 1; vacuum", "VACUUM is no query"),
        ("select current_user", "current_user depends on the session"),
        ("", "no statement"),
        ("select 'a", "unexpected character \"'\""),
        ("select f(1]", "parentheses that do not match"),
        ("select $1a", "'$1' glued to what follows"),
        ("select a%s1", "'%s' glued to what follows"),
        ("select f%s(1)", "a parameter glued to a name"),
        ("select \"a%b\"", "% in a quoted name"),
        ("select 1 from t tablesample mine(1)", "an unknown TABLESAMPLE method"),
        ("select * from t as u(a, nextval('x'))",
         "more than names and types in a list of columns"),
        ("select numbered from t", "numbered uses nextval"),
        ("select $$ $%s $$", "a dollar before %"),
        ("select '%(' || f(1) || ')s'", "%( without a plain name"),
        ("select E'a'\n'b'", "a string continued after E''"),
        ("select 5 %s(1)", "a placeholder that may be an operator and a name"),
        ("select 5 %s /* */ (1)", "a placeholder that may be an operator and a name"),
        ("select 5 %t.row_lock from t", "a placeholder that may be an operator and a name"),
        ("select 5 %b'101'", "a placeholder that may be an operator and a name"),
        ("select 5 %(t.row_lock)s from t", "%( without a plain name"),
        ("select 5 %(select 1)s", "%( without a plain name"),
        ("select name %(Current_User)s from t", "%(Current_User)s may depend on the session"),
        ("select 5 %%(t.row_lock)s from t", "row_lock is volatile"),
        ("select 5 %%nextval(1)", "function nextval is volatile"),
        ("select a as as into b from t", "SELECT INTO"),
        ("select t.as into b from t", "SELECT INTO"),
        ("select a as as for update", "row locks"),
        ("select * from t as nextval(a)", "function nextval is volatile"),
        ("select * from f() as (a nextval(1))", "function nextval is volatile"),
        ("select * from f() as (a t.row_lock)", "row_lock is volatile"),
        ("select * from t as u(a *!* b)", "more than names and types in a list of columns"),
        ("select 1 --\r, nextval('a')", "function nextval is volatile"),
        ("explain", "EXPLAIN of nothing"),
        ("select " + "a" * 64, "a name that the server cuts"),
        ("select " + "(" * 5000 + ")" * 5000, "too deeply nested"),
    ],
)  # fmt: skip
def test_the_reason_is_said(sql: str, reason: str) -> None:
    decision = classify(sql, CATALOG)
    assert (decision.route, decision.reason) == (Route.PRIMARY, reason)


KNOWN = Catalog(
    functions={"f": ""}, relations={"t": ""}, types={"date": ""}, operators={"=": "", "-": ""}
)


@pytest.mark.parametrize(
    ("sql", "unknown"),
    [
        ("select g(1)", "unknown function g"),
        ("select s.f(1)", "unknown function s.f"),
        ("select 1 from u", "unknown relation u"),
        ("select 1 from t, u", "unknown relation u"),
        ("select 1 from t join u using (a)", "unknown relation u"),
        ("select 1 from t where exists (table u)", "unknown relation u"),
        ("select 1 from (t cross join u)", "unknown relation u"),
        ("select 1 from t a join (t b cross join u) on true", "unknown relation u"),
        (
            "select 1 from t a join t b using (x) join (u c cross join t d) on true",
            "unknown relation u",
        ),
        ("select 1 from t a left join lateral (select 1 from u) c on true", "unknown relation u"),
        ("select 1 from t as a (x, y), lateral (table u) b", "unknown relation u"),
        ("with x as (select 1) select (select 1 from y) from x", "unknown relation y"),
        ("with x as (select * from x) select 1 from y", "unknown relation y"),
        ("select 1::thing", "unknown type thing"),
        ("select cast(1 as s.thing)", "unknown type s.thing"),
        ("select thing 'a'", "unknown type thing"),
        ("select * from f(1) as t(a thing)", "unknown type thing"),
        ("select a ==> 1 from t", "unknown operator ==>"),
    ],
)
def test_an_unknown_name_goes_to_the_primary(sql: str, unknown: str) -> None:
    decision = classify(sql, KNOWN)
    assert (decision.route, decision.reason, decision.unknown) == (Route.PRIMARY, unknown, True)


@pytest.mark.parametrize(
    "sql",
    [
        "select f(a) from t where b = %s",
        "select f(a) from t where b=%s",
        "select f(a) from t where b = %(user)s and c=%(user)s",
        "select f(a) from t where b in (%(id)s, %s) and c - %s = %s",
        "select a as update, b as into, c as for from t",
        "select f(-1) from t where a=-1",
        "with x (a) as (select 1) select a from x, t where exists (select 1 from x)",
        "select extract_it from t where a is distinct from b",
        "select a from t as u(a, b) where c = date '2024-01-01'",
    ],
)
def test_known_names_go_to_a_replica(sql: str) -> None:
    decision = classify(sql, KNOWN)
    assert decision.route is Route.REPLICA, decision.reason


def test_without_a_catalogue_everything_goes_to_the_primary() -> None:
    assert classify("select 1", None).route is Route.PRIMARY


def test_backslashes_are_refused_where_they_may_escape() -> None:
    old = Catalog(conforming_strings=False)
    assert classify(r"select 'a\'", CATALOG).route is Route.REPLICA
    assert classify(r"select 'a\'", old).route is Route.PRIMARY


def test_beyond_ascii_only_utf8_is_certain() -> None:
    assert classify("select 'é'", CATALOG).route is Route.REPLICA
    assert classify("select 'é'", Catalog(utf8=False)).route is Route.PRIMARY


# The catalogue as a server gives it


def answer(**change: Any) -> str:
    """What queries.LOAD gives for a database with a function, a table and a view."""
    return json.dumps(
        {
            "version": "1",
            "conforming_strings": True,
            "utf8": True,
            "information_schema_in_path": False,
            "builtin_functions": [
                {"name": "lower", "volatility": 0, "oids": [1], "takes_one": True},
                {"name": "now", "volatility": 1, "oids": [2], "takes_one": False},
                {"name": "current_setting", "volatility": 1, "oids": [3], "takes_one": True},
                {"name": "nextval", "volatility": 2, "oids": [4], "takes_one": True},
                {"name": "random", "volatility": 2, "oids": [5], "takes_one": False},
            ],
            "builtin_relations": [
                {"name": "pg_class", "kind": "r"},
                {"name": "pg_tables", "kind": "v"},
                {"name": "pg_settings", "kind": "v"},
            ],
            "other_relations": [{"schema": "information_schema", "name": "tables"}],
            "builtin_types": ["int4", "text"],
            "builtin_operators": ["=", "+", "*"],
            "functions": None,
            "relations": None,
            "types": None,
            "operators": None,
            "implicit_targets": None,
            "type_functions": None,
        }
        | change
    )


def function(name: str, body: str, **change: object) -> dict[str, object]:
    return {
        "oid": 20000 + len(name), "schema": "public", "name": name, "volatility": "s",
        "kind": "f", "language": "sql", "body": body, "standard_body": False, "defaults": None,
        "takes_one": False, "types": [23], "parts": [], "states": None,
    } | change  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select lower('A'), now(), random()", Route.REPLICA),
        ("select current_setting('a')", Route.PRIMARY),
        ("select nextval('a')", Route.PRIMARY),
        ("select * from pg_class, pg_tables", Route.REPLICA),
        ("select * from pg_settings", Route.PRIMARY),
        ("select * from information_schema.tables", Route.PRIMARY),
        ("select * from tables", Route.PRIMARY),
    ],
)
def test_what_every_server_has(sql: str, expected: Route) -> None:
    assert classify(sql, catalog_from(answer())).route is expected


@pytest.mark.parametrize(
    ("body", "change", "expected"),
    [
        ("select lower('a')", {}, Route.REPLICA),
        ("select 1; select 2", {}, Route.REPLICA),
        ("select f()", {}, Route.REPLICA),  # recursive
        ("select nextval('a')", {}, Route.PRIMARY),
        ("insert into t values (1)", {}, Route.PRIMARY),
        ("select lower('a')", {"volatility": "v"}, Route.PRIMARY),
        ("select lower('a')", {"kind": "p"}, Route.PRIMARY),
        ("select lower('a')", {"language": "plperl"}, Route.PRIMARY),
        ("select lower('a')", {"defaults": "1, nextval('a'::text)"}, Route.PRIMARY),
        ("RETURN lower('a'::text)", {"standard_body": True}, Route.REPLICA),
        ("RETURN nextval('a'::text)", {"standard_body": True}, Route.PRIMARY),
        ("BEGIN ATOMIC\n SELECT 1;\n SELECT 2;\nEND", {"standard_body": True}, Route.REPLICA),
        ("BEGIN ATOMIC\n SELECT nextval('a');\nEND", {"standard_body": True}, Route.PRIMARY),
        ("begin return lower('a'); end", {"language": "plpgsql"}, Route.REPLICA),
        ("begin perform nextval('a'); end", {"language": "plpgsql"}, Route.PRIMARY),
        ("begin execute 'select 1'; end", {"language": "plpgsql"}, Route.PRIMARY),
        ("begin delete from pg_class; end", {"language": "plpgsql"}, Route.PRIMARY),
        ("begin select 1 into f from missing; end", {"language": "plpgsql"}, Route.PRIMARY),
        ("any_symbol", {"language": "c", "volatility": "i"}, Route.REPLICA),
        ("any_symbol", {"language": "c"}, Route.PRIMARY),  # may run SQL that it is given as text
        ("similarity_op", {"language": "c"}, Route.REPLICA),
        ("nextval_oid", {"language": "internal"}, Route.PRIMARY),
        ("", {"kind": "a", "body": "aggregate_dummy", "parts": [1]}, Route.REPLICA),
        ("", {"kind": "a", "body": "aggregate_dummy", "parts": [1, 4]}, Route.PRIMARY),
    ],
)
def test_a_function_is_what_its_body_does(
    body: str, change: dict[str, object], expected: Route
) -> None:
    found = catalog_from(answer(functions=[function("f", body) | change]))
    assert classify("select f()", found).route is expected


def test_harm_spreads_along_calls_in_any_order() -> None:
    chain = [function("a", "select bb()"), function("bb", "select ccc()")]
    harmless = catalog_from(answer(functions=[*chain, function("ccc", "select a()")]))
    harmful = catalog_from(answer(functions=[*chain, function("ccc", "select nextval('a')")]))
    assert classify("select a()", harmless).route is Route.REPLICA
    assert classify("select a()", harmful).reason.endswith("function nextval is volatile")


def test_one_harmful_overload_is_enough() -> None:
    two = [function("f", "select 1"), function("f", "select 1", oid=9, volatility="v", schema="s")]
    found = catalog_from(answer(functions=two))
    assert classify("select f()", found).route is Route.PRIMARY
    assert classify("select public.f()", found).route is Route.REPLICA


@pytest.mark.parametrize("name", ["=", "%%%"])
def test_a_harmful_operator_that_may_go_unseen_stops_everything(name: str) -> None:
    operators = [{"name": name, "left": 23, "right": 23, "function": 4}]
    assert classify("select 1", catalog_from(answer(operators=operators))).route is Route.PRIMARY


def test_a_harmful_cast_between_builtin_types_stops_everything() -> None:
    casts = [{"type": 23, "function": 4}, {"type": 25, "function": 4}]
    found = catalog_from(answer(type_functions=casts))
    assert classify("select 1", found).route is Route.PRIMARY


# The cache


class Server:
    """Answers the two questions; counts them."""

    def __init__(self) -> None:
        self.version = "1"
        self.change: dict[str, Any] = {}
        self.asked: list[str] = []

    def run(self, sql: str) -> list[tuple[str]]:
        self.asked.append(sql)
        if sql == queries.PROBE:
            return [(self.version,)]
        return [(answer(version=self.version, **self.change),)]

    async def run_async(self, sql: str) -> list[tuple[str]]:
        return self.run(sql)


def test_a_route_is_kept_until_the_catalogue_says_otherwise() -> None:
    server, found = Server(), Statements()
    found.refresh(server.run)
    assert found.route("select f()") is Route.PRIMARY
    assert not found.refresh(server.run)
    assert found.route("select f()") is Route.PRIMARY

    server.version, server.change = "2", {"functions": [function("f", "select 1")]}
    assert found.refresh(server.run)
    assert found.route("select f()") is Route.REPLICA

    server.version, server.change = "3", {}
    assert found.refresh(server.run)
    assert found.route("select f()") is Route.PRIMARY
    assert server.asked.count(queries.LOAD) == 3


def test_the_async_front_reads_the_same_catalogue() -> None:
    server, found = Server(), Statements()
    assert asyncio.run(found.refresh_async(server.run_async))
    assert found.route("select now()") is Route.REPLICA
    assert not asyncio.run(found.refresh_async(server.run_async))


def test_a_refused_write_is_remembered_over_changes() -> None:
    server, found = Server(), Statements()
    found.refresh(server.run)
    assert found.route("select now()") is Route.REPLICA
    found.remember_write("select now()")
    assert found.route("select now()") is Route.PRIMARY
    server.version, server.change = "2", {"functions": [function("f", "select 1")]}
    assert found.refresh(server.run)
    assert found.route("select now()") is Route.PRIMARY
    assert found.decide("select now()").reason == "a replica has refused it before"
    assert found.route("select now(), 1") is Route.REPLICA


def test_the_cache_is_bounded() -> None:
    server, found = Server(), Statements(capacity=10)
    found.refresh(server.run)
    for number in range(100):
        found.route(f"select {number}")
        found.remember_write(f"select now(), {number}")
    assert len(found._routes) == 10
    assert len(found._writes) == 10
    assert found.route("select 1") is Route.REPLICA
    long = "select '" + "x" * 40_000 + "'"
    assert found.route(long) is Route.REPLICA
    assert long not in found._routes


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Statements(capacity=0)


def test_it_is_due_at_first_when_old_and_when_a_name_is_unknown() -> None:
    now = 0.0
    server = Server()
    found = Statements(clock=lambda: now, fresh_for_seconds=30, pause_seconds=1)
    assert found.due()
    found.refresh(server.run)
    now = 29.0
    assert not found.due()
    now = 30.0
    assert found.due()
    found.refresh(server.run)
    found.route("select missing()")
    assert not found.due()  # the pause
    now = 31.0
    assert found.due()
    found.refresh(server.run)
    now = 33.0
    assert not found.due()


def test_an_error_of_the_server_leaves_what_was_known() -> None:
    def broken(_: str) -> list[tuple[str]]:
        raise ConnectionError("gone")

    server, found = Server(), Statements()
    found.refresh(server.run)
    with pytest.raises(ConnectionError):
        found.refresh(broken)
    assert found.route("select now()") is Route.REPLICA


def test_a_known_text_is_not_decided_again() -> None:
    server, found = Server(), Statements()
    found.refresh(server.run)
    assert found.route("select now()") is Route.REPLICA
    found._routes.decide = lambda _: pytest.fail("decided again")
    assert found.route("select now()") is Route.REPLICA


# What is no str


def composed(text: str, *parts: object) -> sql.Composed:
    return sql.SQL(text).format(*parts)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("select 1", "select 1"),
        (b"select %s", "select %s"),
        (sql.SQL("select now()"), "select now()"),
        (composed("select {}", sql.Placeholder("a")), "select %(a)s"),
        (composed("select {}", sql.Literal("it's")), "select 'it''s'"),
        (composed("select {}", composed("{}", sql.Identifier("a", 'b"'))), 'select "a"."b"""'),
    ],
)
def test_the_text_of_a_statement_that_is_no_str(query: object, text: str) -> None:
    server, found = Server(), Statements()
    found.refresh(server.run)
    assert text_of(query) == text
    assert found.route_of(query) is found.decide(text).route


class Late(sql.Composable):
    """A part of a user's own that only a connection makes a text of, and not always the same."""

    def as_bytes(self, context: Any = None) -> bytes:
        return b"1" if context is None else b"nextval('numbers')"


class LateSQL(sql.SQL):
    """The same, as a kind of SQL."""

    as_bytes = Late.as_bytes


class Nobody:
    """A value that psycopg cannot write."""


@pytest.mark.parametrize(
    "query",
    [
        None,
        bytearray(b"select 1"),
        "select 'é'".encode(),
        "select 'é'".encode("latin1"),
        composed("select {}", sql.Literal(Nobody())),
        composed("select {}", Late("x")),
        LateSQL("select 1"),
        composed("{}", LateSQL("select 1")),
    ],
)
def test_what_has_no_certain_text_goes_to_the_primary(query: object) -> None:
    server, found = Server(), Statements()
    found.refresh(server.run)
    assert text_of(query) is None
    assert found.route_of(query) is Route.PRIMARY


def test_a_statement_that_is_no_str_is_decided_by_its_text() -> None:
    server, found = Server(), Statements()
    found.refresh(server.run)
    for read in (b"select now()", sql.SQL("select now()"), composed("select {}", sql.Literal(1))):
        assert found.route_of(read) is Route.REPLICA
    for write in (b"select 1\0", sql.SQL("delete from t"), composed("select {}()", sql.SQL("f"))):
        assert found.route_of(write) is Route.PRIMARY
    found.remember_write("select now()")
    assert found.route_of(b"select now()") is found.route_of(sql.SQL("select now()"))
    assert found.route_of(b"select now()") is Route.PRIMARY


def test_texts_with_values_take_no_place_of_others() -> None:
    server, found = Server(), Statements(capacity=2)
    found.refresh(server.run)
    assert found.route("select now()") is Route.REPLICA
    for number in range(5):
        literal = composed("select {}", composed("{}", sql.Literal(number)))
        assert found.route_of(literal) is Route.REPLICA
        assert found.route_of(composed("select missing({})", sql.Literal(number))) is Route.PRIMARY
    assert list(found._routes) == ["select now()"]
    assert found._unknown_seen
    found.route_of(sql.SQL("select 1"))
    assert list(found._routes) == ["select now()", "select 1"]


def test_many_threads_agree() -> None:
    server, found = Server(), Statements(capacity=5)
    found.refresh(server.run)
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(200):
            if found.route(f"select {number}, {turn % 7}") is not Route.REPLICA:
                wrong.append("read")
            if found.route(f"delete from t where a = {turn % 7}") is not Route.PRIMARY:
                wrong.append("write")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("sql", "whole"),
    [
        ("insert into t values (%s)", True),
        ("  /* why */ Update t set i = 1;", True),
        ("with w as (insert into t values (1) returning *) select * from w", True),
        ("select f()", True),
        ("call job()", False),
        ("do $$ begin commit; end $$", False),
        ("create index concurrently if not exists i on t (c)", False),
        ("insert into t values (1); commit; insert into t values (2)", False),
        ("insert into t values (U&'a')", False),  # not understood
        ("", False),
        (b"insert into t values (1)", True),
        (object(), False),
    ],
)
def test_what_an_error_undoes_whole(sql: object, whole: bool) -> None:
    assert is_undone_whole(sql) is whole
