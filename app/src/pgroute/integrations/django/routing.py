"""Which of the two databases a query goes to, and what a visitor takes along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.db import connections
from django.http import HttpRequest, HttpResponse

from pgroute import Token
from pgroute.errors import MalformedToken, RoutingError, TokenError
from pgroute.integrations.django.leases import router

PRIMARY = "default"
REPLICA = "replica"
COOKIE = "pgroute_token"
HEADER = "X-Consistency-Token"

_COOKIE_SECONDS = 600
_FROM_PRIMARY = "primary"  # instead of a token, when none could be had


@dataclass
class Visit:
    """One visitor's work: what its reads ask for, and the router's session that it is."""

    router: Any
    session: Any
    contract: dict[str, Any] = field(default_factory=dict)
    wrote: bool = False

    def start_anew(self) -> None:
        """Forget what was seen before, read on the primary, and take another token along."""
        self.session = self.router.session()
        self.contract = {"contract": "strong"}
        self.wrote = True


_visit: ContextVar[Visit | None] = ContextVar("pgroute_visit", default=None)


def current_visit() -> Visit:
    """The visit of this context, made when there is none."""
    found, ours = _visit.get(), router()
    if found is None or found.router is not ours:  # of before a fork, perhaps
        found = Visit(ours, ours.session())
        _visit.set(found)
    return found


@contextmanager
def visit(after: Token | None = None, **contract: Any) -> Iterator[Visit]:
    """Something that reads its own writes, such as a request or a job.

    ``after``: everything that this token stands for is read as well; ``contract``: of its reads,
    as arguments of ``Router.read``.
    """
    give_back()
    ours = router()
    kept = _visit.set(Visit(ours, ours.session(after), contract))
    try:
        yield current_visit()
    finally:
        give_back()
        _visit.reset(kept)


@contextmanager
def reading(contract: str = "eventual", **how: Any) -> Iterator[None]:
    """Another contract for the reads of a block: arguments as of ``Router.read``."""
    here = current_visit()
    kept, here.contract = here.contract, {"contract": contract, **how}
    give_back(REPLICA)
    try:
        yield
    finally:
        here.contract = kept
        give_back(REPLICA)


def give_back(*aliases: str) -> None:
    """Return this thread's connections, all unless told which, but for those in a transaction."""
    for alias in aliases or (REPLICA, PRIMARY):
        if alias in connections and not connections[alias].in_atomic_block:
            connections[alias].close()


class ReplicaRouter:
    """Django's database router: for ``DATABASE_ROUTERS``."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """The primary once it is in use, else a replica."""
        in_use = connections[PRIMARY].connection is not None
        return PRIMARY if in_use else REPLICA

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """The primary."""
        return PRIMARY

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool | None:
        """Both are the same database."""
        names = {one._state.db, other._state.db}
        return True if names <= {PRIMARY, REPLICA} else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """On the primary; replicas follow."""
        return False if db == REPLICA else None


class TokenMiddleware:
    """Lets visitors read what they wrote: put it first in ``MIDDLEWARE``.

    The token comes in the cookie "pgroute_token" or the header "X-Consistency-Token", and goes out
    in both after a request that used the primary. One that cannot be read is as none; one whose
    write may have been lost in a failover makes the visitor read on the primary.

    What is streamed is made in the visit too. What it writes then is in no token: the headers have
    gone out by that time.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get(HEADER) or request.COOKIES.get(COOKIE)
        after, contract = _read(given)
        with visit(after, **contract) as here:
            response = self._get_response(request)
            give_back()
            told = _write(here) if here.wrote else None
        # A file knows nothing of databases, and the server may have a quicker way to send it.
        if response.streaming and getattr(response, "file_to_stream", None) is None:
            body = _AsyncBody if response.is_async else _SyncBody
            response.streaming_content = body(here, response.streaming_content)
        if told is not None:
            response.headers[HEADER] = told
            response.set_cookie(
                COOKIE, told, max_age=_COOKIE_SECONDS, httponly=True, samesite="Lax"
            )
        return response


class _Body:
    """What is streamed, each part of it made in the visit that the response belongs to."""

    def __init__(self, here: Visit, parts: Any) -> None:
        self._here: Visit | None = here
        self._parts = parts

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        kept = _visit.set(self._here)
        try:
            yield
        finally:
            self._here = _visit.get()  # another one while its maker is within ``visit``
            _visit.reset(kept)

    def close(self) -> None:
        """Called when the response is closed, which may be before the last part."""
        give_back()


class _SyncBody(_Body):
    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            with self._resumed():
                return next(self._parts)
        except Exception:  # the end, too
            give_back()
            raise


class _AsyncBody(_Body):
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            with self._resumed():
                return await anext(self._parts)
        except Exception:  # the end, too
            await sync_to_async(give_back)()  # in the thread that the connections are of
            raise


def _read(given: str | None) -> tuple[Token | None, dict[str, Any]]:
    if given == _FROM_PRIMARY:
        return None, {"contract": "strong"}
    try:
        return (Token.parse(given) if given else None), {}
    except MalformedToken:
        return None, {}


def _write(here: Visit) -> str:
    try:
        token = here.session.token()
    except (RoutingError, TokenError):
        token = None
    return _FROM_PRIMARY if token is None else str(token)
