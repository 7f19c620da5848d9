"""What the page shows, as a stream of server-sent events: one whole picture a second.

All viewers share one look a second at the router, and nobody looks while nobody watches. Every
event holds everything: a viewer that missed some has lost nothing. When the stream ends or falls
silent, the page says so; nothing here repeats an old picture as if it were new.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from pgroute import AsyncRouter, PgrouteError, Role
from pgroute.service.models import NodeOut, TopologyOut
from pgroute.service.problems import Refusal, describe
from pgroute.service.store import Store

_log = logging.getLogger("pgroute")
VIEWERS = 50
_PARTITION_SECONDS = 5.0
_SEND_SECONDS = 30.0  # that a viewer may take for one picture


class Count(BaseModel):
    """Connections handed out, since the service started."""

    node: str
    role: str
    reason: str
    count: int


class Pool(BaseModel):
    """Connections to one node for one purpose."""

    node: str
    purpose: str
    size: int
    idle: int
    waiting: int


class PartitionOut(BaseModel):
    """One leaf; ``rows`` is an estimate, null before the first ANALYZE."""

    table: str
    name: str
    bound: str
    rows: int | None
    bytes: int


class Partitions(BaseModel):
    """All leaves as one node told them, or why they are not known. Both: they are old."""

    node: str | None = None
    asked_at: datetime | None = None
    problem: str | None = None
    leaves: list[PartitionOut] = []


class Picture(BaseModel):
    """One event."""

    number: int
    at: datetime
    seconds: float  # of a clock that never jumps, for rates
    started_at: datetime
    topology: TopologyOut
    routed: list[Count]
    pools: list[Pool]
    partitions: Partitions


def topology_of(router: AsyncRouter) -> TopologyOut:
    """The router's topology, as JSON tells it."""
    topology = router.topology
    addresses = {node.name: f"{node.host}:{node.port}" for node in router.settings.members}
    identifier = topology.fence.system_identifier
    now = router.clock()
    return TopologyOut(
        system_identifier=None if identifier is None else str(identifier),
        timeline=topology.fence.timeline,
        primary=topology.primary,
        replicas=list(topology.replicas),
        problem=topology.problem,
        split=list(topology.split),
        nodes=[
            NodeOut(
                name=state.node,
                address=addresses[state.node],
                role=state.role,
                healthy=state.healthy,
                state=state.state,
                timeline=state.timeline,
                lag_bytes=state.lag_bytes,
                lag_seconds=router.fleet.ledger.staleness(state.node, now)
                if state.role is Role.REPLICA
                else None,
                in_use=state.node == router.fleet.primary or state.node in router.fleet.replicas,
                breaker=router.fleet.breakers[state.node].state,
            )
            for state in topology.nodes
        ],
    )


def routed_of(registry: CollectorRegistry) -> list[Count]:
    """The counters of ``/metrics``: the page and Prometheus cannot differ."""
    return [
        Count(
            node=sample.labels["node"],
            role=sample.labels["role"],
            reason=sample.labels["reason"],
            count=int(sample.value),
        )
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "pgroute_routed_total" and sample.value
    ]


class Live:
    """The shared look at the router, once every ``seconds`` while somebody watches."""

    def __init__(
        self, router: AsyncRouter, registry: CollectorRegistry, store: Store, *, seconds: float
    ) -> None:
        self._router = router
        self._registry = registry
        self._store = store
        self._seconds = seconds
        self._started_at = datetime.now(UTC)
        self._number = 0
        self._viewers = 0
        self.seats = 0  # of viewers that were let in; their streams may begin later
        self._event = b""
        self._partitions = Partitions()
        self._partitions_due = 0.0
        self._ended = False
        self._next = asyncio.Event()  # set when the picture after the present one is there
        self._looking: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no further viewer can be served."""
        return self.seats >= VIEWERS

    def end(self) -> None:
        """End every stream. Call it in the event loop's thread."""
        self._ended = True
        self._next.set()

    async def close(self) -> None:
        """End every stream and the look itself."""
        self.end()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def events(self) -> AsyncIterator[bytes]:
        """The stream of one viewer, until it goes or :meth:`end` is called."""
        self._viewers += 1
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            yield b"retry: 1000\n\n"
            while not self._ended:
                await self._next.wait()
                if not self._ended:
                    yield self._event
        finally:
            self._viewers -= 1

    async def _look(self) -> None:
        while self._viewers and not self._ended:
            begun = time.monotonic()
            try:
                await self._router.refresh()
                self._refuse_old_news()
                await self._look_at_partitions(begun)
                picture = self._picture()
            except Exception:  # noqa: BLE001 - no event: the page says that it hears nothing
                _log.exception("the live page cannot be fed")
            else:
                self._show(picture)
            await asyncio.sleep(max(self._seconds - (time.monotonic() - begun), 0.01))

    def _refuse_old_news(self) -> None:
        """TimeoutError when a server's state is older than the longest way to learn that it is
        silent: then nobody asks any more, and the topology is what it was."""
        settings = self._router.settings
        limit = 3 * settings.connect_timeout_seconds + settings.probe_timeout_seconds + 2
        if not self._router.fleet.asked_since(self._router.clock() - limit)():
            raise TimeoutError(f"no news of the servers within {limit:g} s")

    def _show(self, picture: Picture) -> None:
        self._event = f"data: {picture.model_dump_json()}\n\n".encode()
        self._number = picture.number
        shown, self._next = self._next, asyncio.Event()
        shown.set()

    def _picture(self) -> Picture:
        return Picture(
            number=self._number + 1,
            at=datetime.now(UTC),
            seconds=time.monotonic(),
            started_at=self._started_at,
            topology=topology_of(self._router),
            routed=routed_of(self._registry),
            pools=[
                Pool(
                    node=pool.node,
                    purpose=pool.purpose,
                    size=pool.size,
                    idle=pool.available,
                    waiting=pool.waiting,
                )
                for pool in self._router.pools()
            ],
            partitions=self._partitions,
        )

    async def _look_at_partitions(self, now: float) -> None:
        if now < self._partitions_due:
            return
        self._partitions_due = now + _PARTITION_SECONDS
        try:
            read = await asyncio.wait_for(self._store.partitions(), self._seconds)
        except (PgrouteError, psycopg.Error, TimeoutError) as error:
            problem = describe(error).detail if not isinstance(error, TimeoutError) else "no answer"
            self._partitions = self._partitions.model_copy(update={"problem": problem})
            return
        self._partitions = Partitions(
            node=read.node,
            asked_at=datetime.now(UTC),
            leaves=[
                PartitionOut.model_validate(leaf, from_attributes=True)
                for leaf in read.value
                if leaf.bytes is not None
            ],
        )


class Watching(StreamingResponse):
    """One viewer's stream; its seat is free again when the viewer goes or takes in no more."""

    def __init__(self, live: Live) -> None:
        super().__init__(live.events(), media_type="text/event-stream")
        self._live = live
        live.seats += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)

        try:
            with suppress(ClientDisconnect, TimeoutError):
                await super().__call__(scope, receive, in_time)
        finally:
            self._live.seats -= 1
            await self.body_iterator.aclose()  # type: ignore[attr-defined]


def routes(live: Live) -> APIRouter:
    """``/live``: the stream."""
    paths = APIRouter()

    @paths.get("/live", response_class=StreamingResponse, include_in_schema=False)
    async def stream() -> Response:
        if live.full:
            detail = f"{VIEWERS} people watch already"
            raise Refusal(503, "too-many-viewers", "Too many viewers", detail)
        return Watching(live)

    return paths
