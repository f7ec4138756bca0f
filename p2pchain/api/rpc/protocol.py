"""
JSON-RPC 2.0: requests, batches, notifications and errors.  Nothing of ours is in it.

    bytes --parse_body--> [Call | Invalid, ...] --answers--> value or nothing

Spec: https://www.jsonrpc.org/specification, error codes of EIP-1474
"""

from dataclasses import dataclass
from typing import Any

from p2pchain.api.errors import (
    InvalidParams,
    RequestRefused,
    TransactionRejected,
)

Json = dict[str, Any]
Identifier = str | int | None

MAX_BATCH = 100
"""Calls in one batch: enough for a page of blocks."""
MAX_IDENTIFIER_CHARS = 256
PARSE_ERROR = -32700
INVALID_REQUEST = -32600


@dataclass(frozen=True, slots=True)
class Call:
    """One well-formed call."""

    method: str
    params: list[Any] | Json
    identifier: Identifier
    is_notification: bool
    """Without an id: carried out, never answered."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Something that is no call; answered with an error."""

    message: str
    identifier: Identifier = None


@dataclass(frozen=True, slots=True)
class Batch:
    """All calls of one body."""

    calls: tuple[Call | Invalid, ...]
    is_list: bool
    """Whether the answer is a list."""


def parse_body(value: Any) -> Batch:
    """Return the calls in a decoded body."""
    if not isinstance(value, list):
        return Batch((parse_call(value),), is_list=False)
    if not value:
        return Batch((Invalid("an empty batch"),), is_list=False)
    if len(value) > MAX_BATCH:
        return Batch((Invalid(f"at most {MAX_BATCH} calls in a batch"),), is_list=False)
    return Batch(tuple(parse_call(item) for item in value), is_list=True)


def parse_call(value: Any) -> Call | Invalid:
    """Return the call in a JSON object, or why it is none."""
    if not isinstance(value, dict):
        return Invalid("a call is a JSON object")
    identifier = value.get("id")
    if not _is_identifier(identifier):
        return Invalid("id must be a string, an integer or null")
    if value.get("jsonrpc") != "2.0":
        return Invalid('jsonrpc must be "2.0"', identifier)
    method = value.get("method")
    if not isinstance(method, str):
        return Invalid("method must be a string", identifier)
    params = value.get("params", {})
    if params is None:  # widely sent, though the specification knows only its absence
        params = {}
    if not isinstance(params, list | dict):
        return Invalid("params must be a list or an object", identifier)
    return Call(method, params, identifier, is_notification="id" not in value)


def build_result(identifier: Identifier, result: Any) -> Json:
    """Return the answer of a call that went well."""
    return {"jsonrpc": "2.0", "id": identifier, "result": result}


def build_error(
    identifier: Identifier, code: int, message: str, data: Json | None = None
) -> Json:
    """Return the answer of a call that did not."""
    error: Json = {"code": code, "message": message}
    if data:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": identifier, "error": error}


def build_refusal(identifier: Identifier, refused: RequestRefused) -> Json:
    """Return the answer of a call that we refuse; `data` is for programs."""
    data: Json = {"code": refused.word}
    if isinstance(refused, TransactionRejected):
        data["reason"] = refused.reason
    if refused.param is not None:
        data["param"] = refused.param
    return build_error(identifier, refused.rpc_code, refused.message, data)


def build_parse_error(refused: InvalidParams) -> Json:
    """Return the answer to a body that is not JSON."""
    return build_error(None, PARSE_ERROR, refused.message)


def _is_identifier(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_IDENTIFIER_CHARS
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return value is None or (is_integer and abs(value) <= 2**53)
