"""A block that a node holds with its consequences, on top of the final state."""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.block import Block
from chain.epochs import EpochState
from chain.execution import ChunkResult
from chain.header import Header, build_proposal
from chain.outcome import Event
from chain.state import StateView
from consensus.messages import Proposal
from primitives.types import Height, ShardId, View
from shards.chunk import ChunkHeader
from shards.packet import PacketProof


@dataclass(frozen=True, slots=True)
class HeldBlock:
    """A block, executed."""

    block_hash: bytes
    block: Block
    block_bytes: bytes
    view: StateView
    """The state after it."""
    heads: Mapping[ShardId, ChunkHeader]
    """Newest chunk header of every shard that its children have, in this block or
    before."""
    results: Mapping[ShardId, ChunkResult]
    """By shard with a chunk in this block; empty once the block is final."""
    emitted: Mapping[tuple[ShardId, ShardId], tuple[PacketProof, ...]]
    """Packets that this block's chunks sent, by (source, destination), in order."""
    events: tuple[Event, ...]
    """Of its system step; empty once the block is final."""
    seen: tuple[int, ...]
    """By index in its epoch's set: the epoch's blocks up to it that recorded the
    vote."""
    child_epoch: EpochState
    """The epoch of its children: its own one, or the next if it is a boundary."""

    @property
    def header(self) -> Header:
        """The block's header."""
        return self.block.header

    @property
    def height(self) -> Height:
        """The block's height."""
        return self.block.header.height

    @property
    def is_epoch_root(self) -> bool:
        """Its children are the first ones of their epoch."""
        return self.height == 0 or self.header.epoch != self.child_epoch.epoch

    @property
    def child_parent_view(self) -> View:
        """The `parent_view` of its children: views begin anew on an epoch's root."""
        return 0 if self.is_epoch_root else self.header.view

    @property
    def parent_hash(self) -> bytes:
        """The block before."""
        return self.block.header.parent_hash

    @property
    def proposal(self) -> Proposal:
        """What validators voted on."""
        return build_proposal(self.block.header, self.block_hash)
