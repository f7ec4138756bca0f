"""A block that a node holds with its consequences, on top of the final state."""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.execution.chunk import ChunkBody
from chain.execution.chunk_run import ChunkResult
from chain.ledger.epochs import EpochState
from chain.records.block import Block
from chain.records.header import Header, build_proposal
from chain.records.outcome import Event
from chain.state.state import StateView
from consensus.messages import Proposal
from primitives.types import Height, ShardId, View
from shards.chunk import Chunk, ChunkHeader
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
    followed: frozenset[ShardId]
    """Of the shards in `heads`, those whose state the view has."""
    results: Mapping[ShardId, ChunkResult]
    """Of the chunks in this block that were executed; empty once it is final."""
    bodies: Mapping[bytes, ChunkBody]
    """Of layer shards' chunks, as far as they are here, by chunk hash; empty once the
    block is final."""
    strayed: Mapping[ShardId, str]
    """Shards that are followed no more, as their chunk in this block did not do here
    what it says; and why."""
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
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks in this block that were executed, whole; none once it is final."""
        return tuple(
            Chunk(header, result.transactions, result.consumed)
            for header in self.block.body.headers
            if (result := self.results.get(header.shard)) is not None
        )

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
