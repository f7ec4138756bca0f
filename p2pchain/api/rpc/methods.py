"""The method table: every JSON-RPC method by name."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.rpc import (
    chain_methods,
    evidence_methods,
    layout_methods,
    light_methods,
    market_methods,
    node_methods,
    shard_methods,
    stake_methods,
    transaction_methods,
    wallet_methods,
)
from p2pchain.api.rpc.method import Method
from p2pchain.api.rpc.openrpc import build_openrpc


def build_methods(version: str) -> dict[str, Method]:
    """Return all methods, `rpc.discover` among them."""
    methods = {
        method.name: method
        for group in (
            node_methods,
            chain_methods,
            shard_methods,
            stake_methods,
            evidence_methods,
            light_methods,
            transaction_methods,
            market_methods,
            wallet_methods,
            layout_methods,
        )
        for method in group.METHODS
    }

    async def discover(backend: Backend) -> dict[str, Any]:
        return document

    methods["rpc.discover"] = Method(
        "rpc.discover", "This list, as an OpenRPC document", discover
    )
    document = build_openrpc(methods, version)
    return methods
