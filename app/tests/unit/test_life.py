"""Routers and pools that are never opened, not opened to the end, or given an error by a hook."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgroute import AsyncRouter, Router, Settings
from pgroute.routing.async_pool import AsyncNodePool
from pgroute.routing.pool import NodePool
from tests.servers import eventually


@pytest.fixture
def silent() -> Iterator[Settings]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Settings.make(
            nodes=f"h=127.0.0.1:{server.getsockname()[1]}",
            database="app",
            write_user="app",
            connect_timeout_seconds=30,
        )


def samplers() -> int:
    return sum(thread.name == "pgroute-sampler" for thread in threading.enumerate())


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_router_that_was_never_opened_can_be_closed(silent: Settings) -> None:
    before = descriptors()
    router = Router(silent)
    router.close()
    router.close()
    later = AsyncRouter(silent)
    asyncio.run(later.close())
    assert descriptors() == before


@pytest.fixture
def refused() -> Iterator[Settings]:
    """A server that takes no connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"h=127.0.0.1:{taken.getsockname()[1]}"
        yield Settings.make(nodes=where, database="app", write_user="app")


def test_what_comes_too_late_to_a_closed_router_begins_nothing(refused: Settings) -> None:
    """A server's trial that ends while the router closes: its tasks would outlive the loop."""
    begun: list[str] = []

    async def renew() -> None:
        begun.append("renew")

    async def main() -> None:
        router = AsyncRouter(refused)
        await router.open()
        for pool in router.pools_by_key.values():
            pool.renew = renew
        await asyncio.to_thread(router.renew, "h")
        await asyncio.sleep(0)
        assert begun == ["renew"] * 2
        await router.close()
        await asyncio.to_thread(router.renew, "h")
        await asyncio.sleep(0)
        assert begun == ["renew"] * 2

    asyncio.run(main())


def test_a_router_whose_opening_is_cancelled_leaves_nothing(silent: Settings) -> None:
    async def give_up() -> None:
        async with asyncio.timeout(0.2):
            async with AsyncRouter(silent):
                raise AssertionError("opened")

    before = samplers()
    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    eventually(lambda: samplers() == before, what="the sampler's end")


def test_a_router_whose_opening_is_interrupted_leaves_nothing(
    silent: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = samplers()
    monkeypatch.setattr(Router, "do_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Router(silent).open()
    eventually(lambda: samplers() == before, what="the sampler's end")


@pytest.mark.parametrize("kind", [NodePool, AsyncNodePool])
def test_a_hook_s_own_error_loses_no_connection(silent: Settings, kind: Any) -> None:
    ended: list[str] = []

    def hook(_: Any) -> None:
        raise KeyError("mine")

    def end(what: str) -> Any:
        async def later(*_: Any) -> None:
            ended.append(what)

        return later if kind is AsyncNodePool else lambda *_: ended.append(what)

    async def hook_later(_: Any) -> None:
        hook(_)

    pool = kind("h", silent, read_only=True, on_return=hook if kind is NodePool else hook_later)
    connection = cast(
        Any,
        SimpleNamespace(
            epoch=0,
            expires_at=float("inf"),
            closed=False,
            untidy=False,
            left_open="",
            autocommit=True,
            commit_each=end("on its own"),
            forget_answer=lambda: None,
            close=end("closed"),
            home=SimpleNamespace(putconn=end("given back")),
        ),
    )

    async def give_back() -> None:
        done = pool.give_back(connection)
        if done is not None:
            await done

    with pytest.raises(KeyError):
        asyncio.run(give_back())
    assert ended == ["on its own", "closed", "given back"]
    assert not pool.idle
