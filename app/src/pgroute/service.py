"""The HTTP service: is it alive, is there a primary, what is being counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pgroute.config import Settings
from pgroute.errors import RoutingError
from pgroute.metrics import RouterMetrics
from pgroute.probe import one_line
from pgroute.router import Router

_log = logging.getLogger("pgroute")
_SHUTDOWN_SECONDS = 10


class Heartbeat:
    """One small routed read every so often: proves the whole way, and shows in the metrics."""

    def __init__(self, router: Router, seconds: float) -> None:
        self._router = router
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgroute-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin, unless the interval is 0."""
        if self._seconds > 0:
            self._thread.start()

    def stop(self) -> None:
        """End, after the read that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_SHUTDOWN_SECONDS)

    def _run(self) -> None:
        trouble = ""
        while not self._stop.wait(self._seconds):
            try:
                with self._router.read(timeout=max(self._seconds, 1.0)) as connection:
                    connection.execute("select 1")
                now = ""
            except (RoutingError, psycopg.Error) as error:
                now = one_line(error)
            if now != trouble:  # said once, not at every beat
                _log.warning("heartbeat: %s", now or "well again")
                trouble = now


def make_app(router: Router, metrics: RouterMetrics, *, heartbeat_seconds: float = 0) -> Starlette:
    """The application. It opens ``router`` when it starts and closes it when it stops."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        topology = router.topology
        if topology.primary is None:
            return PlainTextResponse(f"{topology.problem}\n", status_code=503)
        return PlainTextResponse(f"writes go to {topology.primary}\n")

    async def exposition(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(router.open)
        heartbeat = Heartbeat(router, heartbeat_seconds)
        heartbeat.start()
        try:
            yield
        finally:
            await run_in_threadpool(heartbeat.stop)
            await run_in_threadpool(router.close)

    metrics.watch(router)
    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", exposition),
        ],
        lifespan=lifespan,
    )


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished first."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics = RouterMetrics(tuple(node.name for node in settings.members))
    router = Router(settings, observer=metrics)
    app = make_app(router, metrics, heartbeat_seconds=settings.heartbeat_seconds)
    uvicorn.run(
        app,
        host=settings.listen_address,
        port=settings.listen_port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
