"""
/v1/embeddings: a body into an EmbeddingRequest, and vectors into OpenAI's answer.

The official client asks for base64, which is the vector's own bytes; by hand one gets
lists of numbers.
"""

import base64
import struct
from dataclasses import dataclass
from typing import Any, Literal

from p2pchain.api.completion import EmbeddingRequest, Embeddings
from p2pchain.api.errors import InvalidParams, Unsupported
from p2pchain.api.render import to_hex

MAX_INPUTS = 2048
"""As OpenAI's own."""

_DROPPED = {"user"}
_KNOWN = {"model", "input", "encoding_format", "dimensions"}

Json = dict[str, Any]
Format = Literal["float", "base64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedEmbedding:
    """A request and how its answer is wanted."""

    request: EmbeddingRequest
    format: Format
    dimensions: int | None
    """How long a vector must be; None: as the model has it."""


def parse_embedding(body: Any) -> ParsedEmbedding:
    """Return the request that a /v1/embeddings body asks for.

    Raises:
        InvalidParams: A field is missing, malformed or out of range.
        Unsupported: A field asks for what we do not do.
    """
    if not isinstance(body, dict):
        raise InvalidParams("the body must be a JSON object")
    for name in body:
        if name not in _KNOWN | _DROPPED:
            raise Unsupported(f"unknown parameter {name[:64]!r}", param=name[:64])
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidParams("model must name a model; see /v1/models", param="model")
    wanted = body.get("encoding_format")
    if wanted not in (None, "float", "base64"):
        raise InvalidParams(
            "encoding_format must be float or base64", param="encoding_format"
        )
    dimensions = body.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise InvalidParams("dimensions must be 1 or more", param="dimensions")
    inputs = _parse_inputs(body.get("input"))
    return ParsedEmbedding(
        request=EmbeddingRequest(model=model, inputs=inputs),
        format="base64" if wanted == "base64" else "float",
        dimensions=dimensions,
    )


def build_embeddings(parsed: ParsedEmbedding, made: Embeddings) -> Json:
    """Return OpenAI's answer.

    Raises:
        Unsupported: The model's vectors are not as long as was wanted.
    """
    if parsed.dimensions not in (None, len(made.vectors[0]) // 4):
        raise Unsupported(
            f"this model's vectors have {len(made.vectors[0]) // 4} dimensions",
            param="dimensions",
        )
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _render(vector, parsed.format),
            }
            for index, vector in enumerate(made.vectors)
        ],
        "model": parsed.request.model,
        "usage": {
            "prompt_tokens": made.prompt_tokens,
            "total_tokens": made.prompt_tokens,
        },
        "p2pchain": {
            "sessions": [to_hex(session) for session in made.sessions],
            "price": str(made.price),
        },
    }


def _render(vector: bytes, wanted: Format) -> str | list[float]:
    if wanted == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _parse_inputs(given: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(given, str) or _is_tokens(given):
        given = [given]
    if not isinstance(given, list) or not given:
        raise InvalidParams(
            "input must be a text, token ids, or a list of those", param="input"
        )
    if len(given) > MAX_INPUTS:
        raise InvalidParams(f"at most {MAX_INPUTS} inputs", param="input")
    return tuple(_parse_input(index, item) for index, item in enumerate(given))


def _parse_input(index: int, item: Any) -> str | tuple[int, ...]:
    where = f"input[{index}]"
    if isinstance(item, str):
        if not item:
            raise InvalidParams(f"{where} must not be empty", param=where)
        return item
    if _is_tokens(item):
        return tuple(item)
    raise InvalidParams(f"{where} must be text or token ids", param=where)


def _is_tokens(item: Any) -> bool:
    return (
        isinstance(item, list)
        and bool(item)
        and all(type(token) is int and 0 <= token < 2**31 for token in item)
    )
