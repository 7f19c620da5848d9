"""Which statements a replica may answer: by allow-list and by what the server's catalogue says.

``Statements.route(sql)`` says PRIMARY or REPLICA for a text, from a cache. Whatever is not known
to be harmless goes to the primary.
"""

from pgroute.statements.catalog import Catalog
from pgroute.statements.classify import Decision, Route, classify
from pgroute.statements.statements import AsyncRun, Run, Statements

__all__ = ["AsyncRun", "Catalog", "Decision", "Route", "Run", "Statements", "classify"]
