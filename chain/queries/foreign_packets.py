"""
Packets of shards that are not followed, for shards that are.

Who follows a shard knows the packets that it sends; whoever fills a chunk of another
shard needs those that wait for it.  Whether a block is valid never depends on them, so
they are fetched, for production alone, once the block that holds their chunk is final:
then it is certain under which `out_root` they stand, and at which height.

A shard whose state is on its way here has sent packets before the boundary with which
it begins; those that still wait somewhere are fetched in the same way.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from chain.storage.store import build_key
from chain.tree.blocktree import BlockTree
from primitives.codec import encode
from primitives.types import Height, ShardId
from shards.chunk import ChunkHeader, get_count
from shards.errors import InvalidPacket
from shards.packet import PacketProof, verify_packet_proof

MAX_STEPS = 4096
"""Chunks of a shard looked at to find the one that sent a packet: more than the
backlog of a shard that stood still for an hour."""


@dataclass(frozen=True, slots=True)
class MissingPackets:
    """Packets that a chunk sent and that are not here."""

    header: ChunkHeader
    height: Height
    """Of the block that holds the chunk."""
    dst: ShardId
    first: int
    end: int
    """One more than the last one's number."""


def find_missing_packets(
    tree: BlockTree, boundary: Mapping[ShardId, ChunkHeader] | None = None
) -> Iterator[MissingPackets]:
    """Yield what has to be fetched, per source and destination the oldest chunk's.

    Args:
        tree: Final blocks.
        boundary: The newest chunk headers as of a boundary whose snapshot we serve: it
            has all packets that were under way then, also between shards of others.
    """
    heads, coming = tree.final.heads, tree.state.coming
    for src in sorted(heads.keys() - tree.followed):
        wanted = heads.keys() if src == coming else {*tree.followed, coming}
        yield from _find_missing(tree, heads, src, heads.keys() & wanted)
    for src in sorted((boundary or {}).keys() - tree.followed):
        assert boundary is not None
        yield from _find_missing(tree, boundary, src, boundary.keys())


def _find_missing(
    tree: BlockTree,
    heads: Mapping[ShardId, ChunkHeader],
    src: ShardId,
    destinations: Iterable[ShardId],
) -> Iterator[MissingPackets]:
    for dst in sorted(destinations):
        first = get_count(heads[dst].in_cursor, src)
        end = get_count(heads[src].out_count, dst)
        while first < end and tree.store.get_packet(src, dst, first) is not None:
            first += 1
        found = _find_sender(tree, heads[src], dst, first) if first < end else None
        if found is not None:
            yield found


def has_sent_packets(tree: BlockTree, src: ShardId) -> bool:
    """Tell whether all packets of a shard that are under way are here."""
    heads = tree.final.heads
    return all(
        tree.store.get_packet(src, dst, seq) is not None
        for dst, head in heads.items()
        for seq in range(
            get_count(head.in_cursor, src), get_count(heads[src].out_count, dst)
        )
    )


def take_packets(
    tree: BlockTree, missing: MissingPackets, packets: tuple[PacketProof, ...]
) -> int:
    """Write packets that somebody gave into the database; return how many.

    Raises:
        InvalidPacket: They are not those that were asked for.
    """
    changes: dict[bytes, bytes | None] = {}
    src = missing.header.shard
    for seq, given in enumerate(packets, start=missing.first):
        packet = given.packet
        proof = msgspec.structs.replace(given, source_height=missing.height)
        is_wanted = (packet.src, packet.dst, packet.seq) == (src, missing.dst, seq)
        if not is_wanted or not verify_packet_proof(proof, missing.header.out_root):
            raise InvalidPacket(f"not packet {seq} from shard {src} to {missing.dst}")
        place = ((src, 2), (missing.dst, 2), (seq, 8))
        changes[build_key(b"P", *place)] = encode(proof)
    if changes:
        tree.store.kv.write(changes, sync=False)
    return len(changes)


def list_sent(
    tree: BlockTree, chunk_hash: bytes, dst: ShardId, first: int, limit: int
) -> tuple[PacketProof, ...]:
    """Return packets of a final chunk, from number `first` on, as far as known here."""
    place = tree.store.find_chunk(chunk_hash)
    header = None if place is None else tree.store.get_chunk_header(*place)
    if header is None:
        return ()
    packets = []
    end = get_count(header.out_count, dst)
    for seq in range(first, min(end, first + limit)):
        stored = tree.store.get_packet(header.shard, dst, seq)
        if stored is None:
            break
        packets.append(stored.proof)
    return tuple(packets)


def _find_sender(
    tree: BlockTree, newest: ChunkHeader, dst: ShardId, seq: int
) -> MissingPackets | None:
    """Return the chunk that sent a packet, with what else it sent from there on."""
    src, header = newest.shard, newest
    for _ in range(MAX_STEPS):
        height = tree.store.get_chunk_height(src, header.seq)
        if height is None:
            return None
        before = tree.store.find_last_chunk(src, height - 1)
        if before is None:
            return None
        if get_count(before.out_count, dst) <= seq:
            end = get_count(header.out_count, dst)
            return MissingPackets(header, height, dst, seq, end)
        header = before
    return None
