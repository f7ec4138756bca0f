"""
What nodes ask each other for a state instead of blocks: requests on direct streams.

    sync/offers     nothing -> Offers
    sync/manifest   SnapshotName -> Manifest (chain/snapshots/snapshot.py)
    sync/frontier   FrontierRequest -> SnapshotShard: one shard's parts, of a manifest
    sync/part       PartRequest -> PartBody (chain/snapshots/part.py)
    sync/block      LightRequest -> LightBlock (chain/light/client.py)
    sync/epochs     ProofsRequest -> ProofsAnswer

Spec: docs/protocol/14-state-sync.md
"""

from typing import Annotated

from msgspec import Meta

from chain.light.client import EpochProof
from chain.light.sync import MAX_PROOFS
from primitives.buckets import MAX_LEVELS
from primitives.codec import Record
from primitives.types import U8, U32, Epoch, Hash32, Height, ShardId

OFFERS = "sync/offers"
MANIFEST = "sync/manifest"
FRONTIER = "sync/frontier"
PART = "sync/part"
BLOCK = "sync/block"
EPOCHS = "sync/epochs"

MAX_REQUEST_BYTES = 256
MAX_OFFERS = 4
MAX_OFFERS_BYTES = 512
MAX_FRONTIER_BYTES = 4 * 1024 * 1024
"""65,536 parts of 40 bytes, and a chunk header."""
MAX_BLOCK_BYTES = 64 * 1024
"""64 headers of at most 700 bytes, 128 validators, a certificate."""
MAX_PROOFS_BYTES = MAX_PROOFS * 16 * 1024


class SnapshotName(Record):
    """Names a snapshot by its block."""

    height: Height
    block_hash: Hash32


class Offers(Record):
    """The snapshots that a node serves, the newest first."""

    snapshots: Annotated[tuple[SnapshotName, ...], Meta(max_length=MAX_OFFERS)]


class FrontierRequest(Record):
    """Of which parts does a shard's state consist?"""

    snapshot: SnapshotName
    shard: ShardId


class PartRequest(Record):
    """Give me the buckets under a node of a shard's tree."""

    snapshot: SnapshotName
    shard: ShardId
    levels: Annotated[int, Meta(ge=0, le=MAX_LEVELS)]
    """Of the shard's tree."""
    depth: U8
    """Of the node."""
    first: U32
    """Number of its first bucket."""


class LightRequest(Record):
    """Give me a final block as a light client takes it."""

    height: Height


class ProofsRequest(Record):
    """Give me epoch proofs from this epoch on."""

    epoch: Epoch
    count: U8


class ProofsAnswer(Record):
    """Ascending; fewer where the node knows no more."""

    proofs: Annotated[tuple[EpochProof, ...], Meta(max_length=MAX_PROOFS)]
