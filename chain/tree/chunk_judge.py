"""
What the tree tells a desk: where a view's chunks belong, and what a chunk is worth.

Everything here is the same for a node and for a simulated one; they differ in how they
keep time, send and write.

Spec: docs/protocol/06-shards.md
"""

from collections import OrderedDict

from chain.errors import InvalidWitness, UnfinalParent, UnknownBlock
from chain.tree.blocktree import BlockTree
from consensus.leader import compute_leader
from primitives.types import View
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk, MissingAnchor
from shards.events import Executed, Judgement, ViewEntered
from shards.layout import ROOT_SHARD
from shards.messages import ProducedChunk

MAX_SUSPECTS = 4
"""Wrong chunks kept, each below 4 MiB; a certificate follows within a view or two."""


class ChunkJudge:
    """Judges chunks on the parent of the view that was entered last."""

    def __init__(self, tree: BlockTree) -> None:
        self._tree = tree
        self.parent = b""
        """Of the view that was entered last."""
        self._suspects: OrderedDict[bytes, ProducedChunk] = OrderedDict()

    def enter(self, view: View, parent_hash: bytes) -> ViewEntered | None:
        """Return the news of a view; None if its parent is final and left behind."""
        tree = self._tree
        try:
            base = tree.chunks.build_inclusion_base(parent_hash, view)
        except UnknownBlock:
            # Another block is final after it: a newer place is on its way.
            return None
        epoch = tree.epoch
        self.parent = parent_hash
        return ViewEntered(
            base=base,
            parent=parent_hash,
            leaders=tuple(
                compute_leader(epoch.seed, each, epoch.validators)
                for each in (view, view + 1)
            ),
            producible=tree.followed & base.heads.keys() - {ROOT_SHARD} - base.halted,
        )

    def judge(self, produced: ProducedChunk) -> Executed:
        """Execute somebody's chunk from its witness, and keep it if it is wrong.

        If a wrong chunk is endorsed all the same, that is a fraud.
        """
        judgement, detail = Judgement.GOOD, ""
        try:
            self._tree.chunks.judge_chunk(produced, self.parent)
        except (MissingAnchor, UnknownBlock, UnfinalParent) as error:
            judgement, detail = Judgement.UNKNOWN, str(error)
        except InvalidWitness as error:
            judgement, detail = Judgement.SPOILT, str(error)
        except InvalidChunk as error:
            judgement, detail = Judgement.BAD, str(error)
            self._suspects[compute_chunk_hash(produced.header)] = produced
            if len(self._suspects) > MAX_SUSPECTS:
                self._suspects.popitem(last=False)
        return Executed(produced.header, judgement, detail)

    def take_suspect(self, header: ChunkHeader) -> ProducedChunk | None:
        """Return a chunk that was found wrong here, once; None for every other."""
        return self._suspects.pop(compute_chunk_hash(header), None)
