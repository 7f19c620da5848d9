"""Which observers a router has, by its settings and by what the process has configured."""

from __future__ import annotations

import sys

from pgroute.config import Settings
from pgroute.observing.logs import Log
from pgroute.observing.observer import Observer, each_of, together


def instruments(settings: Settings, *observers: Observer) -> Observer:
    """These observers, the log, and spans if the process has a tracer provider.

    A ``Log`` or ``Traces`` among these observers is used instead: nothing is told twice.
    OpenTelemetry is not imported here: without it in the process nobody has configured it.
    """
    everyone = [one for several in observers for one in each_of(several)]
    if not any(isinstance(one, Log) for one in everyone):
        everyone.append(Log(slow_query_seconds=settings.slow_query_seconds))
    if "opentelemetry.trace" in sys.modules:
        from pgroute.observing.tracing import Traces, traces

        if not any(isinstance(one, Traces) for one in everyone):
            everyone.append(traces(settings))
    return together(*everyone)
