"""Spans as an exporter sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind
from opentelemetry.trace.status import StatusCode
from psycopg.errors import UniqueViolation

import pgroute
from pgroute.config import Settings
from pgroute.core.topology import Role
from pgroute.observing.observer import Doubt, Hedge, Observer, Query, Reason, Silent, Wait
from pgroute.observing.tracing import traces

SETTINGS = Settings.make(nodes="pg1=10.0.0.1,pg2=10.0.0.2:5433", database="app", write_user="app")
QUERY = Query("pg2", Role.REPLICA, Reason.AFTER_TOKEN, "select a from t where b = %s", 10**18, 0.25)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


@pytest.fixture
def observer(provider: TracerProvider) -> Observer:
    return traces(SETTINGS, provider)


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def test_a_statement_is_a_client_span_with_the_conventions_names(
    observer: Observer, exporter: InMemorySpanExporter
) -> None:
    observer.queried(QUERY)
    span = only(exporter)
    assert (span.name, span.kind, span.status.status_code) == (
        "SELECT app",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        "db.system.name": "postgresql",
        "db.namespace": "app",
        "db.query.text": "select a from t where b = %s",
        "db.operation.name": "SELECT",
        "server.address": "10.0.0.2",
        "server.port": 5433,
        "pgroute.node": "pg2",
        "pgroute.role": "replica",
        "pgroute.reason": "after_token",
    }
    assert (span.start_time, span.end_time) == (10**18, 10**18 + 250_000_000)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "pgroute"


def test_a_server_s_error_is_its_sqlstate_and_no_text(
    observer: Observer, exporter: InMemorySpanExporter
) -> None:
    error = UniqueViolation("Key (email)=(ada@example.org) already exists.")
    observer.queried(Query("pg1", Role.PRIMARY, Reason.WRITE, "insert", 1, 0.1, error))
    span = only(exporter)
    assert span.status.status_code is StatusCode.ERROR
    attributes = span.attributes or {}
    assert attributes["error.type"] == attributes["db.response.status_code"] == "23505"
    assert "@example.org" not in span.to_json()  # "ada" alone may be part of a span's number


def test_an_error_without_sqlstate_is_its_class(
    observer: Observer, exporter: InMemorySpanExporter
) -> None:
    observer.queried(Query("pg1", None, None, "", 1, 0.1, TimeoutError("ada")))
    span = only(exporter)
    attributes = span.attributes or {}
    assert attributes["error.type"] == "TimeoutError"
    assert not {"db.response.status_code", "pgroute.role", "pgroute.reason"} & set(attributes)


@pytest.mark.parametrize(
    ("node", "statement", "name"),
    [
        ("pg1", "insert into t values (%s)", "INSERT app"),
        ("pg1", "", "app"),
        ("unheard of", "select 1", "SELECT"),
        ("unheard of", "", "postgresql"),
    ],
)
def test_a_span_is_named_by_the_operation_and_the_database(
    node: str, statement: str, name: str, observer: Observer, exporter: InMemorySpanExporter
) -> None:
    observer.queried(Query(node, None, None, statement, 1, 0.1))
    assert only(exporter).name == name


def test_a_span_has_the_caller_s_span_as_its_parent(
    observer: Observer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with provider.get_tracer("test").start_as_current_span("request") as request:
        observer.queried(QUERY)
    child = exporter.get_finished_spans()[0]
    assert child.parent == request.get_span_context()


def test_what_happened_on_the_way_is_an_event_of_the_caller_s_span(
    observer: Observer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with provider.get_tracer("test").start_as_current_span("request"):
        observer.waited(None, Wait.PRIMARY, 0.5)
        observer.retried("pg2", "next_node", "57P01")
        observer.hedged("pg2", Hedge.SECOND_WON)
        observer.spilled(Reason.LAG_EXCEEDED, False)
        observer.misrouted("pg2", "select f('secret')")
        observer.in_doubt("pg1", Doubt.COMMITTED)
    span = only(exporter)
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("pgroute.wait", {"pgroute.wait": "primary", "pgroute.seconds": 0.5}),
        (
            "pgroute.retry",
            {"pgroute.node": "pg2", "pgroute.action": "next_node", "pgroute.sqlstate": "57P01"},
        ),
        ("pgroute.hedge", {"pgroute.node": "pg2", "pgroute.outcome": "second_won"}),
        ("pgroute.spill", {"pgroute.reason": "lag_exceeded", "pgroute.allowed": False}),
        ("pgroute.misroute", {"pgroute.node": "pg2"}),
        ("pgroute.commit_in_doubt", {"pgroute.node": "pg1", "pgroute.outcome": "committed"}),
    ]


def test_events_without_a_span_go_nowhere(
    observer: Observer, exporter: InMemorySpanExporter
) -> None:
    observer.retried("pg2", "next_node", None)
    assert exporter.get_finished_spans() == ()


def test_a_sampler_may_drop_the_span(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces(SETTINGS, provider).queried(QUERY)
    assert exporter.get_finished_spans() == ()


def test_without_a_provider_nothing_is_timed() -> None:
    assert type(traces(SETTINGS)) is Silent
    assert type(traces(SETTINGS, NoOpTracerProvider())) is Silent


def _run(program: str) -> str:
    head = (
        "import sys\n"
        "from pgroute.config import Settings\n"
        "from pgroute.observing.instruments import instruments\n"
        "settings = Settings.make(nodes='pg1', database='app', write_user='app')\n"
    )
    command = [sys.executable, "-c", head + program]
    environment = {**os.environ, "PYTHONPATH": str(Path(pgroute.__file__).parents[1])}
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout.strip()


def test_a_process_without_opentelemetry_does_not_load_it() -> None:
    assert (
        _run(
            "print(instruments(settings).wants_queries,"
            " any(name.startswith('opentelemetry') for name in sys.modules))"
        )
        == "False False"
    )


def test_the_process_s_own_provider_is_found() -> None:
    assert (
        _run(
            "from opentelemetry import trace\n"
            "from opentelemetry.sdk.trace import TracerProvider\n"
            "trace.set_tracer_provider(TracerProvider())\n"
            "print(instruments(settings).wants_queries)"
        )
        == "True"
    )


@pytest.mark.parametrize("front", ["Router", "AsyncRouter"])
@pytest.mark.parametrize("observer", ["RouterMetrics(['pg1'])", "traces(settings)"])
def test_a_router_with_an_observer_makes_each_span_once(observer: str, front: str) -> None:
    assert (
        _run(
            "from opentelemetry import trace\n"
            "from opentelemetry.sdk.trace import TracerProvider\n"
            "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
            "from opentelemetry.sdk.trace.export.in_memory_span_exporter import ("
            "InMemorySpanExporter)\n"
            "from pgroute import AsyncRouter, Router\n"
            "from pgroute.observing.metrics import RouterMetrics\n"
            "from pgroute.observing.observer import Query\n"
            "from pgroute.observing.tracing import traces\n"
            "made, exporter = TracerProvider(), InMemorySpanExporter()\n"
            "made.add_span_processor(SimpleSpanProcessor(exporter))\n"
            "trace.set_tracer_provider(made)\n"
            f"router = {front}(settings, observer={observer})\n"
            "assert router.observer.wants_queries\n"
            "router.observer.queried(Query('pg1', None, None, 'select ?', 1, 0.1))\n"
            "print(*(span.name for span in exporter.get_finished_spans()))"
        )
        == "SELECT app"
    )
