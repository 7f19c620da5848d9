"""PostgreSQL's words that mean something to the reader of references."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUERIES: Final = frozenset({"select", "values", "table", "with"})
"""What a statement that only reads may start with."""

WRITES: Final = frozenset({"insert", "update", "delete", "merge"})
"""Statements that may stand in WITH."""

LOCKS: Final = frozenset({"update", "share", "no", "key"})
"""What follows FOR when rows are locked."""

SESSION_WORDS: Final = _words(
    "current_role current_schema current_user session_user system_user user"
)
"""Functions without parentheses that answer by who is logged in, and how."""

COMMANDS: Final = _words(
    """
    alter analyze call checkpoint cluster comment commit copy create deallocate discard do drop
    execute grant import listen load lock notify prepare reassign refresh reindex reset revoke
    rollback savepoint security set truncate unlisten vacuum
    """
)
"""Words that make the body of a function more than a reader."""

CALL_LIKE: Final = _words(
    """
    all and any array as between bit both case cast char character check coalesce collate
    current_date current_time current_timestamp dec decimal desc distinct else end except exists
    fetch float for from greatest group grouping having in int interval intersect lateral leading
    least limit localtime localtimestamp nchar not nullif numeric offset on only or order returning
    row select setof some symmetric then time timestamp to trailing trim union using values varchar
    variadic when where window with
    """
)
"""Words that stand before a parenthesis and cannot be the name of a function there."""

CALL_LIKE_UNLESS_KNOWN: Final = _words(
    """
    assert by cross cube elsif escape exclude filter first full if ilike inner is isnull join json
    json_array json_arrayagg json_exists json_objectagg json_query json_scalar json_serialize
    json_value like materialized natural next notnull operator outer over partition perform
    repeatable return rollup rows sets similar varying while xmlattributes xmlconcat xmlelement
    xmlforest zone
    """
)
"""Words that stand before a parenthesis, but may be the name of a function as well."""

FROM_ENDS: Final = _words(
    """
    where group having window union intersect except order limit offset fetch for into loop then
    returning
    """
)
"""Words that end a FROM clause."""

FROM_WORDS: Final = _words("as on tablesample using with and or not")
"""Words within a FROM clause that are no alias."""

JOIN_WORDS: Final = _words("cross full inner left natural outer right")
"""Words before JOIN; before a parenthesis they name a function."""

TYPE_PREFIXES: Final = frozenset({"setof", "national"})

TYPE_WORDS: Final = _words(
    """
    bigint bit boolean char character dec decimal double float int integer interval nchar numeric
    real smallint time timestamp varchar
    """
)
"""Types that have a name of their own in the grammar, all of pg_catalog."""

BEFORE_STRING: Final = _words(
    """
    all and any as asymmetric between both by case coalesce debug default distinct else elsif
    escape exception exclude following for from having if ilike in info interval is leading like
    limit log not notice offset on or over perform placing preceding precision return returning
    select separator similar some symmetric then to trailing union using values varying warning when
    where while with zone char character
    bigint bit boolean dec decimal float int integer nchar numeric real smallint time timestamp
    varchar
    """
)
"""Words that may stand before a string without being the name of a type to look up."""
