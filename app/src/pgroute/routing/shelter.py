"""Work that a cancelled task finishes all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


async def sheltered(work: Coroutine[Any, Any, T], context: Context | None = None) -> T:
    """Await ``work`` to its end even when the task is cancelled meanwhile, then be cancelled."""
    task = asyncio.create_task(work, context=context)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # heard; the cancellation goes first
        raise
