"""A small routed read every so often."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from pgroute import AsyncRouter, PgrouteError

_log = logging.getLogger("pgroute")


async def beat(router: AsyncRouter, seconds: float) -> None:
    """Prove the whole way to a node, and show it in the metrics when nobody else asks.

    Until cancelled; a trouble is logged once, and so is its end.
    """
    trouble = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            async with router.read(timeout=max(seconds, 1.0)) as connection:
                await connection.execute("select 1")
            now = ""
        except (PgrouteError, psycopg.Error) as error:
            now = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if now != trouble:
            _log.warning("heartbeat: %s", now or "well again")
            trouble = now
