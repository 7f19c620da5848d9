"""Cursors whose first statement in a transaction travels together with its BEGIN.

psycopg sends BEGIN by itself and waits for the answer: a round trip more for every transaction.
Here both go out at once, where that is the same to the server: for one statement with parameters,
or one that psycopg has prepared. Everything else begins as psycopg does it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import generators, pq

Steps = Generator[Any, Any, None]

_NEEDED = (  # of psycopg's own; where they are others, all begins as psycopg does it
    "_check_results",
    "_convert_query",
    "_execute_send",
    "_get_prepared",
    "_maybe_prepare_gen",
    "_send_query_prepared",
    "_set_results",
    "_start_query",
)
_Prepare: Any = getattr(getattr(psycopg, "_preparing", None), "Prepare", None)
_KNOWN = _Prepare is not None and all(hasattr(psycopg.Cursor, name) for name in _NEEDED)


def _begins(connection: Any) -> bool:
    """Whether the next statement begins a transaction."""
    return (
        not connection._autocommit
        and _KNOWN
        and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        and connection._pipeline is None
    )


def _begin(
    cursor: Any, query: Any, params: Any, prepare: bool | None, binary: bool | None
) -> Steps:
    """Steps of a statement that begins a transaction."""
    connection = cursor._conn
    connection._autocommit = True  # it sends no BEGIN then
    try:
        yield from cursor._start_query(query)
    finally:
        connection._autocommit = False
    statement = cursor._convert_query(query, params)
    choice, name = cursor._get_prepared(statement, prepare)
    if choice is _Prepare.YES or (choice is _Prepare.NO and statement.params):
        yield from _begin_along(cursor, statement, choice, name, binary)
    else:
        yield from connection._start_query()
        yield from cursor._maybe_prepare_gen(statement, prepare=prepare, binary=binary)
    cursor._last_query = query
    yield from connection._prepared.maintain_gen(connection)


def _begin_along(
    cursor: Any, statement: Any, choice: Any, name: bytes, binary: bool | None
) -> Steps:
    """Steps of BEGIN and the statement in one round trip."""
    connection, pgconn = cursor._conn, cursor._pgconn
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(connection._get_tx_start_command(), None)
    refused = None
    try:
        if name:
            cursor._send_query_prepared(name, statement, binary=binary)
        else:
            cursor._execute_send(statement, binary=binary, force_extended=True)
    except psycopg.Error as error:  # too many parameters, say: it has not been sent
        refused = error
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    begun: list[Any] = []
    results: list[Any] = []
    try:
        begun = yield from generators.fetch_many(pgconn)
        if refused is None:
            results = yield from generators.fetch_many(pgconn)
        yield from generators.fetch_many(pgconn)  # the synchronisation point
        pgconn.exit_pipeline_mode()
    except psycopg.OperationalError:
        for last_words in (begun, results):  # why the server has ended the session
            if last_words:
                cursor._check_results(last_words)
        raise
    cursor._check_results(begun)
    if refused is not None:
        raise refused
    key = connection._prepared.maybe_add_to_cache(statement, choice, name)
    if key is not None:
        connection._prepared.validate(key, choice, name, results)
    cursor._check_results(results)
    cursor._set_results(results)


class NodeCursor(psycopg.Cursor[Any]):
    """psycopg's cursor, with a round trip less at the beginning of a transaction."""

    __slots__ = ()

    def _execute_gen(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Steps:
        if _begins(self._conn):
            return _begin(self, query, params, prepare, binary)
        return super()._execute_gen(query, params, prepare=prepare, binary=binary)


class AsyncNodeCursor(psycopg.AsyncCursor[Any]):
    """The same for asyncio."""

    __slots__ = ()

    def _execute_gen(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Steps:
        if _begins(self._conn):
            return _begin(self, query, params, prepare, binary)
        return super()._execute_gen(query, params, prepare=prepare, binary=binary)
