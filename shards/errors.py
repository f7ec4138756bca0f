"""Errors of the shard layer."""

from primitives.errors import P2PChainError, RemoteError


class InvalidLayout(P2PChainError):
    """Shards that overlap, leave a gap or repeat an id."""


class UnknownLayers(P2PChainError):
    """Layers that no shard of the layout holds."""


class InvalidPacket(RemoteError):
    """A packet out of order, or not under the out_root that it names."""
