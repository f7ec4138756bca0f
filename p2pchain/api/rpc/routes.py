"""
JSON-RPC over HTTP: POST / for everything, GET /METHOD?name=value for reads.

All calls of a body cross to the trio thread together and run there one after the
other, so that a batch of transactions keeps its order.  Answers have status 200 also
when they are errors, as JSON-RPC clients expect, with three exceptions that concern the
request as a whole: 400 not JSON, 401 no token, 413 too long.  Reads by GET carry the
refusal's own status.
"""

from typing import Any

from aiohttp import web

from p2pchain.api.backend import Backend
from p2pchain.api.bridge import Bridge
from p2pchain.api.errors import (
    InvalidParams,
    MethodNotFound,
    RequestRefused,
    Unauthorized,
    explain,
)
from p2pchain.api.http import TokenGate, read_json, read_query, respond_json
from p2pchain.api.params import bind
from p2pchain.api.rpc.method import Access, Method
from p2pchain.api.rpc.protocol import (
    INVALID_REQUEST,
    Call,
    Invalid,
    Json,
    build_error,
    build_parse_error,
    build_refusal,
    build_result,
    parse_body,
)

GET_IDENTIFIER = -1
"""The id in answers to GET, as CometBFT has it."""


class RpcRoutes:
    """Handlers of JSON-RPC."""

    def __init__(
        self,
        backend: Backend,
        bridge: Bridge,
        gate: TokenGate,
        methods: dict[str, Method],
    ) -> None:
        self._backend = backend
        self._bridge = bridge
        self._gate = gate
        self._methods = methods

    def add_to(self, app: web.Application) -> None:
        """Register the paths."""
        app.router.add_post("/", self.post)
        for method in self._methods.values():
            if method.access is Access.READ:
                app.router.add_get(f"/{method.name}", self.get)

    async def post(self, request: web.Request) -> web.Response:
        """POST /: a call, a notification or a batch."""
        try:
            batch = parse_body(await read_json(request))
        except InvalidParams as refused:
            return respond_json(build_parse_error(refused), 400)
        has_token = self._gate.is_open(request)
        answers = await self._bridge.call(self._run_all, batch.calls, has_token)
        if not answers:
            return web.Response(status=204)
        if batch.is_list:
            return respond_json(answers)
        refused_token = answers[0].get("error", {}).get("code") == Unauthorized.rpc_code
        return respond_json(answers[0], 401 if refused_token else 200)

    async def get(self, request: web.Request) -> web.Response:
        """GET /METHOD: one read."""
        name = request.path.removeprefix("/")
        call = Call(name, read_query(request), GET_IDENTIFIER, is_notification=False)
        try:
            result = await self._bridge.call(self._run, call, False)
        except Exception as error:
            refused = explain(error)
            return respond_json(build_refusal(GET_IDENTIFIER, refused), refused.status)
        return respond_json(build_result(GET_IDENTIFIER, result))

    # -- on the trio thread ------------------------------------------------------------

    async def _run_all(
        self, calls: tuple[Call | Invalid, ...], has_token: bool
    ) -> list[Json]:
        answers = []
        for call in calls:
            if isinstance(call, Invalid):
                answer = build_error(call.identifier, INVALID_REQUEST, call.message)
                answers.append(answer)
                continue
            try:
                answer = build_result(call.identifier, await self._run(call, has_token))
            except Exception as error:
                answer = build_refusal(call.identifier, explain(error))
            if not call.is_notification:
                answers.append(answer)
        return answers

    async def _run(self, call: Call, has_token: bool) -> Any:
        method = self._methods.get(call.method)
        if method is None:
            raise MethodNotFound(
                f"no method {call.method[:64]!r}; rpc.discover lists them"
            )
        if method.access is Access.WALLET and not has_token:
            raise Unauthorized(
                "this method spends: send `Authorization: Bearer` with the content of"
                " api_token in the node's home"
            )
        return await method.run(self._backend, bind(method.params, call.params))


def build_http_error(refused: RequestRefused) -> Json:
    """Return the body for a refusal outside of any call."""
    return build_refusal(None, refused)
