"""What of a statement may be shown."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from psycopg import sql

from pgroute.observing.redaction import MAX_CHARACTERS, operation, shown, without_literals


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("select 1", "select ?"),
        ("select a1 from t_2 where b = 12.5e-3", "select a1 from t_2 where b = ?"),
        ("select .5, 0xff, 1_000", "select ?, ?, ?"),
        ("select 'it''s' from t", "select ? from t"),
        (r"select E'it\'s', x'ff', U&'d\0061t' from t", "select ?, ?, ? from t"),
        ("select $$body 'x'$$, $tag$ $$ $tag$", "select ?, ?"),
        ("select 'never closed", "select ?"),
        ("select $a$never closed", "select ?"),
        ('select "t 1"."it""s 2"', 'select "t 1"."it""s 2"'),
        ("select 1 /* card 4111 */ -- cvc 123\n+ 2", "select ?    \n+ ?"),
        ("update t set a = $1 where b = %s and c = %(d 1)s", None),
        ("select '5%', 5 % 3", "select ?, ? % ?"),
        ("select größe_1 from maße", None),
        ("alter role app password 'secret'", "alter role app password ?"),
        ("/* a /* b */ secret */ select 1", "select ?"),
        ("/* a /* /* b */ */ secret */ select 1 /**/", "select ?"),
        ("/*" * 9 + "*/" * 8 + " secret", ""),
        ("select 2 */* secret */ 3", "select ? *  ?"),
        ("select e'a'\n'b\\'secret' from t", "select ? from t"),
        ("select e'a' -- b\n  'b\\'secret', 'c'", "select ?, ?"),
        ("select E'it\\'s secret\\", "select ?"),
    ],
)
def test_literals_and_comments_are_not_shown(text: str, shows: str | None) -> None:
    assert without_literals(text) == (text if shows is None else shows)


def test_a_text_with_parameters_is_shown_as_written() -> None:
    text = "select * from t where a = %s limit 10"
    assert shown(text, parameterised=True) == text
    assert shown(text, parameterised=False) == "select * from t where a = %s limit ?"


def test_a_composed_statement_shows_no_value_even_with_parameters() -> None:
    query = sql.SQL("select {} from {} where a = %s").format(
        sql.Literal("secret"), sql.Identifier("t 1")
    )
    assert shown(query, parameterised=True) == 'select ? from "t 1" where a = %s'


@dataclass(frozen=True)
class Interpolation:
    """As string.templatelib has it from Python 3.14 on."""

    value: object
    expression: str = "value"
    conversion: str | None = None
    format_spec: str = ""


@dataclass(frozen=True)
class Template:
    """What t"..." makes, as string.templatelib has it from Python 3.14 on."""

    strings: tuple[str, ...]
    interpolations: tuple[Interpolation, ...]


@pytest.mark.parametrize("parameterised", [False, True])
@pytest.mark.parametrize("value", ["it's secret", True, sql.Literal("it's secret"), object()])
def test_a_template_shows_no_value_that_is_put_into_it(value: object, parameterised: bool) -> None:
    query = Template(
        ("select 'a' from t where b = ", " and c = ", " -- note"),
        (Interpolation(value), Interpolation(Template(("d", ""), (Interpolation(value),)))),
    )
    text = shown(query, parameterised=parameterised)
    assert text == "select ? from t where b = ? and c = ?"


def test_bytes_are_read_as_text() -> None:
    assert shown(b"select 'a'", parameterised=False) == "select ?"


def test_a_long_statement_is_cut_and_its_open_string_still_hidden() -> None:
    text = "select '" + "s" * MAX_CHARACTERS + "'"
    assert shown(text, parameterised=False) == "select ?"
    assert len(shown("select a" * MAX_CHARACTERS, parameterised=True)) == MAX_CHARACTERS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("select 1", "SELECT"),
        ("/* the insert */ with a as (select 1) select", "WITH"),
        ("(values (1))", "VALUES"),
        ("", ""),
    ],
)
def test_the_operation_is_the_first_word(text: str, name: str) -> None:
    assert operation(text) == name
