"""What ``Router.execute`` gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgroute.errors import PgrouteError


class NoSuchRow(PgrouteError, LookupError):
    """The result has not the number of rows that was asked for."""


class Result:
    """The rows of one statement, all of them, and where they came from.

    ``rows``: a list of tuples, empty for a statement that returns none. ``rowcount``: rows
    returned or changed. ``node``: the server that answered. Iterates over the rows.
    """

    __slots__ = ("_answer", "_connection", "node", "rowcount", "rows")

    def __init__(self, cursor: Any, rows: list[Any], node: str) -> None:
        # Not the cursor itself: it runs the connection's next statement.
        self._answer = cursor.pgresult
        self._connection = cursor.connection
        self.rows = rows
        self.rowcount: int = cursor.rowcount
        self.node = node

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        answer, encoding = self._answer, self._connection.info.encoding
        return tuple(answer.fname(at).decode(encoding) for at in range(answer.nfields))

    def one(self) -> Any:
        """The only row. NoSuchRow when there is none, or more than one."""
        if len(self.rows) != 1:
            raise NoSuchRow(f"{len(self.rows)} rows where one was expected")
        return self.rows[0]

    def first(self) -> Any | None:
        """The first row, None when there is none."""
        return self.rows[0] if self.rows else None

    def scalar(self) -> Any:
        """The first value of the only row. NoSuchRow as :meth:`one`."""
        return self.one()[0]

    def text(self) -> str | None:
        """The first value of the first row as the server wrote it, None for NULL, whatever the
        connection makes of rows. NoSuchRow when there is none."""
        if not self._answer.ntuples:
            raise NoSuchRow("no row where one was expected")
        value = self._answer.get_value(0, 0)
        return None if value is None else value.decode(self._connection.info.encoding)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
