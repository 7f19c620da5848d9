"""One transaction that several repository functions share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pgroute import NodeConnection, PgrouteError, Router, Token


@dataclass(slots=True)
class UnitOfWork:
    """Given to repository functions in the place of a connection: what they write, stands or
    falls together."""

    router: Router
    connection: NodeConnection
    committed: bool = False
    _afterwards: list[Callable[[], None]] = field(default_factory=list)

    def after_commit(self, do: Callable[[], None]) -> None:
        """Call ``do`` once the outermost unit is committed; never when this one is undone."""
        self._afterwards.append(do)

    def token(self) -> Token:
        """What ``Router.read(after=...)`` takes; only the outermost unit, and after its end."""
        if not self.committed:
            raise PgrouteError("a unit of work has a token once it is committed, not before")
        return self.router.token()


@contextmanager
def unit_of_work(within: Router | UnitOfWork) -> Iterator[UnitOfWork]:
    """Begin a transaction on the primary, or a savepoint within the unit that is given.

    An exception undoes the block and passes on. Caught outside the block of a savepoint, it
    leaves the unit around it usable. Raises what ``Router.write`` raises.
    """
    if isinstance(within, UnitOfWork):
        with within.connection.transaction():
            inner = UnitOfWork(within.router, within.connection)
            yield inner
            within._afterwards += inner._afterwards
        return
    with within.write() as connection:
        unit = UnitOfWork(within, connection)
        yield unit
    unit.committed = True
    for do in unit._afterwards:
        do()
