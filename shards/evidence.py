"""
Evidence about chunks: two signed statements of which no honest validator makes both.

    E4  two endorsements by one signer in one slot     DoubleEndorsement
    E6  two chunks by one producer in one slot         DoubleProduction

(E5, an endorsed chunk that re-executes differently, is in shards/fraud.py: it is long
and needs more than signatures to be judged.)

An endorsement and a certificate are the same thing here: signatures of one message by
those in a bitmap.  A cheat may endorse one chunk to its producer and another one to
its own, and all that others ever see are two certificates; so any pair of endorsements
and certificates of one slot convicts those who are in both bitmaps.  Two certificates
of one slot are no crime by themselves: a third of the stake is enough for each.

The pair stands in the order of the chunk hashes, so one pair has one encoding.

Spec: docs/protocol/06-shards.md
"""

from enum import StrEnum

from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet, decode_bitmap, encode_bitmap
from primitives.codec import Record, decode
from primitives.errors import DecodeError
from primitives.types import U16, BlsSignature, Hash32
from shards.certificate import (
    ChunkCertificate,
    compute_endorsement_bytes,
    compute_producer_bytes,
)
from shards.errors import InvalidShardEvidence
from shards.messages import Endorsement, ProducerSignature
from shards.slots import Slot

MAX_SHARD_EVIDENCE_BYTES = 512
"""A slot, and twice a hash, a bitmap and a signature."""


class Endorsed(Record):
    """Endorsements of one chunk: one, or a whole certificate."""

    chunk_hash: Hash32
    certificate: ChunkCertificate


class DoubleEndorsement(Record, tag=3):
    """E4: endorsements of two chunks in one slot, with signers in common."""

    slot: Slot
    first: Endorsed
    """The one with the smaller chunk hash."""
    second: Endorsed


class Produced(Record):
    """A producer's signature of one chunk."""

    chunk_hash: Hash32
    signature: BlsSignature


class DoubleProduction(Record, tag=4):
    """E6: two chunks of one slot under one producer's signature."""

    slot: Slot
    producer: U16
    first: Produced
    """The one with the smaller chunk hash."""
    second: Produced


ShardEvidence = DoubleEndorsement | DoubleProduction


class Misconduct(StrEnum):
    """What somebody did about chunks; the words are those of interfaces."""

    DOUBLE_ENDORSE = "double_endorse"
    """E4"""
    BAD_ENDORSE = "bad_endorse"
    """E5"""
    DOUBLE_PRODUCE = "double_produce"
    """E6"""


def get_endorsed(endorsement: Endorsement, size: int) -> Endorsed:
    """Return one endorsement in the form of evidence.

    Args:
        endorsement: Of a signer in the set.
        size: Validators in the set.
    """
    bitmap = encode_bitmap([endorsement.signer], size)
    return Endorsed(
        endorsement.chunk_hash, ChunkCertificate(bitmap, endorsement.signature)
    )


def build_double_endorsement(
    slot: Slot, first: Endorsed, second: Endorsed
) -> DoubleEndorsement:
    """Return E4 in its canonical order; signatures are not looked at.

    Raises:
        InvalidShardEvidence: Both are about one chunk.
    """
    if second.chunk_hash < first.chunk_hash:
        first, second = second, first
    evidence = DoubleEndorsement(slot, first, second)
    _validate_form(evidence)
    return evidence


def build_double_production(
    first: ProducerSignature, second: ProducerSignature
) -> DoubleProduction:
    """Return E6 in its canonical order; signatures are not looked at.

    Raises:
        InvalidShardEvidence: One chunk, two slots or two producers.
    """
    if second.chunk_hash < first.chunk_hash:
        first, second = second, first
    if (first.slot, first.signer) != (second.slot, second.signer):
        raise InvalidShardEvidence("chunks of two slots or of two producers")
    evidence = DoubleProduction(
        first.slot,
        first.signer,
        Produced(first.chunk_hash, first.signature),
        Produced(second.chunk_hash, second.signature),
    )
    _validate_form(evidence)
    return evidence


def decode_shard_evidence(data: bytes) -> ShardEvidence:
    """Return the evidence that the bytes encode, whose form is right.

    Raises:
        InvalidShardEvidence: Not the canonical encoding of evidence, or its statements
            are about one chunk or in the wrong order.
    """
    try:
        # The stub of `decode` knows classes only, not unions of them.
        evidence: ShardEvidence = decode(
            ShardEvidence,  # type: ignore[arg-type]
            data,
            MAX_SHARD_EVIDENCE_BYTES,
        )
    except DecodeError as error:
        raise InvalidShardEvidence(f"not evidence: {error}") from error
    _validate_form(evidence)
    return evidence


def get_misconduct(evidence: ShardEvidence) -> Misconduct:
    """Return what the guilty did."""
    match evidence:
        case DoubleEndorsement():
            return Misconduct.DOUBLE_ENDORSE
        case DoubleProduction():
            return Misconduct.DOUBLE_PRODUCE


def find_shard_accused(
    evidence: ShardEvidence, validators: ValidatorSet
) -> tuple[int, ...]:
    """Return whom evidence convicts if it is genuine, ascending; costs no signature.

    Args:
        evidence: Of any origin.
        validators: Of the slot's epoch.

    Raises:
        InvalidShardEvidence: It convicts nobody, whoever signed it.
    """
    _validate_form(evidence)
    match evidence:
        case DoubleProduction():
            if evidence.producer >= len(validators):
                raise InvalidShardEvidence(
                    f"producer {evidence.producer} of {len(validators)}"
                )
            return (evidence.producer,)
        case DoubleEndorsement():
            first = _get_signers(evidence.first, validators)
            second = _get_signers(evidence.second, validators)
            accused = tuple(index for index in first if index in second)
            if not accused:
                raise InvalidShardEvidence("endorsements without a common signer")
            return accused


def validate_shard_evidence(
    evidence: ShardEvidence,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> tuple[int, ...]:
    """Return the indices of the guilty, ascending; at least one.

    Args:
        evidence: Of any origin; its form is checked again.
        validators: Of the slot's epoch.
        chain_id: Part of what was signed.
        scheme: Verifies; twice, and not at all when anything else is wrong.

    Raises:
        InvalidShardEvidence: It convicts nobody.
    """
    accused = find_shard_accused(evidence, validators)
    match evidence:
        case DoubleProduction():
            key = validators.validators[evidence.producer].public_key
            for produced in (evidence.first, evidence.second):
                message = compute_producer_bytes(
                    chain_id, evidence.slot, produced.chunk_hash
                )
                if not scheme.verify(key, message, produced.signature):
                    raise InvalidShardEvidence(
                        f"a chunk that validator {evidence.producer} did not sign"
                    )
        case DoubleEndorsement():
            for endorsed in (evidence.first, evidence.second):
                validate_endorsed(endorsed, evidence.slot, validators, chain_id, scheme)
    return accused


def validate_endorsed(
    endorsed: Endorsed,
    slot: Slot,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> tuple[int, ...]:
    """Return who signed endorsements, however few; one pairing.

    Raises:
        InvalidShardEvidence: Somebody in the bitmap did not.
    """
    signers = _get_signers(endorsed, validators)
    message = compute_endorsement_bytes(chain_id, slot, endorsed.chunk_hash)
    keys = validators.get_public_keys(signers)
    if not scheme.fast_aggregate_verify(keys, message, endorsed.certificate.signature):
        raise InvalidShardEvidence("endorsements whose signature does not verify")
    return signers


def _get_signers(endorsed: Endorsed, validators: ValidatorSet) -> tuple[int, ...]:
    signers = decode_bitmap(endorsed.certificate.bitmap, len(validators))
    if signers is None:
        raise InvalidShardEvidence("a bitmap that does not fit the validator set")
    return signers


def _validate_form(evidence: ShardEvidence) -> None:
    if evidence.first.chunk_hash >= evidence.second.chunk_hash:
        raise InvalidShardEvidence("one chunk, or the pair is not in its order")
