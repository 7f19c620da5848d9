"""The process's router, and its connections as Django wants them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from datetime import UTC
from queue import SimpleQueue
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql.base import Cursor
from django.db.backends.postgresql.psycopg_any import (
    DjangoRangeDumper,
    Range,
    TextLoader,
    register_tzloader,
)

from pgroute import ConfigurationError, Router, Settings
from pgroute.observing.observer import Observer
from pgroute.observing.timing import Stopwatch, timed

_lock = threading.Lock()
_router: Router | None = None
# Leases that nobody has ended. Simple: the garbage collector may fill it at any moment.
_abandoned: SimpleQueue[Any] = SimpleQueue()


def router() -> Router:
    """The router of this process, opened when first asked for: ``settings.PGROUTE``."""
    global _router
    found = _router
    if found is not None:
        return found
    with _lock:
        if _router is None:
            made = Router(_settings(), after_connect=lambda connection: _dress(connection, cursor))
            cursor = _cursor(made.observer)
            made.open()
            atexit.register(made.close)
            threading.Thread(
                target=_end_abandoned, args=(_abandoned,), name="pgroute-django", daemon=True
            ).start()
            _router = made
        return _router


def close_router() -> None:
    """Close it; the next one asked for is opened anew."""
    global _router
    with _lock:
        found, _router = _router, None
    if found is not None:
        atexit.unregister(found.close)
        _abandoned.put(None)
        found.close()


class _Thread:
    """Gone with its thread: what the thread has leased then ends, but for what it shares."""

    def __init__(self) -> None:
        self.leased: dict[str, tuple[weakref.ref[Any], weakref.finalize[Any, Any]]] = {}

    def __del__(self) -> None:
        for found, give_up in self.leased.values():
            wrapper = found()
            if wrapper is None or not wrapper.allow_thread_sharing:
                give_up()


class _Threads(threading.local):
    def __init__(self) -> None:
        self.this = _Thread()


_threads = _Threads()


def unless_ended(wrapper: Any, lease: Any) -> weakref.finalize[Any, Any]:
    """Give a lease up with Django's connection or its thread, unless what this returns is detached.

    Whoever uses the ORM in a thread of their own forgets to close, and the pool's place with it.
    """
    give_up = weakref.finalize(wrapper, _abandoned.put, lease)
    give_up.atexit = False
    _threads.this.leased[wrapper.alias] = weakref.ref(wrapper), give_up
    return give_up


def _end_abandoned(leases: SimpleQueue[Any]) -> None:
    for lease in iter(leases.get, None):
        lease.pool.in_flight.pop(lease, None)
        lease.pool.discard(lease.connection)


def _settings() -> Settings:
    given = getattr(settings, "PGROUTE", None)
    try:
        return given if isinstance(given, Settings) else Settings.make(**(given or {}))
    except ConfigurationError as error:
        raise ImproperlyConfigured(f"settings.PGROUTE: {error}") from error


def _cursor(observer: Observer) -> type[Any]:
    """Django's cursor, timed if somebody asks for that."""
    if not observer.wants_queries:
        return Cursor  # type: ignore[no-any-return]
    return timed(Cursor, Stopwatch(observer))


def _dress(connection: Any, cursor: type[Any]) -> None:
    """What Django's own backend gives its connections, once for each."""
    for name in ("jsonb", "inet", "cidr"):
        connection.adapters.register_loader(name, TextLoader)
    connection.adapters.register_dumper(Range, DjangoRangeDumper)
    register_tzloader(UTC if settings.USE_TZ else None, connection)
    connection.cursor_factory = cursor
    connection.prepare_threshold = None
    zone = "UTC" if settings.USE_TZ else settings.TIME_ZONE
    if connection.info.parameter_status("TimeZone") != zone:
        connection.execute("select set_config('TimeZone', %s, false)", [zone])
        if not connection.autocommit:
            connection.commit()


def _after_fork() -> None:
    """A child has neither the parent's threads nor a right to its sockets: it opens its own."""
    global _lock, _router, _abandoned
    _lock, _router, _abandoned = threading.Lock(), None, SimpleQueue()


os.register_at_fork(after_in_child=_after_fork)
