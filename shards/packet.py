"""
Packets: the only way to touch another shard.

A packet is numbered per (source, destination).  The destination consumes in order,
from a cursor in its own committed state, and checks each packet against the `out_root`
of a source chunk in an ancestor block: exactly once, by construction.

    source chunk at height h: emits seq n ... out_root over the chunk's packets
    destination chunk at height > h: PacketProof(packet, h, index, count, path)

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from primitives.codec import Record, encode
from primitives.merkle import compute_list_root, compute_path, verify_path
from primitives.types import U8, U32, U63, Amount, Hash32, Height, ShardId

MAX_PAYLOAD_BYTES = 1024
"""A mirror is below 200 bytes; with a proof any packet fits an empty chunk."""
MAX_PROOF_PATH = 16
"""A chunk emits at most 2^16 packets."""


class PacketKind(IntEnum):
    """What the destination does with a packet."""

    CREDIT = 1
    """Add the amount to an account."""
    BOUNCE = 2
    """Give the amount of a failed effect back; cannot fail."""
    MIRROR = 3
    """Keep a read-only copy of a registration, and answer."""
    MIRROR_ANSWER = 4
    """The copy is kept, or refused."""
    MIRROR_REMOVE = 5
    """Forget the copy."""
    MOVE = 6
    """Take a registration over, with its collateral."""
    SWEEP = 7
    """Take over what an account had in a shard that goes."""
    FAREWELL = 8
    """A retiring shard is empty; its totals."""
    HOSTING = 9
    """What shards a registration covers now; to the root shard."""


class Packet(Record):
    """A numbered message with money from one shard to another."""

    src: ShardId
    dst: ShardId
    seq: U63
    """Counts the packets from `src` to `dst` from 0."""
    kind: U8
    amount: Amount
    """Atoms that left the source with it."""
    payload: Annotated[bytes, Meta(max_length=MAX_PAYLOAD_BYTES)]
    """Canonical bytes of the kind's record."""


class PacketProof(Record):
    """A packet and its path to the `out_root` of the chunk that emitted it."""

    packet: Packet
    source_height: Height
    """Height of the block that holds the emitting chunk."""
    index: U32
    """Place among the chunk's packets."""
    count: U32
    """How many packets the chunk emitted."""
    path: Annotated[tuple[Hash32, ...], Meta(max_length=MAX_PROOF_PATH)]


def compute_out_root(packets: Sequence[Packet]) -> bytes:
    """Return the Merkle root over a chunk's emitted packets, in order."""
    return compute_list_root([encode(packet) for packet in packets])


def build_packet_proofs(
    packets: Sequence[Packet], source_height: int
) -> tuple[PacketProof, ...]:
    """Return the proof of every packet that a chunk emitted."""
    leaves = [encode(packet) for packet in packets]
    return tuple(
        PacketProof(packet, source_height, i, len(leaves), compute_path(leaves, i))
        for i, packet in enumerate(packets)
    )


def verify_packet_proof(proof: PacketProof, out_root: bytes) -> bool:
    """Tell whether the packet is one of those under `out_root`."""
    leaf = encode(proof.packet)
    return verify_path(out_root, proof.count, proof.index, leaf, proof.path)
