"""Work that a cancelled task finishes all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

import psycopg
from psycopg import waiting

T = TypeVar("T")

_LOOK_SECONDS = 0.1  # how often somebody who waits for a server looks up, as in psycopg


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


async def answered(
    steps: Generator[Any, Any, None], descriptor: int, give_up: Callable[[], object], limit: float
) -> None:
    """As ``psycopg.waiting.wait_async``, but a task that is cancelled meanwhile is so afterwards.

    ``give_up`` is called when the answer has not come ``limit`` seconds after that: it is to cut
    the connection. No task is made, which costs a short COMMIT a fifth of its time.
    """
    try:
        await waiting.wait_async(steps, descriptor, interval=_LOOK_SECONDS)
    except asyncio.CancelledError:
        last_call = asyncio.get_running_loop().call_later(limit, give_up)
        rest = _rest(steps)
        try:
            while True:
                with suppress(asyncio.CancelledError):
                    with suppress(psycopg.Error):  # heard; the cancellation goes first
                        await waiting.wait_async(rest, descriptor, interval=_LOOK_SECONDS)
                    break
        finally:
            last_call.cancel()
        raise


def _rest(steps: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
    """Steps that go on where somebody has left them waiting: nothing is ready, as far as known."""
    ready = 0
    with suppress(StopIteration):
        while True:
            ready = (yield steps.send(ready)) or 0
