"""How much fits into a block, and into each of its chunks."""

from chain.block import MAX_EVIDENCE
from chain.execution import ChunkLimits, ChunkRun
from chain.params import ChainParams
from consensus.evidence import MAX_EVIDENCE_BYTES
from shards.chunk import ChunkHeader

HEADER_BYTES = 2048
"""Room for a block's header and attendance."""
EVIDENCE_BYTES = MAX_EVIDENCE * (MAX_EVIDENCE_BYTES + 3)
"""Room for evidence, which no amount of transactions may keep out."""
CHUNK_HEADER_BYTES = 896
"""Room for a chunk's header without counters, and for its certificate."""
COUNTERS_BYTES = 16
"""Room for one shard's two counters in a chunk header."""


def compute_block_limits(params: ChainParams, shards: int) -> ChunkLimits:
    """Return what all chunks of a block may hold together; counts are per chunk."""
    counters = COUNTERS_BYTES * shards
    chunks = shards * (CHUNK_HEADER_BYTES + counters)
    overhead = HEADER_BYTES + EVIDENCE_BYTES + chunks
    return ChunkLimits(
        bytes=params.block_bytes - overhead,
        work=params.block_work,
        transactions=params.chunk_transactions,
        packets=params.chunk_packets,
    )


def compute_layer_limits(params: ChainParams, shards: int) -> ChunkLimits:
    """Return what the layer shards' chunks of a block may hold, alone and together.

    The root shard keeps an equal share, so that no load keeps stakes out.
    """
    whole = compute_block_limits(params, shards)
    share = compute_share(whole, shards)
    return ChunkLimits(
        bytes=whole.bytes - share.bytes,
        work=whole.work - share.work,
        transactions=whole.transactions,
        packets=whole.packets,
    )


def reduce_limits(limits: ChunkLimits, chunk: ChunkRun | ChunkHeader) -> ChunkLimits:
    """Return what is left of a block's limits after a chunk."""
    return ChunkLimits(
        bytes=limits.bytes - chunk.bytes,
        work=limits.work - chunk.work,
        transactions=limits.transactions,
        packets=limits.packets,
    )


def compute_share(left: ChunkLimits, shards: int) -> ChunkLimits:
    """Return an equal part of what is left for each of some shards, rounded down."""
    return ChunkLimits(
        bytes=left.bytes // shards,
        work=left.work // shards,
        transactions=left.transactions,
        packets=left.packets,
    )
