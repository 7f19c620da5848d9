"""Which statements a replica may answer: by allow-list and by what the server's catalogue says.

``Statements.route(sql)`` says PRIMARY or REPLICA for a text, from a cache. Whatever is not known
to be harmless goes to the primary.
"""

from pgroute.statements.catalog import Catalog
from pgroute.statements.classify import Decision, Route, classify
from pgroute.statements.statements import AsyncRun, Run, Statements
from pgroute.statements.texts import Query, text_of

__all__ = [
    "AsyncRun",
    "Catalog",
    "Decision",
    "Query",
    "Route",
    "Run",
    "Statements",
    "classify",
    "text_of",
]
