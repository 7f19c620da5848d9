"""Measures how far replicas are behind: asks the primary where it is, then waits for them there.

What a standby says of its own lag is worth nothing when it is cut off; this cannot be fooled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psycopg

from pgroute.config import Node, Settings
from pgroute.core.lsn import reachable
from pgroute.doctor.asking.servers import Connection, connect, cut_after, one
from pgroute.doctor.facts import CatchUp, Purpose

_POSITION = "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as position"
_REPLAYED = "select pg_last_wal_replay_lsn() - '0/0'::pg_lsn as position"
_PAUSE_SECONDS = 0.005


def catch_up(
    settings: Settings,
    primary: Node,
    replicas: Sequence[Node],
    *,
    limit: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, CatchUp]:
    """For each replica that answers; empty when the primary does not. ``limit`` in seconds."""
    with ExitStack() as stack:
        followers: dict[str, Connection] = {}
        for node in replicas:
            with suppress(psycopg.Error, OSError):
                followers[node.name] = stack.enter_context(connect(settings, node, Purpose.READ))
        # All are connected by now: only replay is measured.
        try:
            asked = stack.enter_context(connect(settings, primary, Purpose.READ))
            with cut_after(asked, limit):
                target = reachable(int(one(asked, _POSITION)["position"]))
        except (psycopg.Error, OSError):
            return {}
        started = clock()

        def follow(connection: Connection) -> CatchUp | None:
            try:
                with cut_after(connection, 2 * limit):
                    return _follow(connection, target, started, limit, clock, sleep)
            except (psycopg.Error, OSError):
                return None

        with ThreadPoolExecutor(len(followers) or 1) as crew:
            found = zip(followers, crew.map(follow, followers.values()), strict=True)
            return {name: seen for name, seen in found if seen is not None}


def _follow(
    connection: Connection,
    target: int,
    started: float,
    limit: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> CatchUp:
    behind: int | None = None
    while True:
        position = one(connection, _REPLAYED)["position"]
        if position is not None:
            left = max(0, target - int(position))
            behind = left if behind is None else behind
            if left == 0:
                return CatchUp(behind, clock() - started, limit)
        if clock() - started >= limit:
            return CatchUp(behind, None, limit)
        sleep(_PAUSE_SECONDS)
