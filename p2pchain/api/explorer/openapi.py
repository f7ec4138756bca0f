"""The OpenAPI document of /api/v1, made from the table of paths."""

import re
from typing import Any

from p2pchain.api.explorer.path import Path
from p2pchain.api.params import Param

Json = dict[str, Any]

_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}


def build_openapi(paths: tuple[Path, ...], version: str) -> Json:
    """Return the document that describes `paths`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "p2pchain explorer",
            "version": version,
            "description": "Amounts and 64-bit integers are decimal strings, hashes "
            "and keys lower-case 0x hex, addresses bech32m, times RFC 3339 in UTC.",
        },
        "servers": [{"url": "/api/v1"}],
        "paths": {path.pattern: {"get": _describe(path)} for path in paths},
    }


def _describe(path: "Path") -> Json:
    in_path = set(re.findall(r"{(\w+)}", path.pattern))
    refusal = {"content": {"application/json": {"schema": _ERROR}}}
    return {
        "summary": (path.read.__doc__ or "").strip(),
        "parameters": [_describe_param(p, p.name in in_path) for p in path.params],
        "responses": {
            "200": {"description": "the answer"},
            "400": {"description": "a parameter is wrong"} | refusal,
            "404": {"description": "there is no such thing"} | refusal,
        },
    }


def _describe_param(param: Param, is_in_path: bool) -> Json:
    return {
        "name": param.name,
        "in": "path" if is_in_path else "query",
        "required": param.is_required,
        "description": param.summary,
        "schema": param.kind.schema,
    }
