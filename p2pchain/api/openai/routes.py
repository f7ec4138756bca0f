"""
/v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings.

An error before the first token is an HTTP status; one after it is an event
`data: {"error": ...}` that ends the stream without [DONE], which OpenAI's client
raises.  A caller that leaves closes the session on the node's side.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, Literal

import msgspec
from aiohttp import web

from p2pchain.api.backend import Backend
from p2pchain.api.bridge import Bridge
from p2pchain.api.completion import Finished, ServedModel
from p2pchain.api.errors import UnknownModel, explain
from p2pchain.api.http import TokenGate, read_json, respond_json
from p2pchain.api.openai.answers import (
    AnswerFrame,
    Choice,
    build_error,
    build_model,
    build_route_headers,
)
from p2pchain.api.openai.choices import Answer, collect, merge, start
from p2pchain.api.openai.embeddings import build_embeddings, parse_embedding
from p2pchain.api.openai.parse import ParsedRequest, parse_chat, parse_completion

WRITE_TIMEOUT_S = 60.0
"""A reader that takes nothing for so long is gone; its session is closed."""


class ReaderGone(Exception):
    """The caller left, or takes nothing any more."""


class OpenAiRoutes:
    """Handlers of /v1."""

    def __init__(self, backend: Backend, bridge: Bridge, gate: TokenGate) -> None:
        self._backend = backend
        self._bridge = bridge
        self._gate = gate

    def add_to(self, app: web.Application) -> None:
        """Register the paths."""
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/v1/models/{model:.+}", self.get_model)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/v1/embeddings", self.embed)

    async def list_models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        self._gate.require(request)
        models = await self._load_models()
        return respond_json({"object": "list", "data": [*map(build_model, models)]})

    async def get_model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        self._gate.require(request)
        name = request.match_info["model"]
        for model in await self._load_models():
            if name in (model.name, "0x" + model.model_id.hex(), model.model_id.hex()):
                return respond_json(build_model(model))
        raise UnknownModel(f"no model {name[:100]!r}; see /v1/models", param="model")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        return await self._answer(request, "chat", parse_chat)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        return await self._answer(request, "text", parse_completion)

    async def embed(self, request: web.Request) -> web.Response:
        """POST /v1/embeddings."""
        self._gate.require(request)
        parsed = parse_embedding(await read_json(request))
        made = await self._bridge.call(self._backend.embed, parsed.request)
        return respond_json(build_embeddings(parsed, made))

    async def _load_models(self) -> tuple[ServedModel, ...]:
        async def load() -> tuple[ServedModel, ...]:
            return self._backend.list_models()

        return await self._bridge.call(load)

    async def _answer(
        self,
        request: web.Request,
        shape: Literal["chat", "text"],
        parse: Callable[[Any], ParsedRequest],
    ) -> web.StreamResponse:
        self._gate.require(request)
        parsed = parse(await read_json(request))
        async with AsyncExitStack() as stack:
            answers = []
            for index in range(parsed.choices):
                completion = parsed.build_choice(index)
                events = await stack.enter_async_context(
                    self._bridge.stream(self._backend.complete, completion)
                )
                answers.append(Answer(index, events))
            started = await start(answers)
            frame = AnswerFrame(
                shape=shape,
                model=parsed.completion.model,
                created_s=int(time.time()),
                session=started.session,
            )
            headers = build_route_headers(started)
            if not parsed.stream:
                choices = await collect(answers)
                return respond_json(frame.build_answer(choices), headers=headers)
            response = web.StreamResponse(
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
                | headers
            )
            response.content_type = "text/event-stream"
            await response.prepare(request)
            try:
                await _stream(response, frame, answers, parsed.include_usage)
            except ReaderGone:
                pass  # leaving the block closes the sessions
            except Exception as error:
                with suppress(ReaderGone):
                    await _send(response, build_error(explain(error)))
            return response


async def _stream(
    response: web.StreamResponse,
    frame: AnswerFrame,
    answers: list[Answer],
    include_usage: bool,
) -> None:
    for answer in answers:
        if first := frame.build_first_chunk(answer.index):
            await _send(response, first)
    choices: list[Choice] = []
    said = [0] * len(answers)
    async with aclosing(merge(answers)) as events:
        async for answer, event in events:
            if isinstance(event, Finished):
                choice = answer.build_choice(event, keeps_tokens=False)
                choices.append(choice)
                await _send(response, frame.build_last_chunk(answer.index, choice))
                continue
            offset = said[answer.index]
            said[answer.index] += len(event.text)
            if chunk := frame.build_chunk(answer.index, event, offset):
                await _send(response, chunk)
    if include_usage:
        await _send(response, frame.build_usage_chunk(choices))
    await _write(response, b"data: [DONE]\n\n")


async def _send(response: web.StreamResponse, value: Any) -> None:
    await _write(response, b"data: " + msgspec.json.encode(value) + b"\n\n")


async def _write(response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(data)
    except (ConnectionError, TimeoutError) as error:
        raise ReaderGone from error
