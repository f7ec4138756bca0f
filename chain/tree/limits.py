"""
How much fits into a block, and into the chunks that it names.

Theory of operation
-------------------
A block holds headers and certificates of all chunks, and of transactions those of the
root shard's chunk alone; bodies of layer shards' chunks travel beside it.  So its
length bounds the root shard's chunk, and the number of layer shards by the room that
their headers take.

Work is what a validator can do in the time of a block, `block_work`.  It executes the
root shard's chunk, and of the layer shards' chunks those that it is drawn for: the
committee of a chunk is two thirds of the stake, so two thirds of them.

    root + 2/3 x all layer shards' chunks <= block_work

With one layer shard nothing is gained, for one chunk never has more work than a whole
block; with two or more, layer shards together have half as much again as one could
have alone.  That is the bound of ADR 21, and more shards do not raise it: what they
divide further is the work of those who only follow.

Bytes of bodies follow the same rule, as everybody is sent every chunk.
"""

from chain.execution.chunk_run import ChunkLimits, ChunkRun
from chain.records.block import MAX_EVIDENCE
from chain.records.params import ChainParams
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

ALONE, TOGETHER = 2, 3
"""A committee is 2/3 of the stake, so chunks together may have 3/2 of one alone."""


def compute_block_limits(params: ChainParams, shards: int) -> ChunkLimits:
    """Return what the root shard's chunk may hold where it is the block's only one.

    Args:
        params: Of the chain.
        shards: How many there are, the root shard among them.
    """
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
    """Return what one layer shard's chunk may hold.

    The root shard keeps an equal share of the work, so that no load keeps stakes out.
    """
    whole = compute_block_limits(params, shards)
    return ChunkLimits(
        bytes=whole.bytes,
        work=whole.work - whole.work // shards,
        transactions=whole.transactions,
        packets=whole.packets,
    )


def compute_total_limits(params: ChainParams, shards: int) -> ChunkLimits:
    """Return what the layer shards' chunks of a block may hold together.

    Numbers of transactions and packets are per chunk.
    """
    alone = compute_layer_limits(params, shards)
    if shards <= 2:
        return alone
    return ChunkLimits(
        bytes=alone.bytes * TOGETHER // ALONE,
        work=alone.work * TOGETHER // ALONE,
        transactions=alone.transactions,
        packets=alone.packets,
    )


def compute_root_limits(
    params: ChainParams, shards: int, layer_work: int
) -> ChunkLimits:
    """Return what a block's chunk of the root shard may hold.

    Args:
        params: Of the chain.
        shards: How many there are.
        layer_work: Of all layer shards' chunks in the block.
    """
    whole = compute_block_limits(params, shards)
    taken = layer_work if shards <= 2 else -(-layer_work * ALONE // TOGETHER)
    return ChunkLimits(
        bytes=whole.bytes,
        work=whole.work - taken,
        transactions=whole.transactions,
        packets=whole.packets,
    )


def compute_producer_limits(params: ChainParams, shards: int, busy: int) -> ChunkLimits:
    """Return what a producer takes of what layer shards may have together.

    Args:
        params: Of the chain.
        shards: How many there are.
        busy: Layer shards with something to do, the producer's among them.
    """
    alone = compute_layer_limits(params, shards)
    total = compute_total_limits(params, shards)
    return ChunkLimits(
        bytes=min(alone.bytes, total.bytes // busy),
        work=min(alone.work, total.work // busy),
        transactions=alone.transactions,
        packets=alone.packets,
    )


def reduce_limits(limits: ChunkLimits, chunk: ChunkRun | ChunkHeader) -> ChunkLimits:
    """Return what is left for layer shards' chunks after one of them."""
    return ChunkLimits(
        bytes=limits.bytes - chunk.bytes,
        work=limits.work - chunk.work,
        transactions=limits.transactions,
        packets=limits.packets,
    )
