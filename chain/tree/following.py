"""
Which shards a node follows: holds the state of, executes, indexes.

Theory of operation
-------------------
A block says of every layer shard's chunk what it did, and a certificate makes that
true.  So a node can go on from block to block with no more of a shard than its newest
chunk header and the root of its state; whether a block is valid never depends on
executing a layer shard's chunk.  The root shard is followed by everybody.

    followed      buckets, tree, index, mempool
    not followed  newest chunk header, root

A certified chunk that executes differently here is somebody's crime, or our fault of
program or memory.  Either way the state that the chain goes on from is not the one
that we have: the shard is followed no more, from that block on, and the block stays
valid.

Spec: docs/protocol/06-shards.md
"""

from dataclasses import dataclass

from primitives.types import ShardId
from shards.layout import ROOT_SHARD, Layout, ShardSpec


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers [start, end) of a model."""

    model_id: bytes
    start: int
    end: int

    def meets(self, spec: ShardSpec) -> bool:
        """Tell whether a shard holds any of them."""
        is_apart = spec.end <= self.start or self.end <= spec.start
        return spec.model_id == self.model_id and not is_apart


@dataclass(frozen=True, slots=True)
class Follow:
    """What a node wants to follow."""

    shards: frozenset[ShardId] | None = None
    """Layer shards; None: all, also those that are still to come."""
    layers: tuple[Layers, ...] = ()
    """Those that the node works with: their shards are wanted whatever their ids,
    which a split changes."""
    custodian: bytes | None = None
    """BLS public key of a validator that keeps shards whose custodian it is, or will be
    in the next epoch (chain/tree/custody.py)."""

    def wants(self, spec: ShardSpec) -> bool:
        """Tell whether a layer shard should be followed."""
        return (
            self.shards is None
            or spec.shard_id in self.shards
            or any(layers.meets(spec) for layers in self.layers)
        )

    def choose(self, layout: Layout) -> frozenset[ShardId]:
        """Return the wanted shards of a layout; the root shard is always one."""
        wanted = (spec.shard_id for spec in layout.shards if self.wants(spec))
        return frozenset((ROOT_SHARD, *wanted))


FOLLOW_ALL = Follow()
