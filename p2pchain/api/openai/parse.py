"""
From an OpenAI request body to a CompletionRequest, or a refusal that names the field.

A parameter that changes the answer is done or refused, never ignored; the few that
change nothing here (a user's label, a storage wish) are accepted and dropped.
"""

import secrets
from dataclasses import dataclass, replace
from typing import Any

from msgspec.structs import replace as replace_fields

from inference.sampling.params import (
    MAX_LOGPROBS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    ChatMessage,
    SamplingParams,
)
from inference.sampling.speculation import Speculation
from p2pchain.api.completion import CompletionRequest
from p2pchain.api.errors import InvalidParams, Unsupported

MAX_MESSAGES = 1024
"""Longer chats do not fit any context; a body could hold a hundred thousand."""
MAX_CHOICES = 8
"""Answers to one request; each is a session of its own."""
MAX_TOKENS = 2**20
"""Above any context length that exists."""
MAX_SALT_CHARACTERS = 256
"""It is hashed; a user's name or a random string is enough."""
DEFAULT_COMPLETION_TOKENS = 16
"""What OpenAI's /v1/completions does without max_tokens."""

_DROPPED = {
    "user", "store", "metadata", "service_tier", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls",
    "reasoning_effort", "verbosity",
}  # fmt: skip
"""Accepted and without effect: labels and wishes about the server."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "functions": ([], None),
    "function_call": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""Parameters of which we do only these values."""

_COMMON = {
    "model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos",
    "stream", "stream_options", "n", "logprobs", "speculation", "prefix_cache",
    "cache_salt",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request and how its answer is wanted."""

    completion: CompletionRequest
    stream: bool
    include_usage: bool
    """Whether a stream ends with a chunk of usage."""
    choices: int
    """How many answers."""

    def build_choice(self, index: int) -> CompletionRequest:
        """Return the request for one of the answers: each has a seed of its own."""
        sampling = self.completion.sampling
        seed = (sampling.seed + index) % 2**63
        return replace(self.completion, sampling=replace_fields(sampling, seed=seed))


def parse_chat(body: Any) -> ParsedRequest:
    """Return the request that a /v1/chat/completions body asks for.

    Raises:
        InvalidParams: A field is missing, malformed or out of range.
        Unsupported: A field asks for what we do not do.
    """
    fields = _get_fields(body, {"messages", "max_completion_tokens", "top_logprobs"})
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidParams("messages must be a list with a message", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidParams(f"at most {MAX_MESSAGES} messages", param="messages")
    limit = _get_max_tokens(fields, "max_completion_tokens")
    if limit is None:
        limit = _get_max_tokens(fields, "max_tokens")
    return _build(
        fields,
        logprobs=_parse_chat_logprobs(fields),
        messages=tuple(_parse_message(i, m) for i, m in enumerate(messages)),
        max_tokens=limit,
    )


def parse_completion(body: Any) -> ParsedRequest:
    """Return the request that a /v1/completions body asks for.

    Raises:
        InvalidParams: A field is missing, malformed or out of range.
        Unsupported: A field asks for what we do not do.
    """
    fields = _get_fields(body, {"prompt"})
    limit = _get_max_tokens(fields, "max_tokens")
    return _build(
        fields,
        # A number here, not a flag as in chats.
        logprobs=_get_integer(fields, "logprobs", 0, MAX_LOGPROBS),
        prompt=_parse_prompt(fields.get("prompt")),
        max_tokens=DEFAULT_COMPLETION_TOKENS if limit is None else limit,
    )


def _get_fields(body: Any, own: set[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidParams("the body must be a JSON object")
    for name, value in body.items():
        if name in _FIXED:
            # `0 == False` in Python, and a client may well send either.
            if value not in _FIXED[name]:
                raise Unsupported(
                    f"{name} is not supported with this value", param=name
                )
        elif name not in _COMMON | _DROPPED | own:
            name = name[:64]
            raise Unsupported(f"unknown parameter {name!r}", param=name)
    return body


def _parse_chat_logprobs(fields: dict[str, Any]) -> int | None:
    count = _get_integer(fields, "top_logprobs", 0, MAX_LOGPROBS)
    if _get_flag(fields, "logprobs"):
        return count or 0
    if count:
        raise InvalidParams("top_logprobs needs logprobs", param="top_logprobs")
    return None


def _build(
    fields: dict[str, Any], *, logprobs: int | None, **prompt: Any
) -> ParsedRequest:
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidParams("model must name a model; see /v1/models", param="model")
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InvalidParams("stream_options must be an object", param="stream_options")
    return ParsedRequest(
        completion=CompletionRequest(
            model=model,
            sampling=_parse_sampling(fields, logprobs),
            shares_prefix=_get_flag(fields, "prefix_cache", default=True),
            cache_salt=_parse_salt(fields.get("cache_salt")),
            **prompt,
        ),
        stream=_get_flag(fields, "stream"),
        include_usage=_get_flag(options, "include_usage"),
        choices=_get_integer(fields, "n", 1, MAX_CHOICES) or 1,
    )


def _parse_sampling(fields: dict[str, Any], logprobs: int | None) -> SamplingParams:
    top_p = _get_number(fields, "top_p", 1.0, 0.0, 1.0)
    if top_p == 0:
        raise InvalidParams(
            "top_p must be above 0; for greedy answers set temperature to 0",
            param="top_p",
        )
    penalty = _get_number(fields, "repetition_penalty", 1.0, 0.0, 2.0)
    if penalty == 0:
        raise InvalidParams(
            "repetition_penalty must be above 0", param="repetition_penalty"
        )
    seed = _get_integer(fields, "seed", -(2**63), 2**63 - 1)
    return SamplingParams(
        temperature=_get_number(fields, "temperature", 1.0, 0.0, 2.0),
        top_p=top_p,
        top_k=_get_integer(fields, "top_k", 0, 2**31) or 0,
        # Without a seed every answer is another one; with one it can be had again.
        seed=secrets.randbits(63) if seed is None else seed % 2**63,
        stop=_parse_stop(fields.get("stop")),
        ignore_eos=_get_flag(fields, "ignore_eos"),
        repetition_penalty=penalty,
        presence_penalty=_get_number(fields, "presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=_get_number(fields, "frequency_penalty", 0.0, -2.0, 2.0),
        logprobs=logprobs,
        speculation=_parse_speculation(fields.get("speculation")),
    )


def _parse_speculation(mode: Any) -> Speculation:
    if mode is None:
        return Speculation.AUTO
    try:
        return Speculation(mode)
    except ValueError:
        words = ", ".join(Speculation)
        raise InvalidParams(
            f"speculation must be one of {words}", param="speculation"
        ) from None


def _parse_message(index: int, message: Any) -> ChatMessage:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise InvalidParams(f"{where} must be an object", param=where)
    role = message.get("role")
    if role in ("tool", "function"):
        raise Unsupported(f"{where}: tools are not supported", param=f"{where}.role")
    if role not in ("system", "developer", "user", "assistant"):
        raise InvalidParams(
            f"{where}.role must be system, user or assistant", param=f"{where}.role"
        )
    if message.get("tool_calls"):
        raise Unsupported(f"{where}: tools are not supported", param=where)
    content = _parse_content(f"{where}.content", message.get("content"))
    return ChatMessage("system" if role == "developer" else role, content)


def _parse_content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidParams(f"{where} must be text", param=where)
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in ("text", "input_text"):
            raise Unsupported(f"{where}: only parts of text", param=where)
        if not isinstance(part.get("text"), str):
            raise InvalidParams(f"{where}: a part without its text", param=where)
        texts.append(part["text"])
    return "".join(texts)


def _parse_prompt(prompt: Any) -> str | tuple[int, ...]:
    if isinstance(prompt, list) and len(prompt) == 1 and not _is_integer(prompt[0]):
        prompt = prompt[0]
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidParams("prompt must not be empty", param="prompt")
        return prompt
    if isinstance(prompt, list) and prompt:
        if all(_is_integer(t) and 0 <= t < 2**31 for t in prompt):
            return tuple(prompt)
        if all(isinstance(item, str | list) for item in prompt):
            raise Unsupported("one prompt at a time", param="prompt")
    raise InvalidParams("prompt must be text or a list of token ids", param="prompt")


def _parse_stop(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(s, str) for s in stops):
        raise InvalidParams("stop must be a string or a list of strings", param="stop")
    if len(stops) > MAX_STOPS or any(len(s) > MAX_STOP_CHARACTERS for s in stops):
        raise InvalidParams(
            f"at most {MAX_STOPS} stop strings of {MAX_STOP_CHARACTERS} characters",
            param="stop",
        )
    if not all(stops):
        raise InvalidParams("a stop string must not be empty", param="stop")
    return tuple(stops)


def _parse_salt(salt: Any) -> str:
    if salt is None:
        return ""
    if not isinstance(salt, str) or len(salt) > MAX_SALT_CHARACTERS:
        raise InvalidParams(
            f"cache_salt must be text of at most {MAX_SALT_CHARACTERS} characters",
            param="cache_salt",
        )
    return salt


def _get_max_tokens(fields: dict[str, Any], name: str) -> int | None:
    return _get_integer(fields, name, 1, MAX_TOKENS)


def _get_number(
    fields: dict[str, Any], name: str, default: float, low: float, high: float
) -> float:
    value = fields.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise InvalidParams(f"{name} must be from {low:g} to {high:g}", param=name)
    return float(value)


def _get_integer(fields: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not _is_integer(value) or not low <= value <= high:
        raise InvalidParams(
            f"{name} must be an integer from {low} to {high}", param=name
        )
    return int(value)


def _get_flag(fields: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidParams(f"{name} must be true or false", param=name)
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
