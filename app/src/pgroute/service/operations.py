"""For machines that watch: is it alive, is there a primary, who is what, what is counted."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from pgroute import AsyncRouter
from pgroute.service.live import topology_of
from pgroute.service.models import TopologyOut


def routes(router: AsyncRouter, registry: CollectorRegistry) -> APIRouter:
    """``/healthz``, ``/readyz``, ``/topology`` and ``/metrics``."""
    paths = APIRouter()

    @paths.get("/healthz", response_class=PlainTextResponse, summary="Alive, whatever else")
    async def healthz() -> str:
        return "alive\n"

    @paths.get(
        "/readyz",
        response_class=PlainTextResponse,
        summary="200 while there is a primary, else 503 and why",
    )
    async def readyz() -> Response:
        topology = router.topology
        if topology.primary is None:
            return PlainTextResponse(f"{topology.problem}\n", status_code=503)
        return PlainTextResponse(f"writes go to {topology.primary}\n")

    @paths.get("/topology", summary="Who is what")
    async def topology() -> TopologyOut:
        return topology_of(router)

    @paths.get("/metrics", response_class=Response, summary="Prometheus metrics")
    async def metrics() -> Response:
        text = await run_in_threadpool(generate_latest, registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return paths
