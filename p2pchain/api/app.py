"""
The HTTP application: every surface of a node behind one port.

    POST /                JSON-RPC 2.0          GET /METHOD    its reads
    /api/v1/...           explorer REST         GET /          explorer page
    /v1/...               OpenAI-compatible

Errors have the shape of the surface that was asked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from p2pchain.api.backend import Backend
from p2pchain.api.bridge import Bridge
from p2pchain.api.errors import RequestRefused, explain
from p2pchain.api.explorer.page import add_page
from p2pchain.api.explorer.routes import ExplorerRoutes
from p2pchain.api.http import (
    MAX_BODY_BYTES,
    RequestLimit,
    TokenGate,
    refuse_http,
    respond_json,
)
from p2pchain.api.openai.answers import build_error
from p2pchain.api.openai.routes import OpenAiRoutes
from p2pchain.api.rpc.methods import build_methods
from p2pchain.api.rpc.routes import RpcRoutes, build_http_error

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What the operator chooses."""

    token: str
    """Opens wallet methods and /v1."""
    version: str
    """Of the program, for documents."""


def build_app(
    backend: Backend, settings: ApiSettings, bridge: Bridge
) -> web.Application:
    """Return the application; call it on the asyncio thread."""
    limit = RequestLimit()
    gate = TokenGate(settings.token)

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            with limit:
                return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return respond_refusal(request, refuse_http(error), error.status)
        except Exception as error:
            refused = explain(error)
            return respond_refusal(request, refused, refused.status)

    app = web.Application(middlewares=[refuse], client_max_size=MAX_BODY_BYTES)
    RpcRoutes(backend, bridge, gate, build_methods(settings.version)).add_to(app)
    ExplorerRoutes(backend, bridge, settings.version).add_to(app)
    OpenAiRoutes(backend, bridge, gate).add_to(app)
    add_page(app)
    return app


def respond_refusal(
    request: web.Request, refused: RequestRefused, status: int
) -> web.Response:
    """Return the refusal in the shape of the surface that was asked."""
    if request.path.startswith("/v1/"):
        body = build_error(refused)
    elif request.path.startswith("/api/"):
        body = {"error": {"code": refused.word, "message": refused.message}}
    else:
        body = build_http_error(refused)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return respond_json(body, status, headers)
