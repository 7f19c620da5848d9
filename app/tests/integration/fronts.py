"""Both routers behind one face, so that each promise is tested of both: the asynchronous one is
run in a loop of its own, and everything it returns is awaited there."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pgroute import AsyncNodeConnection, AsyncRouter, AsyncSession, Router, Settings
from pgroute.routing.holder import Holder
from tests.servers import NAMES

FRONTS = ("threads", "asyncio")
_AWAITED = (AsyncRouter, AsyncSession, AsyncNodeConnection, psycopg.AsyncCursor, Holder)


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Any, limit: float = 120.0) -> Any:
        return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop).result(limit)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        # psycopg_pool's own, which bear their pool's name, may still wait for a silent server.
        everyone = asyncio.all_tasks(self._loop)
        left = [task for task in everyone if not task.get_name().startswith(NAMES)]
        self._loop.close()
        assert not left, f"tasks that nobody has ended: {left}"


async def _awaited(work: Any) -> Any:
    return await work


class Blocking:
    """Something asynchronous, used as if it were not."""

    def __init__(self, loop: Loop, thing: Any) -> None:
        self._loop = loop
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "transaction":  # its function gets a connection as any other
                arguments = (self._asynchronous(arguments[0]), *arguments[1:])
            found = value(*arguments, **options)
            if inspect.isawaitable(found) and not isinstance(found, Holder):
                found = self._loop.run(found)
            return Blocking(self._loop, found) if isinstance(found, _AWAITED) else found

        return call

    def __enter__(self) -> Any:
        found = self._loop.run(self._thing.__aenter__())
        return Blocking(self._loop, found)

    def __exit__(self, *error: Any) -> Any:
        return self._loop.run(self._thing.__aexit__(*error))

    def _asynchronous(self, fn: Any) -> Any:
        async def called(connection: Any) -> Any:
            return await asyncio.to_thread(fn, Blocking(self._loop, connection))

        return called


def hook(front: str, act: Callable[[Any], None]) -> Callable[[Any], Any]:
    """``act`` as that front's hook."""

    async def later(connection: Any) -> None:
        act(connection)

    return act if front == "threads" else later


@contextmanager
def transaction_of(connection: Any) -> Iterator[None]:
    """The connection's own ``transaction()``."""
    if not isinstance(connection, Blocking):
        with connection.transaction():
            yield
        return
    block = connection._thing.transaction()
    connection._loop.run(block.__aenter__())
    try:
        yield
    except BaseException as error:
        if not connection._loop.run(block.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        connection._loop.run(block.__aexit__(None, None, None))


@contextmanager
def opened(front: str, settings: Settings, **options: Any) -> Iterator[Any]:
    """A router of that kind, open."""
    if front == "threads":
        with Router(settings, **options) as router:
            yield router
        return
    loop = Loop()
    try:

        async def make() -> AsyncRouter:
            return AsyncRouter(settings, **options)

        with Blocking(loop, loop.run(make())) as router:
            yield router
    finally:
        loop.stop()
