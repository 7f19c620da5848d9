"""What every request and every answer passes: a limit on bodies, headers for browsers. ASGI."""

from __future__ import annotations

from contextlib import suppress

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgroute.service.problems import Problem, answer, failed

BODY_BYTES = 64 * 1024

# Everything comes from here: no other origin's script, style, picture or frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install(app: Starlette) -> None:
    """Let every request and answer of ``app`` pass."""
    for guard in (BodyLimit, Failures, SafeHeaders):  # the last one is the outermost
        app.add_middleware(guard)


class SafeHeaders:
    """Adds the headers that keep a browser from doing what the page does not need."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class Failures:
    """Answers what no handler knows. Outside of this, an answer would go without the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await failed(Request(scope), error)(scope, receive, send)


class _TooLong(Exception):
    """More than BODY_BYTES have come."""


# The rest of the body is not read: the connection is of no further use.
_REFUSAL = answer(
    Problem(
        type="urn:pgroute:body-too-long",
        title="The body is too long",
        status=413,
        detail=f"a body may have {BODY_BYTES} bytes",
    ),
    headers={"Connection": "close"},
)


class BodyLimit:
    """Refuses a body of more than 64 KiB with 413, whether its length was announced or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > BODY_BYTES:
            await _REFUSAL(scope, receive, send)
            return
        came = 0
        begun = refused = False

        async def counted() -> Message:
            nonlocal came, refused
            message = await receive()
            came += len(message.get("body", b""))
            if came > BODY_BYTES:
                refused = True
                raise _TooLong
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal begun
            if begun or not refused:
                begun = True
                await send(message)

        with suppress(_TooLong):
            await self._app(scope, counted, unless_refused)
        if refused and not begun:
            await _REFUSAL(scope, receive, send)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
