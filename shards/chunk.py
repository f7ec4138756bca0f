"""
Chunks: one shard's part of a block.

This stage of the chain has no endorsers, so a chunk carries no certificate and its
header no signature and no witness hash: every validator executes every shard, and the
block's leader produces all chunks.  A shard with nothing to do has no chunk; its
roots and counters carry forward from its last one.

Spec: docs/protocol/06-shards.md
"""

from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import U16, U32, U63, Amount, Epoch, Hash32, ShardId, View
from shards.packet import PacketProof


class Counter(Record):
    """How many packets so far, by the shard at the other end."""

    shard: ShardId
    count: U63


class ChunkHeader(Record):
    """What a chunk did, in a form that other shards and light clients check."""

    shard: ShardId
    epoch: Epoch
    created_view: View
    seq: U63
    """Counts the shard's chunks; the first after genesis is 1."""
    prev_chunk: Hash32
    """Hash of the shard's chunk before."""
    anchor: Hash32
    """The block whose height and time are "now" in this chunk: the parent."""
    producer: U16
    """Validator index."""
    pre_root: Hash32
    post_root: Hash32
    tx_root: Hash32
    """Merkle root over the transactions' signed bytes."""
    tx_count: U32
    in_root: Hash32
    """Merkle root over the consumed packet proofs, so that the header binds them."""
    in_cursor: tuple[Counter, ...]
    """Packets consumed so far by source, ascending, without zeros."""
    out_count: tuple[Counter, ...]
    """Packets emitted so far by destination, ascending, without zeros."""
    out_root: Hash32
    """Merkle root over the packets that this chunk emitted."""
    fees: Amount
    """Atoms burned by this chunk."""
    work: U63
    bytes: U32
    """Length of transactions and packet proofs together."""


class Chunk(Record):
    """A chunk as blocks carry it."""

    header: ChunkHeader
    transactions: tuple[bytes, ...]
    """Signed transactions, canonical bytes."""
    packets: tuple[PacketProof, ...]
    """Consumed before the transactions run."""


def compute_chunk_hash(header: ChunkHeader) -> bytes:
    """Return the name of a chunk."""
    return compute_hash("chunk", encode(header))


def get_count(counters: tuple[Counter, ...], shard: ShardId) -> int:
    """Return the count for `shard`, 0 if it is not listed."""
    for counter in counters:
        if counter.shard == shard:
            return counter.count
    return 0
