"""The workload's client that is a router."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

from pgroute import NodeConnection, Router, Session, Token
from pgroute.chaos.client import INSERT, NEWEST, TABLE, Refused, Seen, Written
from pgroute.chaos.tally import Promise
from pgroute.errors import ConfigurationError, ContractNotMet, NoReadableNode, TokenError

_EXISTS = "select to_regclass('pgroute_chaos') is not null"
_FOUND = "select worker, sequence from pgroute_chaos where run = %s"
_CLEAN = "delete from pgroute_chaos where run = %s"


@contextmanager
def refusals(promise: Promise) -> Iterator[None]:
    """A promise that the router says it cannot prove is Refused."""
    try:
        yield
    except (TokenError, ContractNotMet) as error:
        raise Refused(str(error), for_good=isinstance(error, TokenError)) from error
    except NoReadableNode as error:
        if promise is Promise.EVENTUAL:
            raise
        raise Refused(str(error), for_good=False) from error


class RouterClient:
    """Drives a :class:`pgroute.Router`. ``timeout``: seconds for one write or read."""

    def __init__(self, router: Router, run: UUID, *, timeout: float, max_lag: str) -> None:
        self._router = router
        self._run = run
        self._timeout = timeout
        self._max_lag = max_lag

    def prepare(self) -> None:
        """ConfigurationError unless the table is there or can be made."""
        with self._router.write(timeout=self._timeout) as connection:
            row = connection.execute(_EXISTS).fetchone()
            if row is not None and row[0]:
                return
        raise ConfigurationError(
            f"the table pgroute_chaos is missing: as its owner-to-be, run {TABLE}, then grant "
            "select, insert and delete on it to the write user, and select to the read user"
        )

    def write(self, worker: int, sequence: int) -> Written:
        with self._router.write(timeout=self._timeout) as connection:
            row = connection.execute(INSERT, (self._run, worker, sequence)).fetchone()
            node = connection.node
        if row is None:
            raise RuntimeError("the insert returned no row")
        return Written(node, row[0], self._router.token())

    def newest(self, worker: int, promise: Promise, held: object) -> Seen:
        with refusals(promise), self._reading(promise, held) as connection:
            row = connection.execute(NEWEST, (self._run, worker)).fetchone()
            return Seen(connection.node, row[0] if row else 0)

    def _reading(self, promise: Promise, held: object) -> AbstractContextManager[NodeConnection]:
        if isinstance(held, Session):
            return held.read(timeout=self._timeout)
        if isinstance(held, Token):
            return self._router.read(after=held, timeout=self._timeout)
        if promise is Promise.MAX_LAG:
            return self._router.read(max_lag=self._max_lag, timeout=self._timeout)
        return self._router.read(timeout=self._timeout)

    def session(self) -> object:
        return self._router.session()

    def found(self) -> set[tuple[int, int]]:
        """The (worker, sequence) of every row of this run, as the primary has them now."""
        with self._router.read("strong") as connection:
            return {(row[0], row[1]) for row in connection.execute(_FOUND, (self._run,))}

    def clean(self) -> None:
        """Delete the rows of this run."""
        with self._router.write() as connection:
            connection.execute(_CLEAN, (self._run,))
