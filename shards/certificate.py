"""
Chunk certificates: a committee's endorsements as one signature.

An endorser signs that it re-executed the chunk from its witness, found what the header
says, and holds body and packets for whoever asks.  A producer signs that the chunk is
its one chunk for the slot.  Both sign the slot first, so that two statements about one
slot show themselves.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from consensus.scheme import SignatureScheme
from consensus.validators import (
    MAX_BITMAP_BYTES,
    ValidatorSet,
    decode_bitmap,
    encode_bitmap,
)
from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import BlsSignature
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.committee import Committee
from shards.errors import InvalidChunkCertificate
from shards.slots import Slot, get_slot


class ChunkCertificate(Record):
    """Endorsements of one chunk."""

    bitmap: Annotated[bytes, Meta(max_length=MAX_BITMAP_BYTES)]
    """Who endorsed, over the whole set of the epoch; see consensus.validators."""
    signature: BlsSignature
    """The sum of their signatures."""


class CertifiedChunk(Record):
    """A chunk as blocks carry it: what it did, and why to believe that."""

    header: ChunkHeader
    certificate: ChunkCertificate


def compute_endorsement_bytes(chain_id: bytes, slot: Slot, chunk_hash: bytes) -> bytes:
    """Return the 32 bytes that an endorser of a chunk signs."""
    return compute_hash("endorse", chain_id, encode((slot, chunk_hash)))


def compute_producer_bytes(chain_id: bytes, slot: Slot, chunk_hash: bytes) -> bytes:
    """Return the 32 bytes that the producer of a chunk signs."""
    return compute_hash("produce", chain_id, encode((slot, chunk_hash)))


def build_chunk_certificate(
    signatures: Mapping[int, bytes], validators: ValidatorSet, scheme: SignatureScheme
) -> ChunkCertificate:
    """Return the certificate of verified endorsements, by signer."""
    signers = sorted(signatures)
    return ChunkCertificate(
        encode_bitmap(signers, len(validators)),
        scheme.aggregate([signatures[signer] for signer in signers]),
    )


def validate_chunk_certificate(
    header: ChunkHeader,
    certificate: ChunkCertificate,
    committee: Committee,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> None:
    """Check bitmap, membership, weight and signature, in the order of their cost.

    Args:
        header: Of the chunk.
        certificate: Untrusted.
        committee: Of the chunk's slot.
        validators: Of the chunk's epoch.
        chain_id: Part of what was signed.
        scheme: Verifies; once.

    Raises:
        InvalidChunkCertificate: The first thing that is wrong.
    """
    signers = decode_bitmap(certificate.bitmap, len(validators))
    if signers is None:
        raise InvalidChunkCertificate("a bitmap that does not fit the validator set")
    strangers = [signer for signer in signers if signer not in committee]
    if strangers:
        raise InvalidChunkCertificate(f"validator {strangers[0]} is not a member")
    if not committee.is_enough(signers):
        weight = committee.compute_weight(signers)
        raise InvalidChunkCertificate(f"weight {weight} < {committee.needed}")
    message = compute_endorsement_bytes(
        chain_id, get_slot(header), compute_chunk_hash(header)
    )
    keys = validators.get_public_keys(signers)
    if not scheme.fast_aggregate_verify(keys, message, certificate.signature):
        raise InvalidChunkCertificate("the signature does not verify")
