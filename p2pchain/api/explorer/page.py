"""The explorer's page at /: static files that read /api/v1 in the browser."""

from importlib.resources import files
from pathlib import PurePath

from aiohttp import web

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_INDEX = "index.html"

# Names on the chain are chosen by strangers: nothing but our own files may run.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: web.Application) -> None:
    """Register the page's paths; the files are read once."""
    for file in (files(__package__) / "web").iterdir():
        path = "/" if file.name == _INDEX else "/" + file.name
        content_type = _TYPES[PurePath(file.name).suffix]
        text = file.read_text("utf-8")
        app.router.add_get(path, _build_handler(text, content_type))


def _build_handler(text: str, content_type: str):  # type: ignore[no-untyped-def]
    async def handle(request: web.Request) -> web.Response:
        headers = {
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
        }
        return web.Response(text=text, content_type=content_type, headers=headers)

    return handle
