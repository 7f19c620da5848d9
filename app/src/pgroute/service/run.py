"""The process: refuses to start without its database, finishes what it holds when told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI
from prometheus_client import disable_created_metrics

from pgroute import (
    AsyncRouter,
    ConfigurationError,
    NodeUnavailable,
    Role,
    Settings,
    Topology,
)
from pgroute.observing.logs import JsonLines
from pgroute.observing.metrics import RouterMetrics
from pgroute.service.app import make_app
from pgroute.service.live import Live

SHUTDOWN_SECONDS = 20
_ASK_SECONDS = 0.1


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first.

    Raises ConfigurationError when the address cannot be listened on, NodeUnavailable when no
    server answers within ``checkout_timeout_seconds``. A fleet that answers but has no primary
    just now is served: ``/readyz`` says 503 until there is one.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    with _listen(settings.listen_address, settings.listen_port) as listening:
        asyncio.run(_serve(settings, listening))


async def _serve(settings: Settings, listening: socket.socket) -> None:
    metrics = RouterMetrics(tuple(node.name for node in settings.members))
    router = AsyncRouter(settings, observer=metrics)
    await router.open()
    try:
        await _await_database(router, settings.checkout_timeout_seconds)
    except BaseException:
        await router.close()
        raise
    app = make_app(router, metrics, heartbeat_seconds=settings.heartbeat_seconds)
    await _Server(_config(app), app.state.live).serve([listening])


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,  # its lines go where all others go, in their form
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


class _Server(uvicorn.Server):
    """Ends the streams of those who watch as soon as the process is told to stop.

    They would never end by themselves, and requests that will are waited for.
    """

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._live.end)


def _listen(address: str, port: int) -> socket.socket:
    host = address.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        what = (error.strerror or str(error)).partition(" (while")[0]  # the address is told here
        raise ConfigurationError(f"cannot listen on {address} port {port}: {what}") from None


async def _await_database(router: AsyncRouter, limit: float) -> None:
    """Return when a server answers. NodeUnavailable names all of them after ``limit`` seconds."""
    until = time.monotonic() + limit
    while _silent(router.topology):
        if time.monotonic() >= until:
            addresses = {node.name: f"{node.host}:{node.port}" for node in router.settings.members}
            told = "; ".join(
                f"{state.node} ({addresses[state.node]}): {state.state}"
                for state in router.topology.nodes
            )
            raise NodeUnavailable(f"no database answers within {limit:g} s: {told}")
        await asyncio.sleep(_ASK_SECONDS)
        await router.refresh()


def _silent(topology: Topology) -> bool:
    return all(state.role is Role.UNKNOWN for state in topology.nodes)
