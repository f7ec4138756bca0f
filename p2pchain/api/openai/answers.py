"""
What /v1 answers: completions, chunks, models and errors in OpenAI's shapes.

Beside OpenAI's fields the last chunk and the whole answer carry `p2pchain`: session,
price and what each hop did, so that a person can look the payment up.
"""

from dataclasses import dataclass
from typing import Any, Literal

from p2pchain.api.backend import Finished, RouteHop, ServedModel, Started
from p2pchain.api.errors import RequestRefused
from p2pchain.api.render import render_hop_report, to_hex

Json = dict[str, Any]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
"""OpenAI's error type by status; 5xx are `server_error`."""

_CODES = {401: "invalid_api_key", 402: "insufficient_quota"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFrame:
    """What all parts of one answer share."""

    shape: Literal["chat", "text"]
    model: str
    """As the caller named it."""
    created_s: int
    session: bytes

    @property
    def identifier(self) -> str:
        """OpenAI's id, from the session's."""
        prefix = "chatcmpl" if self.shape == "chat" else "cmpl"
        return f"{prefix}-{self.session.hex()[:32]}"

    def build_answer(self, text: str, finished: Finished) -> Json:
        """Return the whole answer of a request without streaming."""
        if self.shape == "chat":
            choice: Json = {"message": {"role": "assistant", "content": text}}
        else:
            choice = {"text": text}
        choice |= {"index": 0, "logprobs": None, "finish_reason": finished.reason}
        kind = "chat.completion" if self.shape == "chat" else "text_completion"
        return self._build(kind, [choice]) | {
            "usage": build_usage(finished),
            "p2pchain": build_account(self.session, finished),
        }

    def build_first_chunk(self) -> Json | None:
        """Return the chunk that opens a chat stream."""
        if self.shape == "text":
            return None
        return self._build_chunk({"role": "assistant", "content": ""}, None)

    def build_chunk(self, text: str) -> Json:
        """Return the chunk of some more text."""
        return self._build_chunk({"content": text}, None)

    def build_last_chunk(self, finished: Finished) -> Json:
        """Return the chunk that says why the answer ended."""
        account = {"p2pchain": build_account(self.session, finished)}
        return self._build_chunk({}, finished.reason) | account

    def build_usage_chunk(self, finished: Finished) -> Json:
        """Return the chunk of usage that `stream_options.include_usage` asks for."""
        return self._build(self._chunk_kind, []) | {"usage": build_usage(finished)}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.shape == "chat" else "text_completion"

    def _build_chunk(self, delta: Json, reason: str | None) -> Json:
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self.shape == "chat":
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        return self._build(self._chunk_kind, [choice])

    def _build(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.identifier,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
        }


def build_usage(finished: Finished) -> Json:
    """Return OpenAI's count of tokens."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
    }


def build_account(session: bytes, finished: Finished) -> Json:
    """Return what the answer cost, hop by hop; no price when no hop reported."""
    price = str(sum(hop.price for hop in finished.hops)) if finished.hops else None
    return {
        "session": to_hex(session),
        "price": price,
        "lap_us": finished.lap_us,
        "hops": [render_hop_report(hop) for hop in finished.hops],
    }


def build_route_headers(started: Started) -> dict[str, str]:
    """Return the headers that name the route."""
    return {
        "x-p2pchain-session": to_hex(started.session),
        "x-p2pchain-route": format_route(started.route),
    }


def format_route(route: tuple[RouteHop, ...]) -> str:
    """Return the nodes' names in order."""
    return ",".join(hop.name for hop in route)


def build_model(model: ServedModel) -> Json:
    """Return one entry of /v1/models."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_ms // 1000,
        "owned_by": "p2pchain",
        "context_length": model.context_length,
        "p2pchain": {
            "model_id": to_hex(model.model_id),
            "layers": model.layers,
            "servable": model.servable,
            "reason": model.reason,
        },
    }


def build_error(refused: RequestRefused) -> Json:
    """Return OpenAI's error object."""
    return {
        "error": {
            "message": refused.message,
            "type": _TYPES.get(refused.status, "server_error"),
            "param": refused.param,
            "code": _CODES.get(refused.status, refused.word),
        }
    }
