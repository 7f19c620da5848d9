"""OpenTelemetry spans, one for each statement, and events on the caller's span.

Names and attributes follow the stable conventions for PostgreSQL client spans
(https://opentelemetry.io/docs/specs/semconv/database/postgresql/). A span is called by the
operation and the database ("SELECT app"): no text is searched for the tables in it.
``db.namespace`` is the database; ``error.type`` is the SQLSTATE, or the class of an error that has
none. The text of an error is not recorded: it may hold values. ``pgroute.node``, ``pgroute.role``
and ``pgroute.reason`` tell the routing decision.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, SpanKind, TracerProvider
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from pgroute.config import Settings
from pgroute.observing.logs import kind_of
from pgroute.observing.observer import Doubt, Hedge, Observer, Query, Reason, Silent, Wait
from pgroute.observing.redaction import operation

_SCHEMA = "https://opentelemetry.io/schemas/1.33.0"


def traces(settings: Settings, provider: TracerProvider | None = None) -> Observer:
    """An observer that traces to ``provider``, by default to the process's own.

    Without a provider the observer is silent: nothing is timed and no span is made. So configure
    the provider before the router is made.
    """
    provider = provider or trace.get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return Silent()
    return Traces(settings, provider)


class Traces(Silent):
    """Makes spans."""

    def __init__(self, settings: Settings, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("pgroute", schema_url=_SCHEMA)
        self._nodes: Mapping[str, Mapping[str, AttributeValue]] = {
            node.name: {
                "db.system.name": "postgresql",
                "db.namespace": settings.database_name,
                "server.address": node.host,
                "server.port": node.port,
                "pgroute.node": node.name,
            }
            for node in settings.members
        }

    @property
    def wants_queries(self) -> bool:
        return True

    def queried(self, query: Query) -> None:
        """Make the statement's span, now that everything about it is known."""
        name = operation(query.statement)
        attributes: dict[str, AttributeValue] = {
            **self._nodes.get(query.node, {"db.system.name": "postgresql"}),
            "db.query.text": query.statement,
        }
        if name:
            attributes["db.operation.name"] = name
        if query.role is not None:
            attributes["pgroute.role"] = query.role.value
        if query.reason is not None:
            attributes["pgroute.reason"] = query.reason.value
        if query.error is not None:
            attributes["error.type"] = kind = kind_of(query.error)
            if getattr(query.error, "sqlstate", None):
                attributes["db.response.status_code"] = kind
        target = str(attributes.get("db.namespace", ""))
        span = self._tracer.start_span(
            f"{name} {target}".strip() or "postgresql",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=query.started_at,
        )
        if query.error is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(query.started_at + round(query.seconds * 1e9))

    def waited(self, node: str | None, wait: Wait, seconds: float) -> None:
        _event("wait", node=node, wait=wait.value, seconds=seconds)

    def retried(self, node: str, action: str, sqlstate: str | None) -> None:
        _event("retry", node=node, action=action, sqlstate=sqlstate)

    def hedged(self, node: str, outcome: Hedge) -> None:
        _event("hedge", node=node, outcome=outcome.value)

    def spilled(self, reason: Reason, allowed: bool) -> None:
        _event("spill", reason=reason.value, allowed=allowed)

    def misrouted(self, node: str, statement: str) -> None:
        _event("misroute", node=node)

    def in_doubt(self, node: str, outcome: Doubt) -> None:
        _event("commit_in_doubt", node=node, outcome=outcome.value)


def _event(name: str, **attributes: AttributeValue | None) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        told = {f"pgroute.{key}": value for key, value in attributes.items() if value is not None}
        span.add_event(f"pgroute.{name}", told)
