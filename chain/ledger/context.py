"""What a rule may know besides its own shard's state."""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.records.model import ModelRecord
from chain.records.params import ChainParams
from primitives.types import Epoch, Height, Nonce, ShardId, TimeMs
from shards.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Constant for all transactions of one chunk; "now" is the parent block's."""

    chain_id: bytes
    shard: ShardId
    epoch: Epoch
    height: Height
    """Of the parent block."""
    time_ms: TimeMs
    """Of the parent block."""
    layout: Layout
    models: Mapping[bytes, ModelRecord]
    params: ChainParams
    consumed: Mapping[ShardId, int]
    """By destination: packets of this shard that it had consumed at the parent."""
    emitted: Mapping[ShardId, int]
    """By source: packets to this shard that it had emitted at the parent."""
    halted: frozenset[ShardId] = frozenset()
    """Shards that stand still since a fraud in them was proven."""


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls a rule."""

    sender: bytes
    nonce: Nonce
