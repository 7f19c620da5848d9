"""Writes and tokens while the primary changes, by both routers."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pgroute import PgrouteError, Role, Token, new_key
from tests.patience import WATCHFUL
from tests.servers import Servers, eventually, port, whole

from .fronts import FRONTS, opened

pytestmark = pytest.mark.integration

INSERT = "insert into tbl_users values (%s, %s)"


class Writer:
    """Writes again and again; notes each write that was said to be done, and where."""

    def __init__(self, router: Any) -> None:
        self._router = router
        self._stop = threading.Event()
        self.done: list[tuple[str, Any]] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            key = new_key()
            try:
                with self._router.write(timeout=5) as connection:
                    connection.execute(INSERT, (key, "writer"))
            except (PgrouteError, psycopg.Error):
                continue
            self.done.append((connection.node, key))

    def wrote_to(self, node: str) -> bool:
        return any(where == node for where, _ in self.done)


def keys(servers: Servers, node: str) -> set[str]:
    found = servers.sql(
        node, "select id from tbl_users where first_name = 'writer'", database="app"
    )
    return set(found.split())


def follow(servers: Servers, node: str, upstream: str) -> None:
    """Let a standby stream from another server."""
    conninfo = servers.sql(node, "show primary_conninfo")
    conninfo = conninfo.replace(str(port("pg1")), str(port(upstream))).replace("'", "''")
    servers.sql(node, f"alter system set primary_conninfo = '{conninfo}'")
    servers.sql(node, "select pg_reload_conf()")


@pytest.mark.parametrize("front", FRONTS)
def test_writes_go_on_after_a_promotion(expendable: Servers, front: str) -> None:
    servers = expendable
    with opened(front, servers.settings()) as router:
        eventually(lambda: whole(router), what="all well")
        with Writer(router) as writer:
            eventually(lambda: writer.wrote_to("pg1"), what="pg1 is written to")
            servers.stop("pg1")
            servers.sql("pg2", "select pg_promote()")
            eventually(lambda: writer.wrote_to("pg2"), what="pg2 is written to")
        there = keys(servers, "pg2")
        assert {str(key) for node, key in writer.done if node == "pg2"} <= there


@pytest.mark.parametrize("front", FRONTS)
def test_a_frozen_primary_that_comes_back_gets_no_write(expendable: Servers, front: str) -> None:
    """Split brain: it never learnt that another one was promoted meanwhile."""
    servers = expendable
    with opened(front, servers.settings(**WATCHFUL)) as router:
        eventually(lambda: whole(router), what="all well")
        with Writer(router) as writer:
            eventually(lambda: writer.wrote_to("pg1"), what="pg1 is written to")
            servers.signal("pg1", "STOP")
            servers.sql("pg2", "select pg_promote()")
            eventually(lambda: writer.wrote_to("pg2"), what="pg2 is written to")
            before = len(writer.done)
            servers.signal("pg1", "CONT")
            eventually(
                lambda: router.topology.node("pg1").role is Role.FENCED, what="pg1 is fenced"
            )
            eventually(lambda: len(writer.done) > before + 50, what="writes go on")
        late = {str(key) for _, key in writer.done[before:]}
        assert {node for node, _ in writer.done[before:]} == {"pg2"}
        assert late <= keys(servers, "pg2")
        assert not late & keys(servers, "pg1")


@pytest.mark.parametrize("front", FRONTS)
def test_tokens_are_read_from_a_replica_of_the_new_primary(expendable: Servers, front: str) -> None:
    servers = expendable
    with opened(front, servers.settings()) as router:
        eventually(lambda: whole(router), what="all well")
        old = router.settle(router.token())
        eventually(lambda: router.fleet.ledger.holds("pg2", old), what="pg2 has it")
        servers.stop("pg1")
        servers.sql("pg2", "select pg_promote()")
        follow(servers, "pg3", "pg2")
        key = new_key()
        with router.write(timeout=120) as connection:
            assert connection.node == "pg2"
            connection.execute(INSERT, (key, "new"))
        token = Token.parse(str(router.settle(router.token())))
        assert token.timeline == 2

        def on_the_replica(after: Token) -> bool:
            with router.read(after=after, wait=True) as connection:
                connection.execute("select 1")
                return bool(connection.node == "pg3")

        eventually(lambda: on_the_replica(token), what="pg3 serves the new token")
        eventually(lambda: on_the_replica(old), what="pg3 serves the old token")
        with router.read(after=token, wait=True, token_timeout=60) as connection:
            (count,) = connection.execute(
                "select count(*) from tbl_users where id = %s", (key,)
            ).fetchone()
        assert count == 1
