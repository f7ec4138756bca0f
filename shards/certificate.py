"""
Chunk certificates: a committee's endorsements as one signature.

An endorser signs that it re-executed the chunk from its witness, found what the header
says, and holds body and packets for whoever asks.  A producer signs that the chunk is
its one chunk for the slot.  Both sign the slot first, so that two statements about one
slot show themselves.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from primitives.types import BlsSignature, ShardId
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


@dataclass(frozen=True, slots=True)
class Endorsements:
    """A certificate of which all is right but, perhaps, the signature."""

    shard: ShardId
    public_keys: tuple[bytes, ...]
    """Of those who signed, as the bitmap says; enough members of the committee."""
    message: bytes
    signature: bytes


def read_chunk_certificate(
    header: ChunkHeader,
    certificate: ChunkCertificate,
    committee: Committee,
    validators: ValidatorSet,
    chain_id: bytes,
) -> Endorsements:
    """Check bitmap, membership and weight, and return what has to be verified.

    Args:
        header: Of the chunk.
        certificate: Untrusted.
        committee: Of the chunk's slot.
        validators: Of the chunk's epoch.
        chain_id: Part of what was signed.

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
    return Endorsements(
        shard=header.shard,
        public_keys=tuple(validators.get_public_keys(signers)),
        message=compute_endorsement_bytes(
            chain_id, get_slot(header), compute_chunk_hash(header)
        ),
        signature=certificate.signature,
    )


def verify_endorsements(
    endorsed: Sequence[Endorsements], scheme: SignatureScheme
) -> None:
    """Verify the signatures of several certificates, all in one check if they hold.

    A check of many costs more than one and much less than all; and where it fails,
    which a leader pays with its view, single ones tell whose.

    Raises:
        InvalidChunkCertificate: Names the first shard whose certificate fails.
    """
    items = [(each.public_keys, each.message, each.signature) for each in endorsed]
    if len(items) > 1 and scheme.verify_batch(items):
        return
    for each, item in zip(endorsed, items, strict=True):
        if not scheme.fast_aggregate_verify(*item):
            raise InvalidChunkCertificate(
                f"the signature does not verify, of the chunk of shard {each.shard}"
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
    endorsed = read_chunk_certificate(
        header, certificate, committee, validators, chain_id
    )
    verify_endorsements([endorsed], scheme)
