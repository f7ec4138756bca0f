"""
Index entries of a final block: what lookups and histories need.

Pure: a block goes in, database changes come out, and the caller writes them in the
batch that makes the block final.
"""

from collections.abc import Iterable, Mapping

from chain.execution.chunk import ChunkBody
from chain.execution.chunk_run import ChunkResult
from chain.execution.held import HeldBlock
from chain.records.channel import Channel
from chain.records.keys import (
    build_channel_key,
    build_mirror_key,
    build_registration_key,
)
from chain.records.proof import WorkEntry
from chain.storage.store import Place, build_body_key, build_key
from primitives.codec import decode, encode
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader, compute_chunk_hash
from shards.packet import PacketProof

Changes = dict[bytes, bytes | None]

CHANNEL_PREFIX = build_channel_key(b"")
REGISTRATION_PREFIX = build_registration_key(b"")
MIRROR_PREFIX = build_mirror_key(0, b"")[:1]


def compute_index_changes(held: HeldBlock) -> Changes:
    """Return everything but the state that a final block leaves in the database."""
    height = held.height
    changes: Changes = {
        build_key(b"B", (height, 8)): held.block_bytes,
        build_key(b"H", held.block_hash): height.to_bytes(8, "big"),
    }
    if held.is_epoch_root:
        begun = held.child_epoch
        changes[build_key(b"L", (begun.epoch, 8))] = encode(begun.validators)
    if held.events:
        changes[build_key(b"E", (height, 8))] = encode(held.events)
    for index, event in enumerate(held.events):
        for address in event.addresses:
            changes[build_key(b"I", address, (height, 8), (index, 4))] = b""
    for index in range(len(held.block.body.evidence)):
        changes[build_key(b"X", (height, 8), (index, 1))] = b""
    changes.update(compute_body_changes(held))
    for header in held.block.body.headers:
        _index_header(changes, height, header)
    for chunk in held.chunks:
        index_chunk(changes, height, chunk, held.results[chunk.header.shard])
    for proofs in held.emitted.values():
        index_emitted(changes, proofs)
    return changes


def index_chunk(
    changes: Changes, height: Height, chunk: Chunk, result: ChunkResult
) -> None:
    """Add what executing a chunk leaves for lookups, but for the packets it sent."""
    shard = chunk.header.shard
    _index_consumed(changes, height, chunk)
    _index_transactions(changes, height, shard, result)
    index_objects(changes, shard, result.writes)
    _index_archive(changes, height, shard, result)


def compute_seen_changes(
    height: Height, header: ChunkHeader, result: ChunkResult
) -> Changes:
    """Return what keeps a final chunk that was executed to see what it did.

    Of a shard that is not followed: transactions can be looked up, and nothing is
    listed of what is in the shard, for that would grow old.
    """
    changes: Changes = {}
    body = ChunkBody(result.consumed, result.transactions)
    changes[build_body_key(compute_chunk_hash(header))] = encode(body)
    _index_transactions(changes, height, header.shard, result)
    return changes


def index_emitted(changes: Changes, proofs: Iterable[PacketProof]) -> None:
    """Add packets that a final block's chunks sent."""
    for proof in proofs:
        packet = proof.packet
        place = ((packet.src, 2), (packet.dst, 2), (packet.seq, 8))
        changes[build_key(b"P", *place)] = encode(proof)


def compute_body_changes(held: HeldBlock) -> Changes:
    """Return what keeps the bodies of a block's layer shards' chunks."""
    return {build_body_key(name): encode(body) for name, body in held.bodies.items()}


def _index_header(changes: Changes, height: Height, header: ChunkHeader) -> None:
    at = height.to_bytes(8, "big")
    changes[build_key(b"K", (header.shard, 2), (height, 8))] = encode(header)
    changes[build_key(b"C", (header.shard, 2), (header.seq, 8))] = at
    place = build_key(b"", (header.shard, 2), (height, 8))
    changes[build_key(b"h", compute_chunk_hash(header))] = place


def _index_consumed(changes: Changes, height: Height, chunk: Chunk) -> None:
    at = height.to_bytes(8, "big")
    for proof in chunk.packets:
        packet = proof.packet
        numbers = ((packet.src, 2), (packet.dst, 2), (packet.seq, 8))
        changes[build_key(b"Q", *numbers)] = at


def _index_transactions(
    changes: Changes, height: Height, shard: ShardId, result: ChunkResult
) -> None:
    outcomes = result.outcomes
    changes[build_key(b"O", (height, 8), (shard, 2))] = encode(outcomes)
    for index, outcome in enumerate(outcomes):
        place = Place(height, shard, index)
        changes[build_key(b"T", outcome.tx_id)] = encode(place)
        parties = {result.senders[index]}
        for event in outcome.events:
            parties.update(event.addresses)
        for address in parties:
            key = build_key(b"A", address, (height, 8), (shard, 2), (index, 4))
            changes[key] = outcome.tx_id


def index_objects(
    changes: Changes, shard: ShardId, writes: Mapping[bytes, bytes | None]
) -> None:
    """Copy channels, registrations and mirrors to where they can be listed."""
    for key, value in writes.items():
        letter, name = key[:1], key[1:]
        if letter == CHANNEL_PREFIX and value is not None:
            changes[build_key(b"Z", name)] = value
            _index_parties(changes, decode(Channel, value))
        elif letter == REGISTRATION_PREFIX:
            changes[build_key(b"R", (shard, 2), name)] = value
        elif letter == MIRROR_PREFIX:
            changes[build_key(b"G", (shard, 2), name)] = value


def _index_archive(
    changes: Changes, height: Height, shard: ShardId, result: ChunkResult
) -> None:
    """Keep closed channels and work records; runs after `index_objects`.

    Every work record comes with one event "settled", in the same order, which tells
    the transaction that posted it.
    """
    settling = iter(
        index
        for index, outcome in enumerate(result.outcomes)
        for event in outcome.events
        if event.kind == "settled"
    )
    for record in result.archived:
        match record:
            case Channel():
                changes[build_key(b"Z", record.channel_id)] = encode(record)
                _index_parties(changes, record)
            case WorkEntry():
                place = ((height, 8), (shard, 2), (next(settling), 4))
                changes[build_key(b"W", *place)] = encode(record)
                changes[build_key(b"V", record.payee, *place)] = b""


def _index_parties(changes: Changes, channel: Channel) -> None:
    for party in (channel.payer, channel.payee):
        opened = (channel.opened_height, 8)
        changes[build_key(b"Y", party, opened, channel.channel_id)] = b""
