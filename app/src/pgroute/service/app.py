"""The application, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from pgroute import AsyncRouter
from pgroute.observing.metrics import RouterMetrics
from pgroute.service import api, guards, live, operations, page, problems
from pgroute.service.heartbeat import beat
from pgroute.service.store import Store

# Of the paths and shapes, not of the package.
API_VERSION = "1"


def make_app(
    router: AsyncRouter,
    metrics: RouterMetrics,
    *,
    heartbeat_seconds: float = 0,
    live_seconds: float = 1.0,
) -> FastAPI:
    """The application over an open router, which it closes when it stops.

    ``heartbeat_seconds``: 0 for none. ``app.state.live`` is the stream of the page:
    :meth:`live.Live.end` ends it, so that a shutdown need not wait for people who watch.
    """
    store = Store(router)
    watching = live.Live(router, metrics.registry, store, seconds=live_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        heart = None
        if heartbeat_seconds > 0:
            heart = asyncio.create_task(beat(router, heartbeat_seconds))
        try:
            yield
        finally:
            if heart is not None:
                heart.cancel()
                await asyncio.wait([heart])
            await watching.close()
            await router.close()

    metrics.watch(router)
    app = FastAPI(
        title="pgroute",
        version=API_VERSION,
        summary="Users and sales on a PostgreSQL primary and its replicas.",
        description=api.DESCRIPTION,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere; /openapi.json is there.
        docs_url=None,
        redoc_url=None,
        responses=problems.DOCUMENTED,
    )
    app.state.live = watching
    problems.install(app)
    app.include_router(api.routes(store))
    app.include_router(operations.routes(router, metrics.registry))
    app.include_router(live.routes(watching))
    app.include_router(page.routes())
    guards.install(app)
    return app
