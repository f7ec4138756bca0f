"""
Snapshots: the chain at the end of an epoch, so that nobody has to replay it.

Theory of operation
-------------------
A node that is new, or was away for long, needs what the next block is judged by, and
nothing else.  That is the state, the newest chunk header of every shard, and the
packets that are under way.  A manifest names all of it, and a header binds all of it:

    header --hash--> block;  certificate, validators --chain/light--> header is final
      |- roots_root --> shard roots --frontier--> parts of the state, about 1 MiB each
      |- heads_root --> newest chunk headers --counters--> which packets are under way
      '- parent_hash --> ancestors --chunks_root--> chunk headers --out_root--> packets

So a manifest can be checked by itself, and a part by the manifest alone: in any order,
from anybody, again after a crash.  Nothing is believed; what cannot be proven, as the
tally of attendance, is left out, and the first block of an epoch needs none.

A part is a subtree of a shard's bucket tree.  A frontier lists subtrees from left to
right, so that together they are the tree: a server splits a subtree into its four
children while its buckets have more than `PART_BYTES`.

The packets under way come with the headers from the block back to the oldest one that
emitted any of them.  That is one or two blocks in a chain that works.  Where a shard
stands still for hours the chain of headers grows; a node makes no manifest with more
than `MAX_ANCESTORS`, and who needs one replays blocks.

Who does not follow all shards gives the state of those that it follows, the root shard
among them.  The root of any other is the `post_root` of its newest chunk header, so a
manifest without its parts proves as much; who takes it knows of that shard what nodes
know that do not follow it, and can take it on later (chain/tree/adoption.py).

Spec: docs/protocol/14-state-sync.md
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from chain.errors import InvalidBlock, InvalidSnapshot
from chain.execution.validity import validate_body
from chain.light.client import LightBlock
from chain.records.block import (
    MAX_BLOCK_BYTES,
    Block,
    compute_chunks_root,
    compute_heads_root,
    compute_roots_root,
    decode_block,
)
from chain.records.header import HEADER_VERSION, Header, compute_block_hash
from consensus.messages import Certificate
from consensus.validators import ValidatorSet
from primitives.buckets import (
    ARITY,
    EMPTY_HASHES,
    MAX_LEVELS,
    compute_bucket_count,
    compute_tree,
)
from primitives.codec import Record, decode
from primitives.errors import DecodeError
from primitives.types import U8, U32, Hash32, Height, ShardId
from shards.chunk import ChunkHeader, get_count
from shards.layout import ROOT_SHARD
from shards.packet import PacketProof, verify_packet_proof

PART_BYTES = 1024 * 1024
"""Buckets of a part, at most, where one bucket is not more than that by itself: ten
milliseconds of hashing, and little lost when a peer goes away in the middle."""
MAX_PART_BYTES = 8 * 1024 * 1024
"""A single bucket may be longer than a part should be; no chunk could change one that
is longer than this."""
MAX_PARTS = 65_536
"""Per shard: 64 GiB of state, far more than the tree is made for."""
MAX_ANCESTORS = 8192
"""Headers down to the oldest packet under way: hours in which a shard consumed none."""
MAX_PACKETS = 65_536
"""Under way in all; the backlog limit keeps them far below."""
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
"""8192 headers of 700 bytes, 65,536 packets of 300, and parts at 40 bytes each."""
MAX_SHARDS = 1024


class SnapshotPart(Record):
    """A subtree of a shard's bucket tree."""

    depth: U8
    """Of its root below the tree's."""
    digest: Hash32
    """Its root."""
    size: U32
    """Bytes of its buckets, as the manifest's maker says: for progress alone."""


class SnapshotShard(Record):
    """One shard at the snapshot's block."""

    shard: ShardId
    levels: Annotated[int, Meta(ge=0, le=MAX_LEVELS)]
    """Of its bucket tree."""
    head: ChunkHeader
    """Its newest chunk, of this block or before."""
    parts: Annotated[tuple[SnapshotPart, ...], Meta(max_length=MAX_PARTS)]
    """From left to right; none where the state is not given.  An empty one has one."""


class SourceBlock(Record):
    """The chunk headers of a block that emitted packets still under way."""

    height: Height
    chunks: Annotated[tuple[ChunkHeader, ...], Meta(max_length=MAX_SHARDS)]
    """All of the block's."""


class Manifest(Record):
    """What a snapshot consists of, and what proves it."""

    block: Annotated[bytes, Meta(max_length=MAX_BLOCK_BYTES)]
    """The last block of an epoch, whole."""
    certificate: Certificate
    """Makes it final."""
    validators: ValidatorSet
    """Of its epoch."""
    ancestors: Annotated[tuple[Header, ...], Meta(max_length=MAX_ANCESTORS)]
    """Its parent, the parent's parent, and so on, to the oldest of `sources`."""
    shards: Annotated[
        tuple[SnapshotShard, ...], Meta(min_length=1, max_length=MAX_SHARDS)
    ]
    """Of the layout, ascending."""
    sources: Annotated[tuple[SourceBlock, ...], Meta(max_length=MAX_ANCESTORS + 1)]
    """Ascending by height."""
    packets: Annotated[tuple[PacketProof, ...], Meta(max_length=MAX_PACKETS)]
    """Emitted and not consumed yet: by source, destination and number, ascending."""


@dataclass(frozen=True, slots=True)
class PartPlace:
    """Where a part belongs, and what it has to hash to."""

    shard: ShardId
    levels: int
    """Of the shard's tree."""
    depth: int
    first: int
    """Number of its first bucket."""
    digest: bytes
    size: int
    """Bytes of its buckets, as claimed."""

    @property
    def count(self) -> int:
        """How many buckets it spans."""
        return compute_bucket_count(self.levels - self.depth)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest that fits together; that its block is final is another question."""

    manifest: Manifest
    block: Block
    block_hash: bytes
    roots: Mapping[ShardId, bytes]
    heads: Mapping[ShardId, ChunkHeader]

    @property
    def header(self) -> Header:
        """Of the snapshot's block."""
        return self.block.header

    @property
    def height(self) -> Height:
        """Of the snapshot's block."""
        return self.block.header.height

    @property
    def given(self) -> frozenset[ShardId]:
        """The shards of which the state is given."""
        return frozenset(shard.shard for shard in self.manifest.shards if shard.parts)

    @property
    def light_block(self) -> LightBlock:
        """What a light client asks for to believe in the block."""
        manifest = self.manifest
        return LightBlock((self.header,), manifest.certificate, manifest.validators)

    def list_places(self) -> tuple[PartPlace, ...]:
        """Return every part that has a pair at all, by shard and bucket."""
        return tuple(
            place
            for shard in self.manifest.shards
            for place in iterate_places(shard)
            if place.digest != EMPTY_HASHES[place.levels - place.depth]
        )


def narrow_manifest(manifest: Manifest, wanted: Collection[ShardId]) -> Manifest:
    """Return a valid manifest that gives the state of no more than the wanted shards.

    Args:
        manifest: A valid one.
        wanted: The root shard comes in any case.
    """
    shards = tuple(
        shard
        if shard.shard == ROOT_SHARD or shard.shard in wanted
        else msgspec.structs.replace(shard, parts=())
        for shard in manifest.shards
    )
    return msgspec.structs.replace(manifest, shards=shards)


def iterate_places(shard: SnapshotShard) -> Iterator[PartPlace]:
    """Yield the places of a frontier from left to right."""
    first = 0
    for part in shard.parts:
        place = PartPlace(
            shard.shard, shard.levels, part.depth, first, part.digest, part.size
        )
        yield place
        first += place.count


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest that the bytes encode.

    Raises:
        InvalidSnapshot: Too long, or none.
    """
    try:
        return decode(Manifest, data, MAX_MANIFEST_BYTES)
    except DecodeError as error:
        raise InvalidSnapshot(f"not a manifest: {error}") from error


def read_snapshot(manifest: Manifest, chain_id: bytes, epoch_blocks: int) -> Snapshot:
    """Return what a manifest says once all of it follows from its block's header.

    That the block is final, the light client says; see `Snapshot.light_block`.

    Raises:
        InvalidSnapshot: Something in it is not what the header binds.
    """
    block = _read_block(manifest, chain_id, epoch_blocks)
    header = block.header
    shards = [shard.shard for shard in manifest.shards]
    if any(left >= right for left, right in pairwise(shards)):
        raise InvalidSnapshot("shards out of order")
    roots = {shard.shard: _read_root(shard) for shard in manifest.shards}
    if compute_roots_root(roots) != header.roots_root:
        raise InvalidSnapshot("the parts are not those of the header's roots")
    heads = {shard.shard: shard.head for shard in manifest.shards}
    if any(head.shard != shard for shard, head in heads.items()):
        raise InvalidSnapshot("the newest chunk of another shard")
    if compute_heads_root(heads) != header.heads_root:
        raise InvalidSnapshot("the newest chunks are not those of the header")
    block_hash = compute_block_hash(header)
    headers = _read_ancestors(header, manifest.ancestors)
    chunks = _read_sources(headers, manifest.sources)
    needed = _validate_packets(manifest.packets, heads, chunks)
    if needed != {source.height for source in manifest.sources}:
        raise InvalidSnapshot("a source block that no packet needs")
    oldest = manifest.sources[0].height if manifest.sources else header.height
    if min(headers) != oldest:
        raise InvalidSnapshot("more ancestors than the packets need")
    return Snapshot(manifest, block, block_hash, roots, heads)


def _read_root(shard: SnapshotShard) -> bytes:
    """Return a shard's root: of its parts, or where none are given of its head."""
    if shard.parts:
        return compute_frontier_root(shard.levels, shard.parts)
    if shard.shard == ROOT_SHARD:
        raise InvalidSnapshot("no parts of the root shard")
    return shard.head.post_root


def compute_frontier_root(levels: int, parts: Sequence[SnapshotPart]) -> bytes:
    """Return the root of the tree that a frontier cuts.

    Raises:
        InvalidSnapshot: The subtrees do not lie side by side in a tree of `levels`.
    """
    rows: list[list[bytes]] = [[] for _ in range(levels + 1)]
    for part in parts:
        depth = part.depth
        if depth > levels or any(rows[depth + 1 :]) or rows[0]:
            raise InvalidSnapshot("parts that do not lie side by side")
        rows[depth].append(part.digest)
        while depth and len(rows[depth]) == ARITY:
            digest = compute_tree(rows[depth], 1)[0]
            rows[depth] = []
            depth -= 1
            rows[depth].append(digest)
    if len(rows[0]) != 1 or any(rows[1:]):
        raise InvalidSnapshot("parts that are not the whole tree")
    return rows[0][0]


def list_waiting(
    heads: Mapping[ShardId, ChunkHeader],
) -> Iterator[tuple[ShardId, ShardId, int]]:
    """Yield (source, destination, number) of every packet under way, ascending."""
    for src in sorted(heads):
        for dst in sorted(heads):
            first = get_count(heads[dst].in_cursor, src)
            for seq in range(first, get_count(heads[src].out_count, dst)):
                yield src, dst, seq


def _read_block(manifest: Manifest, chain_id: bytes, epoch_blocks: int) -> Block:
    try:
        block = decode_block(manifest.block)
        validate_body(block)
    except InvalidBlock as error:
        raise InvalidSnapshot(f"the snapshot's block: {error}") from error
    header = block.header
    if (header.version, header.chain_id) != (HEADER_VERSION, chain_id):
        raise InvalidSnapshot("a snapshot of another chain or version")
    if not header.height or header.height != (header.epoch + 1) * epoch_blocks:
        raise InvalidSnapshot(f"block {header.height} does not end an epoch")
    if manifest.validators.compute_root() != header.valset_root:
        raise InvalidSnapshot("other validators than the header names")
    return block


def _read_ancestors(header: Header, ancestors: Sequence[Header]) -> dict[int, Header]:
    """Return the headers by height, each one the parent of the one above."""
    headers = {header.height: header}
    child = header
    for parent in ancestors:
        is_below = parent.height == child.height - 1
        if not is_below or compute_block_hash(parent) != child.parent_hash:
            raise InvalidSnapshot(f"not the parent of block {child.height}")
        headers[parent.height] = child = parent
    return headers


def _read_sources(
    headers: Mapping[int, Header], sources: Sequence[SourceBlock]
) -> dict[tuple[int, ShardId], ChunkHeader]:
    """Return the source blocks' chunk headers by height and shard."""
    if any(left.height >= right.height for left, right in pairwise(sources)):
        raise InvalidSnapshot("source blocks out of order")
    chunks = {}
    for source in sources:
        header = headers.get(source.height)
        if header is None:
            raise InvalidSnapshot(f"no header of source block {source.height}")
        if compute_chunks_root(source.chunks) != header.chunks_root:
            raise InvalidSnapshot(f"other chunks than those of block {source.height}")
        for chunk in source.chunks:
            chunks[source.height, chunk.shard] = chunk
    return chunks


def _validate_packets(
    packets: Sequence[PacketProof],
    heads: Mapping[ShardId, ChunkHeader],
    chunks: Mapping[tuple[int, ShardId], ChunkHeader],
) -> set[int]:
    """Check that the packets are those under way; return the heights they are from."""
    needed: set[int] = set()
    given = iter(packets)
    for waiting in list_waiting(heads):
        proof = next(given, None)
        if proof is None:
            raise InvalidSnapshot(f"packet {waiting} is missing")
        packet = proof.packet
        if (packet.src, packet.dst, packet.seq) != waiting:
            raise InvalidSnapshot(f"packet {waiting} is missing or out of order")
        source = chunks.get((proof.source_height, packet.src))
        if source is None or not verify_packet_proof(proof, source.out_root):
            raise InvalidSnapshot(f"packet {waiting} did not come out of its source")
        needed.add(proof.source_height)
    if next(given, None) is not None:
        raise InvalidSnapshot("a packet that is not under way")
    return needed
