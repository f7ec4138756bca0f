"""
Chunks of layer shards on held blocks: made, judged, and what blocks may hold of them.

A part of chain/tree/blocktree.py.
"""

from chain.tree.building import Picker
from chain.tree.endorsing import ExecutedChunks, judge_chunk
from chain.tree.inclusion import InclusionJudge, build_inclusion_base
from chain.tree.limits import compute_producer_limits
from chain.tree.producing import ChunkPlace, produce_chunk
from chain.tree.reading import TreeReading
from chain.tree.strays import NO_SIGNATURE
from primitives.types import View
from shards.certificate import CertifiedChunk
from shards.chunk import compute_chunk_hash
from shards.inclusion import InclusionBase
from shards.layout import ROOT_SHARD
from shards.messages import ProducedChunk
from shards.slots import Slot


class TreeChunks:
    """All that a node's desk asks of the tree.

    Args:
        tree: The blocks.
        inclusion: Remembers certificates that were verified.
        executed: Chunks that were executed here.
    """

    def __init__(
        self, tree: TreeReading, inclusion: InclusionJudge, executed: ExecutedChunks
    ) -> None:
        self._tree = tree
        self._inclusion = inclusion
        self._executed = executed

    def build_inclusion_base(self, parent_hash: bytes, view: View) -> InclusionBase:
        """Return what the chunks of a block of `view` on a parent are judged by.

        Raises:
            UnknownBlock: The parent is not held.
        """
        branch = self._tree.build_branch(self._tree.get(parent_hash))
        return build_inclusion_base(self._tree.spec, branch, view)

    def note_certified(self, certified: CertifiedChunk) -> None:
        """Take note of a certificate that was verified: blocks with it cost less."""
        self._inclusion.remember(certified)

    def produce_chunk(
        self, slot: Slot, anchor: bytes, producer: int, picker: Picker
    ) -> ProducedChunk | None:
        """Return an unsigned chunk on a held block; None if there is nothing to do.

        Nor is there where the shard's state is not here, or is here no more.

        Args:
            slot: Of the anchor's child epoch and a later view.
            anchor: The block to stand on.
            producer: Our index in the epoch's set.
            picker: Where transactions come from.

        Raises:
            UnknownBlock: The anchor is not held.
            UnfinalParent: It ends an epoch and is not final.
        """
        parent, shard = self._tree.get(anchor), slot.shard
        self._tree.validate_root(parent)
        branch = self._tree.build_branch(parent)
        if shard in branch.halted or shard not in parent.followed:
            return None
        busy = sum(
            1
            for other in parent.heads
            if other not in (shard, ROOT_SHARD)
            and (picker.get_waiting(other) or branch.has_inbox(other))
        )
        params = self._tree.spec.params
        fresh = produce_chunk(
            self._tree.spec,
            parent,
            ChunkPlace(shard, slot.epoch, slot.created_view, producer),
            inbox=branch.get_inbox(shard, params.chunk_packets),
            candidates=picker.pick(shard, lambda key: parent.view.get(shard, key)),
            limits=compute_producer_limits(params, len(parent.heads), 1 + busy),
            verified=self._tree.verified,
        )
        if fresh is None:
            return None
        self._executed.add(compute_chunk_hash(fresh.header), fresh.executed)
        return ProducedChunk(
            header=fresh.header,
            signature=NO_SIGNATURE,
            transactions=fresh.body.transactions,
            packets=fresh.body.packets,
            witness=fresh.witness,
        )

    def judge_chunk(self, produced: ProducedChunk, parent_hash: bytes) -> None:
        """Execute somebody's chunk from its witness alone.

        Args:
            produced: Its header fits a block on the parent, its body the header.
            parent_hash: Of a block that could hold it.

        Raises:
            UnknownBlock: The parent is not held.
            InvalidChunk: Executing it does not give its header.
            InvalidWitness: The witness is not the chunk's.
        """
        branch = self._tree.build_branch(self._tree.get(parent_hash))
        executed = judge_chunk(
            self._tree.spec, branch, produced, self._tree.verified, self._tree.executor
        )
        self._executed.add(compute_chunk_hash(produced.header), executed)
