"""
Blocks: a header, and a body of chunks, attendance and evidence.

Of layer shards a block holds what their chunks did and who vouches for it.  What the
chunks consist of travels and is stored beside it; see chain/execution/bodies.py.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from chain.errors import InvalidBlock
from chain.records.header import Header
from consensus.evidence import MAX_EVIDENCE_BYTES
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from primitives.merkle import compute_list_root, compute_path
from primitives.types import ShardId
from shards.certificate import CertifiedChunk, ChunkCertificate
from shards.chunk import Chunk, ChunkHeader

MAX_BLOCK_BYTES = 1024 * 1024
"""A block crosses a 100 Mbit link in 0.1 s, well below the network delay bound."""

MAX_BITMAP_BYTES = 16
"""128 validators at most."""

MAX_EVIDENCE = 8
"""Pieces of evidence in a block: 16 pairings at most, 8 KiB; a third of the largest
set that votes twice is convicted in one piece or, vote by vote, in six blocks."""


class Attendance(Record):
    """All Notarize votes for the parent that the leader holds, as one signature."""

    bitmap: Annotated[bytes, Meta(max_length=MAX_BITMAP_BYTES)]
    """Bit i: validator i voted; as in certificates."""
    signature: Annotated[bytes, Meta(max_length=96)]
    """BLS aggregate; empty, as the bitmap, in children of an epoch's root."""


NO_ATTENDANCE = Attendance(b"", b"")
"""Stands in children of an epoch's root, for which the epoch's set did not vote."""


EvidenceBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_EVIDENCE_BYTES)]


class Body(Record):
    """What the header commits to."""

    root: Chunk | None
    """The root shard's chunk, whole: the leader made it and everybody executes it."""
    chunks: tuple[CertifiedChunk, ...]
    """Of layer shards, ascending; shards with nothing to do are absent."""
    attendance: Attendance
    evidence: Annotated[tuple[EvidenceBytes, ...], Meta(max_length=MAX_EVIDENCE)]
    """Encoded pieces of consensus.evidence, each against somebody not yet convicted."""

    @property
    def headers(self) -> tuple[ChunkHeader, ...]:
        """Of all chunks: the root shard's first, if there is one."""
        layers = tuple(certified.header for certified in self.chunks)
        return layers if self.root is None else (self.root.header, *layers)

    @property
    def certificates(self) -> tuple[ChunkCertificate, ...]:
        """Of the layer shards' chunks, in their order."""
        return tuple(certified.certificate for certified in self.chunks)

    def find_header(self, shard: ShardId) -> ChunkHeader | None:
        """Return the header of a shard's chunk; None if it has none here."""
        for header in self.headers:
            if header.shard == shard:
                return header
        return None


class Block(Record):
    """A block as it travels and is stored."""

    header: Header
    body: Body


def decode_block(data: bytes) -> Block:
    """Return the block that the bytes encode.

    Raises:
        InvalidBlock: Too long, or not the canonical encoding of a block.
    """
    try:
        return decode(Block, data, MAX_BLOCK_BYTES)
    except DecodeError as error:
        raise InvalidBlock(f"not a block: {error}") from error


def compute_chunks_root(headers: Sequence[ChunkHeader]) -> bytes:
    """Return the Merkle root over the chunk headers of a block."""
    return compute_list_root([encode(header) for header in headers])


def compute_certificates_root(certificates: Sequence[ChunkCertificate]) -> bytes:
    """Return the Merkle root over the certificates of a block's chunks."""
    return compute_list_root([encode(certificate) for certificate in certificates])


def compute_heads_root(heads: Mapping[ShardId, ChunkHeader]) -> bytes:
    """Return the Merkle root over every shard's newest chunk header, ascending.

    The counters of packets stand in those headers alone, so who begins with a state
    instead of the blocks before it needs them proven.
    """
    return compute_list_root([encode(heads[shard]) for shard in sorted(heads)])


def compute_roots_root(roots: Mapping[ShardId, bytes]) -> bytes:
    """Return the Merkle root over every shard's state root."""
    return compute_list_root(encode_roots(roots))


def compute_root_path(
    roots: Mapping[ShardId, bytes], shard: ShardId
) -> tuple[int, tuple[bytes, ...]]:
    """Return leaf number and path of one shard's root under `roots_root`."""
    index = sorted(roots).index(shard)
    return index, compute_path(encode_roots(roots), index)


def encode_roots(roots: Mapping[ShardId, bytes]) -> list[bytes]:
    """Return the leaves under `roots_root`: (shard, root), ascending."""
    return [encode((shard, roots[shard])) for shard in sorted(roots)]


def compute_evidence_root(evidence: Sequence[bytes]) -> bytes:
    """Return the Merkle root over a block's evidence."""
    return compute_list_root(evidence)


def compute_attendance_root(attendance: Attendance) -> bytes:
    """Return the hash under which the header binds the attendance."""
    return compute_hash("attendance", encode(attendance))
