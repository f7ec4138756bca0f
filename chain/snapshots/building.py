"""
Making a snapshot's manifest from a database as it was after the last block of an epoch.

Every stored bucket is hashed once more, so a damaged database shows itself here and
nobody is offered what it holds.  That takes a second for a million keys, and comes in
slices: whoever drives the generator may vote in between.

Spec: docs/protocol/14-state-sync.md
"""

from collections.abc import Collection, Generator, Iterator, Mapping

from chain.errors import SnapshotUnavailable, StoreError
from chain.records.block import compute_roots_root
from chain.records.header import Header
from chain.records.spec import ChainSpec
from chain.snapshots.part import BUCKET_OVERHEAD, SLICE
from chain.snapshots.snapshot import (
    MAX_ANCESTORS,
    MAX_MANIFEST_BYTES,
    MAX_PART_BYTES,
    PART_BYTES,
    Manifest,
    SnapshotPart,
    SnapshotShard,
    SourceBlock,
    compute_frontier_root,
    list_waiting,
)
from chain.state.stored_buckets import build_bucket_key, unpack_bucket
from chain.storage.store import ChainReader
from primitives.buckets import (
    ARITY,
    EMPTY_HASHES,
    compute_bucket_count,
    compute_tree,
)
from primitives.codec import encode
from primitives.kv import KeyValueReader
from primitives.types import ShardId
from shards.chunk import ChunkHeader
from shards.layout import ROOT_SHARD
from shards.packet import PacketProof


def build_manifest(
    spec: ChainSpec, store: ChainReader, newest: ChainReader
) -> Generator[None, None, Manifest]:
    """Return the manifest of the snapshot at a database's tip; yield between slices.

    Args:
        spec: The chain.
        store: Its database as it was after the last block of an epoch.
        newest: And as it is: packets of shards that are not followed come a little
            later than their block.

    Raises:
        SnapshotUnavailable: The tip ends no epoch, or no snapshot of it can be made.
        StoreError: The database is damaged.
    """
    tip = store.get_tip()
    if tip is None or not tip.height or tip.height % spec.params.epoch_blocks:
        raise SnapshotUnavailable("the last final block does not end an epoch")
    block_bytes = store.get_block_bytes(tip.height)
    block = store.get_block(tip.height)
    certificate = store.get_certificate(tip.height)
    if block is None or block_bytes is None or certificate is None:
        raise StoreError(f"block {tip.height} is not in the database")
    header = block.header
    validators = store.get_validators(header.epoch) or spec.first_validators
    shards, followed = store.get_layout().shard_ids, store.get_followed()
    heads = {shard: store.get_last_chunk(shard) for shard in shards}
    packets = list_packets(newest, heads, followed)
    heights = sorted({proof.source_height for proof in packets})
    ancestors = _list_ancestors(store, header, heights[0] if heights else tip.height)
    sources = tuple(
        SourceBlock(height, store.list_chunk_headers(height, sorted(heads)))
        for height in heights
    )
    yield
    cut, roots = [], {}
    for shard, head in sorted(heads.items()):
        levels = spec.params.bucket_levels
        parts: tuple[SnapshotPart, ...] = ()
        roots[shard] = head.post_root
        if shard in followed:
            parts = yield from cut_tree(store.kv, shard, levels)
            roots[shard] = compute_frontier_root(levels, parts)
        cut.append(SnapshotShard(shard, levels, head, parts))
    if compute_roots_root(roots) != header.roots_root:
        raise StoreError(f"the stored state is not that of block {tip.height}")
    manifest = Manifest(
        block=block_bytes,
        certificate=certificate,
        validators=validators,
        ancestors=ancestors,
        shards=tuple(cut),
        sources=sources,
        packets=packets,
    )
    if len(encode(manifest)) > MAX_MANIFEST_BYTES:
        raise SnapshotUnavailable("the manifest is too long")
    return manifest


def build_frontier(
    spec: ChainSpec, store: ChainReader, shard: ShardId
) -> Generator[None, None, SnapshotShard]:
    """Return one shard's part of the manifest; yield between slices.

    Args:
        spec: The chain.
        store: As for `build_manifest`; it may follow other shards or not.
        shard: A layer shard.

    Raises:
        SnapshotUnavailable: It does not follow the shard, or no parts can be made.
        StoreError: The database is damaged.
    """
    if shard == ROOT_SHARD or shard not in store.get_followed():
        raise SnapshotUnavailable(f"shard {shard} is not followed here")
    levels, head = spec.params.bucket_levels, store.get_last_chunk(shard)
    parts = yield from cut_tree(store.kv, shard, levels)
    if compute_frontier_root(levels, parts) != head.post_root:
        raise StoreError(f"the stored state of shard {shard} is not its newest chunk's")
    return SnapshotShard(shard, levels, head, parts)


def cut_tree(
    store: KeyValueReader, shard: ShardId, levels: int
) -> Generator[None, None, tuple[SnapshotPart, ...]]:
    """Return a frontier of a shard's tree; yield between slices.

    Four neighbours become one part while all their buckets fit into one.
    """
    rows: list[list[tuple[int, bytes, tuple[SnapshotPart, ...]]]]
    rows = [[] for _ in range(levels + 1)]

    def append(depth: int, size: int, digest: bytes) -> None:
        rows[depth].append((size, digest, (SnapshotPart(depth, digest, size),)))
        while depth and len(rows[depth]) == ARITY:
            children, rows[depth] = rows[depth], []
            depth -= 1
            size = sum(child[0] for child in children)
            digest = compute_tree([child[1] for child in children], 1)[0]
            parts = tuple(part for child in children for part in child[2])
            if size <= PART_BYTES:
                parts = (SnapshotPart(depth, digest, size),)
            rows[depth].append((size, digest, parts))

    following, count = 0, compute_bucket_count(levels)
    for number, (key, stored) in enumerate(
        store.iterate(build_bucket_key(shard, 0)[:3])
    ):
        index = int.from_bytes(key[3:], "big")
        if index >= count:
            raise StoreError(f"buckets beyond the tree of shard {shard}")
        for depth in _list_gap(following, index, levels):
            append(depth, 0, EMPTY_HASHES[levels - depth])
        data, digest = unpack_bucket(shard, index, stored)
        size = len(data) + BUCKET_OVERHEAD
        if size > MAX_PART_BYTES:
            raise SnapshotUnavailable(f"a bucket of {size} bytes in shard {shard}")
        append(levels, size, digest)
        following = index + 1
        if number % SLICE == 0:
            yield
    for depth in _list_gap(following, count, levels):
        append(depth, 0, EMPTY_HASHES[levels - depth])
    return rows[0][0][2]


def _list_gap(first: int, end: int, levels: int) -> Iterator[int]:
    """Yield the depths of the largest subtrees that fill buckets [first, end)."""
    while first < end:
        height = 0
        width = ARITY
        while first % width == 0 and first + width <= end and height < levels:
            height += 1
            width *= ARITY
        yield levels - height
        first += width // ARITY


def list_packets(
    store: ChainReader,
    heads: Mapping[ShardId, ChunkHeader],
    followed: Collection[ShardId],
) -> tuple[PacketProof, ...]:
    """Return the packets under way, ascending.

    Raises:
        StoreError: One of a followed shard is not in the database.
        SnapshotUnavailable: One of another shard is not there yet.
    """
    packets = []
    for src, dst, seq in list_waiting(heads):
        stored = store.get_packet(src, dst, seq)
        if stored is None:
            message = f"no packet {seq} from shard {src} to shard {dst}"
            if src in followed:
                raise StoreError(message)
            raise SnapshotUnavailable(message)
        packets.append(stored.proof)
    return tuple(packets)


def _list_ancestors(
    store: ChainReader, header: Header, oldest: int
) -> tuple[Header, ...]:
    """Return the headers below `header`, newest first, down to height `oldest`."""
    count = header.height - oldest
    if count > MAX_ANCESTORS:
        raise SnapshotUnavailable(f"a packet waits since block {oldest}")
    headers = []
    for height in range(header.height - 1, oldest - 1, -1):
        found = store.get_header(height)
        if found is None:
            raise SnapshotUnavailable(f"block {height} is from before our history")
        headers.append(found)
    return tuple(headers)
