"""The page at ``/``: files of this package, served as they are."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def routes() -> APIRouter:
    """The page and what it loads."""
    paths = APIRouter()
    folder = files("pgroute.service").joinpath("static")
    for path, (name, media_type) in _FILES.items():
        content = folder.joinpath(name).read_bytes()

        async def send(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type)

        paths.add_api_route(path, send, include_in_schema=False, response_class=Response)
    return paths
