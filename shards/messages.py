"""
What producers and endorsers send to each other.

    ProducedChunk   producer -> committee: everything needed to re-execute the chunk
    Endorsement     endorser -> producer and leaders: "I did, and it is so"
    Certified       producer or leader -> everybody: for the next block

A `ProducedChunk` is what the header binds, and a witness, which proves itself: it is
the one part of the shard's state that the chunk reads or writes, under `pre_root`.

Spec: docs/protocol/06-shards.md
"""

from typing import Annotated

from msgspec import Meta

from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.merkle import compute_list_root
from primitives.types import U16, BlsSignature, Hash32
from shards.certificate import CertifiedChunk
from shards.chunk import ChunkHeader
from shards.errors import InvalidChunk
from shards.packet import PacketProof
from shards.slots import Slot

MAX_WITNESS_BYTES = 3 * 1024 * 1024
"""Buckets of 2,666 transfers between 5,332 accounts, a block's work in one chunk, at
some 450 bytes each, and half as much again."""
MAX_BODY_BYTES = 1024 * 1024
"""As much as the longest block."""
MAX_PRODUCED_BYTES = MAX_WITNESS_BYTES + MAX_BODY_BYTES
"""Header, signature and framing fit what bodies leave."""
MAX_SMALL_BYTES = 8192
"""A certified chunk with the counters of 64 shards, or an endorsement."""


class Endorsement(Record, tag=7):
    """One committee member's word for one chunk; at most one per slot."""

    slot: Slot
    chunk_hash: Hash32
    signer: U16
    """Index in the epoch's validator set."""
    signature: BlsSignature


class ProducerSignature(Record, tag=8):
    """A producer's word that a chunk is its one chunk for the slot."""

    slot: Slot
    chunk_hash: Hash32
    signer: U16
    signature: BlsSignature


class ProducedChunk(Record, tag=9):
    """A chunk on its way to its endorsers."""

    header: ChunkHeader
    signature: BlsSignature
    """The producer's, as in `ProducerSignature`."""
    transactions: tuple[bytes, ...]
    packets: tuple[PacketProof, ...]
    witness: Annotated[bytes, Meta(max_length=MAX_WITNESS_BYTES)]


class Certified(Record, tag=10):
    """A certified chunk on its way to those who build blocks."""

    chunk: CertifiedChunk


Message = Endorsement | ProducedChunk | Certified


def encode_message(message: Message) -> bytes:
    """Return the canonical bytes of a message, tag first."""
    return encode(message)


def decode_message(data: bytes) -> Message:
    """Return the message that untrusted bytes encode.

    Raises:
        DecodeError: Not the canonical encoding of one, or too long for its kind.
    """
    # The stub of `decode` knows classes only, not unions of them.
    message: Message = decode(Message, data, MAX_PRODUCED_BYTES)  # type: ignore[arg-type]
    if not isinstance(message, ProducedChunk) and len(data) > MAX_SMALL_BYTES:
        raise DecodeError(f"{len(data)} bytes of a {type(message).__name__}")
    return message


def validate_body(produced: ProducedChunk) -> None:
    """Check that transactions and packets are those that the header binds.

    Raises:
        InvalidChunk: They are others; whoever passed the chunk on is to blame.
    """
    header = produced.header
    if len(produced.transactions) != header.tx_count:
        raise InvalidChunk(
            f"{len(produced.transactions)} transactions, not {header.tx_count}"
        )
    if compute_list_root(produced.transactions) != header.tx_root:
        raise InvalidChunk("other transactions")
    packets = [encode(proof) for proof in produced.packets]
    if compute_list_root(packets) != header.in_root:
        raise InvalidChunk("other packets")
