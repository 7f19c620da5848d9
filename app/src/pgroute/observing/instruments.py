"""Which observers a router has, by its settings and by what the process has configured."""

from __future__ import annotations

import sys

from pgroute.config import Settings
from pgroute.observing.logs import Log
from pgroute.observing.observer import Observer, together


def instruments(settings: Settings, *observers: Observer) -> Observer:
    """These observers, the log, and spans if the process has a tracer provider.

    OpenTelemetry is not imported here: without it in the process nobody has configured it.
    """
    everyone = [*observers, Log(slow_query_seconds=settings.slow_query_seconds)]
    if "opentelemetry.trace" in sys.modules:
        from pgroute.observing.tracing import traces

        everyone.append(traces(settings))
    return together(*everyone)
