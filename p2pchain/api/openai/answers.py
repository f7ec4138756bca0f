"""
What /v1 answers: completions, chunks, models and errors in OpenAI's shapes.

Beside OpenAI's fields the last chunk and the whole answer carry `p2pchain`: session,
price and what each hop did, so that a person can look the payment up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from inference.sampling.params import TokenLogprob
from p2pchain.api.completion import Delta, Finished, RouteHop, ServedModel, Started
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
class Choice:
    """One of the answers to a request."""

    session: bytes
    text: str
    tokens: tuple[Delta, ...]
    """Its parts; empty in a stream, where they have been sent."""
    finished: Finished


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

    def build_answer(self, choices: Sequence[Choice]) -> Json:
        """Return the whole answer of a request without streaming."""
        kind = "chat.completion" if self.shape == "chat" else "text_completion"
        parts = [self._build_choice(index, each) for index, each in enumerate(choices)]
        return self._build(kind, parts) | {
            "usage": build_usage([each.finished for each in choices]),
            "p2pchain": build_accounts(choices),
        }

    def _build_choice(self, index: int, choice: Choice) -> Json:
        if self.shape == "chat":
            said: Json = {"message": {"role": "assistant", "content": choice.text}}
        else:
            said = {"text": choice.text}
        return said | {
            "index": index,
            "logprobs": build_logprobs(self.shape, choice.tokens),
            "finish_reason": choice.finished.reason,
        }

    def build_first_chunk(self, index: int) -> Json | None:
        """Return the chunk that opens a chat stream."""
        if self.shape == "text":
            return None
        return self._build_chunk(index, {"role": "assistant", "content": ""}, None)

    def build_chunk(self, index: int, delta: Delta, offset: int) -> Json | None:
        """Return the chunk of some more text; None when there is nothing to say.

        Args:
            index: Of the answer.
            delta: The text.
            offset: Characters of the answer before it.
        """
        if not delta.text and not delta.logprobs:
            return None
        logprobs = build_logprobs(self.shape, [delta], offset)
        return self._build_chunk(index, {"content": delta.text}, None, logprobs)

    def build_last_chunk(self, index: int, choice: Choice) -> Json:
        """Return the chunk that says why an answer ended."""
        account = {"p2pchain": build_accounts([choice])}
        return self._build_chunk(index, {}, choice.finished.reason) | account

    def build_usage_chunk(self, choices: Sequence[Choice]) -> Json:
        """Return the chunk of usage that `stream_options.include_usage` asks for."""
        usage = build_usage([choice.finished for choice in choices])
        return self._build(self._chunk_kind, []) | {"usage": usage}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.shape == "chat" else "text_completion"

    def _build_chunk(
        self,
        index: int,
        delta: Json,
        reason: str | None,
        logprobs: Json | None = None,
    ) -> Json:
        choice: Json = {"index": index, "logprobs": logprobs, "finish_reason": reason}
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


def build_usage(answers: Sequence[Finished]) -> Json:
    """Return OpenAI's count of tokens; the prompt counts once."""
    prompt = max(finished.prompt_tokens for finished in answers)
    completion = sum(finished.completion_tokens for finished in answers)
    guesses = sum(finished.guesses for finished in answers)
    right = sum(finished.right_guesses for finished in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {
            "accepted_prediction_tokens": right,
            "rejected_prediction_tokens": guesses - right,
        },
        "prompt_tokens_details": {
            "cached_tokens": min(finished.cached_tokens for finished in answers)
        },
    }


def build_logprobs(
    shape: Literal["chat", "text"], tokens: Sequence[Delta], offset: int = 0
) -> Json | None:
    """Return how likely tokens were, in the shape of the endpoint; None unasked.

    Args:
        shape: Of the endpoint.
        tokens: Parts of an answer, one after the other.
        offset: Characters of the answer before them.
    """
    starts = accumulate((len(token.text) for token in tokens), initial=offset)
    offsets = [
        start for token, start in zip(tokens, starts, strict=False) if token.logprobs
    ]
    tokens = [token for token in tokens if token.logprobs]
    if not tokens:
        return None
    if shape == "chat":
        return {"content": [_build_token_logprobs(each) for each in tokens]}
    chosen = [token.logprobs[0] for token in tokens]
    return {
        "tokens": [each.text for each in chosen],
        "token_logprobs": [each.logprob for each in chosen],
        "top_logprobs": [
            {each.text: each.logprob for each in token.logprobs[1:]} for token in tokens
        ],
        "text_offset": offsets,
    }


def _build_token_logprobs(token: Delta) -> Json:
    chosen, *others = map(_build_logprob, token.logprobs)
    return chosen | {"top_logprobs": others}


def _build_logprob(token: TokenLogprob) -> Json:
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()),
    }


def build_accounts(choices: Sequence[Choice]) -> Json:
    """Return what the answers cost: one account, or one for each and their sum."""
    accounts = [build_account(each.session, each.finished) for each in choices]
    if len(accounts) == 1:
        return accounts[0]
    prices = [account["price"] for account in accounts if account["price"] is not None]
    return accounts[0] | {
        "price": str(sum(map(int, prices))) if prices else None,
        "hops": [hop for account in accounts for hop in account["hops"]],
        "answers": accounts,
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
