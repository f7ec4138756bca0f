"""Building a block: which packets and transactions go in, in which order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from chain.block import (
    Attendance,
    Block,
    Body,
    compute_attendance_root,
    compute_chunks_root,
    compute_evidence_root,
    compute_heads_root,
    compute_roots_root,
)
from chain.chunk_execution import ExecutedChunk, finish_chunk
from chain.execution import ChunkFull, ChunkLimits
from chain.header import HEADER_VERSION, Header
from chain.processing import (
    BlockBase,
    Processed,
    combine_chunks,
    compute_block_limits,
    get_state,
    reduce_limits,
    start_chunk,
)
from chain.producing import fill_chunk
from chain.spec import ChainSpec
from chain.transaction import SignedTransaction
from chain.verified import VerifiedCache
from consensus.randao import compute_mix
from primitives.types import ShardId
from shards.packet import PacketProof

ReadState = Callable[[bytes], bytes | None]


class Picker(Protocol):
    """Where a leader finds transactions; the mempool fits as it is."""

    def get_waiting(self, shard: ShardId) -> int:
        """Return about how many transactions wait for the shard."""

    def pick(
        self, shard: ShardId, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield candidates in the order of preference, per sender by nonce.

        Args:
            shard: Where they run.
            read: The shard's state at the parent block.
        """


class NothingWaits:
    """A picker for blocks without transactions."""

    def get_waiting(self, shard: ShardId) -> int:
        """Return 0."""
        return 0

    def pick(
        self, shard: ShardId, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield nothing."""
        return iter(())


def build_chunks(
    spec: ChainSpec,
    base: BlockBase,
    picker: Picker,
    get_inbox: Callable[[ShardId], Sequence[PacketProof]],
    verified: VerifiedCache,
) -> Processed:
    """Fill the chunks of a block.

    Shards with little to do come first, and each may take all that is left divided by
    the shards that are left: so none is starved, and what one leaves the next can use.

    Args:
        spec: The chain.
        base: What they stand on.
        picker: Candidates.
        get_inbox: Packets that wait for a shard, in order per source.
        verified: Signatures checked before.
    """
    heads = base.parent.heads
    inboxes = {shard: get_inbox(shard) for shard in heads}
    order = sorted(
        heads,
        key=lambda shard: (len(inboxes[shard]) + picker.get_waiting(shard), shard),
    )
    left = compute_block_limits(spec.params, len(order))
    executed: dict[ShardId, ExecutedChunk] = {}
    for position, shard in enumerate(order):
        share = _compute_share(left, len(order) - position)
        state = get_state(base, shard)
        try:
            run = start_chunk(spec, base, state, share, verified)
        except ChunkFull:
            continue
        candidates = picker.pick(shard, state.get)
        fill_chunk(run, share, inboxes[shard], candidates)
        if not run.is_empty:
            executed[shard] = finish_chunk(run, state)
            left = reduce_limits(left, run)
    return combine_chunks(base, executed)


def build_block(
    spec: ChainSpec,
    processed: Processed,
    *,
    reveal: bytes,
    attendance: Attendance,
    evidence: tuple[bytes, ...],
    time_ms: int,
) -> Block:
    """Return the block around processed chunks."""
    base = processed.base
    parent, epoch = base.parent, base.parent.child_epoch
    header = Header(
        version=HEADER_VERSION,
        chain_id=spec.chain_id,
        epoch=epoch.epoch,
        view=base.view,
        height=parent.height + 1,
        parent_hash=parent.block_hash,
        parent_view=parent.child_parent_view,
        time_ms=time_ms,
        proposer=base.proposer,
        reveal=reveal,
        mix=compute_mix(parent.header.mix, reveal),
        chunks_root=compute_chunks_root([chunk.header for chunk in processed.chunks]),
        heads_root=compute_heads_root(processed.heads),
        roots_root=compute_roots_root(processed.view.get_roots()),
        attendance_root=compute_attendance_root(attendance),
        evidence_root=compute_evidence_root(evidence),
        valset_root=epoch.valset_root,
        next_valset_root=epoch.next_valset_root,
        layout_root=epoch.layout_root,
        next_layout_root=epoch.next_layout_root,
    )
    return Block(header, Body(processed.chunks, attendance, evidence))


def _compute_share(left: ChunkLimits, shards_left: int) -> ChunkLimits:
    """Return an equal part of what is left, rounded down."""
    return ChunkLimits(
        bytes=left.bytes // shards_left,
        work=left.work // shards_left,
        transactions=left.transactions,
        packets=left.packets,
    )
