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
from shards.layout import ROOT_SHARD


@dataclass(frozen=True, slots=True)
class Follow:
    """What a node wants to follow."""

    shards: frozenset[ShardId] | None = None
    """Layer shards; None: all, also those that are still to come."""

    def wants(self, shard: ShardId) -> bool:
        """Tell whether a shard should be followed."""
        return shard == ROOT_SHARD or self.shards is None or shard in self.shards


FOLLOW_ALL = Follow()
