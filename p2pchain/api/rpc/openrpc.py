"""The OpenRPC document, made from the method table so that it cannot be wrong."""

from typing import Any

from p2pchain.api.params import Param
from p2pchain.api.rpc.method import Access, Method

Json = dict[str, Any]

OPENRPC_VERSION = "1.3.2"


def build_openrpc(methods: dict[str, Method], version: str) -> Json:
    """Return the document that describes `methods`."""
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "p2pchain node",
            "version": version,
            "description": "Amounts and 64-bit integers are decimal strings, hashes "
            "and keys lower-case 0x hex, addresses bech32m, times RFC 3339 in UTC.",
        },
        "methods": [_describe(methods[name]) for name in sorted(methods)],
    }


def _describe(method: Method) -> Json:
    description: Json = {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "either",
        "params": [_describe_param(param) for param in method.params],
        "result": {"name": "result", "schema": {}},
        "x-access": method.access.value,
    }
    if method.access is Access.WALLET:
        description["errors"] = [{"code": 4100, "message": "the token is missing"}]
    return description


def _describe_param(param: Param) -> Json:
    return {
        "name": param.name,
        "summary": param.summary,
        "required": param.is_required,
        "schema": param.kind.schema,
    }
