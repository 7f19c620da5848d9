"""Asks everything, all nodes at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from random import Random, SystemRandom

import psycopg

from pgroute.config import Node, Settings
from pgroute.doctor.asking.certificates import ask_tls
from pgroute.doctor.asking.lag import catch_up
from pgroute.doctor.asking.network import reach
from pgroute.doctor.asking.partitions import ask_partitions
from pgroute.doctor.asking.passfiles import examine, line_for, passfile_of
from pgroute.doctor.asking.servers import (
    Connection,
    ask_server,
    ask_session,
    connect,
    cut_after,
    sslmode_of,
)
from pgroute.doctor.facts import Facts, Login, NodeFacts, Passfile, Purpose, Server, Session
from pgroute.doctor.judging.roles import topology_of
from pgroute.routing.probe import one_line


def ask(
    settings: Settings,
    *,
    tables: Sequence[str] = (),
    limit: float = 10.0,
    catch_up_limit: float = 2.0,
    wall: Callable[[], float] = time.time,
    random: Random | None = None,
) -> Facts:
    """The facts.

    ``tables``: what the users must be able to use, named as in SQL; without any, all tables are
    looked at, and none is a must. ``limit``: seconds for the questions to one node after logging
    in; ``catch_up_limit``: seconds that a replica may take to get where the primary is.
    """
    passfile = examine(passfile_of(settings))

    def one(node: Node) -> NodeFacts:
        return _Examination(settings, node, passfile, tables, limit, wall).run()

    with ThreadPoolExecutor(len(settings.members)) as crew:
        nodes = tuple(crew.map(one, settings.members))
    facts = Facts(
        settings=settings,
        now=datetime.fromtimestamp(wall(), UTC),
        nodes=nodes,
        passfile=passfile,
        password_variable=bool(os.environ.get("PGPASSWORD")),
    )
    primary = next((n.node for n in nodes if n.name == topology_of(facts).primary), None)
    if primary is not None:
        replicas = [n.node for n, server in facts.answering if server.in_recovery]
        found = catch_up(settings, primary, replicas, limit=catch_up_limit)
        facts = replace(facts, catch_up=found)
    return _with_partitions(facts, primary, limit, random or SystemRandom())


def _with_partitions(facts: Facts, primary: Node | None, limit: float, random: Random) -> Facts:
    node = primary or next((node.node for node, _ in facts.answering), None)
    if node is None:
        return facts
    try:
        with (
            connect(facts.settings, node, Purpose.READ) as connection,
            cut_after(connection, limit),
        ):
            return replace(facts, partitions=ask_partitions(connection, random))
    except (psycopg.Error, OSError) as error:
        return replace(facts, partitions_failure=f"{node.name}: {one_line(error)}")


class _Examination:
    """One node. Owns its connections while it runs."""

    def __init__(
        self,
        settings: Settings,
        node: Node,
        passfile: Passfile,
        tables: Sequence[str],
        limit: float,
        wall: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._node = node
        self._passfile = passfile
        self._tables = tables
        self._limit = limit
        self._wall = wall
        self._server: Server | None = None
        self._failure: str | None = None
        self._sslmode = sslmode_of(settings, node, None)

    def run(self) -> NodeFacts:
        patience = self._settings.connect_timeout_seconds
        found = NodeFacts(self._node, reach(self._node, patience), sslmode=self._sslmode)
        if all(each.failure is not None for each in found.reach.addresses):
            return found
        logins = tuple(self._log_in(purpose) for purpose in Purpose)
        return replace(
            found,
            tls=ask_tls(self._node, patience),
            sslmode=self._sslmode,
            logins=logins,
            server=self._server,
            failure=self._failure,
        )

    def _log_in(self, purpose: Purpose) -> Login:
        settings, node = self._settings, self._node
        user = settings.reader if purpose is Purpose.READ else settings.writer
        line = line_for(self._passfile, node, settings.database_name, user)
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(connect(settings, node, purpose))
            except (psycopg.Error, OSError) as error:
                return Login(user, purpose, _reason(error), line)
            self._sslmode = sslmode_of(settings, node, connection)
            return Login(user, purpose, None, line, self._examine(connection, purpose))

    def _examine(self, connection: Connection, purpose: Purpose) -> Session | None:
        if self._failure is not None:
            return None
        try:
            with cut_after(connection, self._limit):
                if self._server is None:
                    self._server = ask_server(connection, wall=self._wall)
                return ask_session(connection, self._settings, purpose, self._tables)
        except (psycopg.Error, OSError) as error:
            self._failure = one_line(error)
            return None


def _reason(error: BaseException) -> str:
    """The server's own words in libpq's text, which names the address first; the last that has
    any, since libpq tells of each attempt."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):
        for mark in ("FATAL:", "ERROR:"):
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[0] if lines else type(error).__name__
