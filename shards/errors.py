"""
Errors of the shard layer.

    RemoteError
    |- InvalidPacket            a packet out of order, or not under its out_root
    |- InvalidChunk             a chunk that no block may hold at this place
    |- InvalidChunkCertificate  endorsements that are too few, or of somebody else
    |- InvalidShardEvidence     statements that convict nobody (InvalidEvidence)
    MissingError
    |- MissingAnchor            a chunk stands on a block that is not held
    P2PChainError
    |- InvalidLayout            shards that overlap, leave a gap or repeat an id
    |- UnknownLayers            layers that no shard of the layout holds

Messages that the desk refuses raise nothing: it answers with a `Refuse` effect.
"""

from consensus.errors import InvalidEvidence
from primitives.errors import MissingError, P2PChainError, RemoteError


class InvalidLayout(P2PChainError):
    """Shards that overlap, leave a gap or repeat an id."""


class UnknownLayers(P2PChainError):
    """Layers that no shard of the layout holds."""


class InvalidPacket(RemoteError):
    """A packet out of order, or not under the out_root that it names."""


class InvalidChunk(RemoteError):
    """A chunk that no valid block can hold at this place."""


class InvalidChunkCertificate(RemoteError):
    """Endorsements of a chunk that are too few, forged, or of no committee member."""


class InvalidShardEvidence(InvalidEvidence):
    """Statements about chunks that convict nobody."""


class MissingAnchor(MissingError):
    """A chunk's anchor is not held here, or not on this branch."""
