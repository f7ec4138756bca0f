"""
E5: an endorsed chunk that re-executes differently, and what follows from it.

Theory of operation
-------------------
A fraud proof holds the chunk's header, its certificate, its body, and a witness: the
part of the shard's state that the chunk reads or writes, proven under `pre_root`.  So
whoever knows the chain's headers can judge it without ever having followed the shard.

    witness not under pre_root     the proof is worthless, nobody is guilty
    body not the header's          likewise
    executes to the same header    likewise
    executes to another header,
    or cannot be executed          everybody who endorsed it is guilty

Any witness under `pre_root` will do, not only the one that the producer sent: a chunk's
effect follows from `pre_root` and body, and who forged it has no reason to publish what
convicts it.

The producer is guilty too, if its signature is shown: a certificate does not hold it.

A proof is as long as a chunk with its witness, so a block holds a notice in its place:
which bytes prove it, of which chunk, and whom.  Whoever judges the block needs those
bytes; whoever follows a quorum does not, for the notice says all that follows.

A proven fraud halts the shard.  Its state is what the liars say it is, blocks may have
been built on it, and no rule can tell what people would want kept.  No further chunk of
it is valid, none of its packets is consumed any more, `status` says so, people decide.

Execution is an argument: this package knows no transactions.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Callable
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
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError, RemoteError
from primitives.hashing import compute_hash
from primitives.types import BlsSignature, Hash32, Height, ShardId
from shards.certificate import (
    ChunkCertificate,
    compute_producer_bytes,
    validate_chunk_certificate,
)
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.committee import Committee
from shards.errors import (
    InvalidChunk,
    InvalidChunkCertificate,
    InvalidShardEvidence,
)
from shards.evidence import Endorsed, validate_endorsed
from shards.messages import (
    MAX_PRODUCED_BYTES,
    MAX_SMALL_BYTES,
    MAX_WITNESS_BYTES,
    ProducedChunk,
    validate_body,
)
from shards.packet import PacketProof
from shards.slots import Slot, get_slot

MAX_FRAUD_BYTES = MAX_PRODUCED_BYTES + MAX_SMALL_BYTES
"""A produced chunk and its certificate: whatever could be endorsed can be proven."""


class FraudProof(Record, tag=5):
    """Everything that it takes to see that an endorsed chunk is wrong."""

    header: ChunkHeader
    certificate: ChunkCertificate
    producer_signature: BlsSignature | None
    """None where it is not known; then the producer gets away."""
    transactions: tuple[bytes, ...]
    packets: tuple[PacketProof, ...]
    witness: Annotated[bytes, Meta(max_length=MAX_WITNESS_BYTES)]


class FraudNotice(Record, tag=7):
    """What stands in a block for a fraud proof."""

    slot: Slot
    """Of the chunk."""
    chunk_hash: Hash32
    proof_hash: Hash32
    """Names the bytes of the proof, so that everybody judges the same ones."""
    bitmap: Annotated[bytes, Meta(max_length=MAX_BITMAP_BYTES)]
    """Whom it convicts."""


@dataclass(frozen=True, slots=True)
class Reexecution:
    """What executing a chunk's body on its witness came to."""

    header: ChunkHeader | None
    """What the header should have been; None: the body cannot stand in any chunk."""
    fault: str = ""
    """Why not."""


Execute = Callable[[ProducedChunk], Reexecution]
"""Executes a chunk as its endorsers should have.

Raises InvalidChunk where no chunk can hold the body (that convicts), another
RemoteError where the witness is not what `pre_root` and body need (that does not), and
MissingError where something of the chain is missing here that the judgement needs."""


@dataclass(frozen=True, slots=True)
class FraudVerdict:
    """What a genuine fraud proof says."""

    fraud_id: bytes
    header: ChunkHeader
    guilty: tuple[int, ...]
    """Indices in the set of the header's epoch, ascending; at least one."""
    difference: str
    """The first thing that is wrong with the chunk, for people."""


class Halt(Record):
    """A shard that stands still; kept in the root shard's state."""

    shard: ShardId
    chunk_hash: Hash32
    """The chunk that was proven wrong."""
    fraud_id: Hash32
    height: Height
    """Of the block that holds the proof: from its children on nothing is valid."""


def decode_fraud(data: bytes) -> FraudProof:
    """Return the fraud proof that the bytes encode.

    Raises:
        InvalidShardEvidence: Not one, or too long.
    """
    try:
        return decode(FraudProof, data, MAX_FRAUD_BYTES)
    except DecodeError as error:
        raise InvalidShardEvidence(f"not a fraud proof: {error}") from error


def compute_fraud_id(proof: FraudProof) -> bytes:
    """Return the 32 bytes that name what a proof is about: the chunk alone.

    One wrong chunk is one fraud, whatever witness and certificate show it.
    """
    return compute_hash("fraud", compute_chunk_hash(proof.header))


def compute_proof_hash(data: bytes) -> bytes:
    """Return the 32 bytes that name an encoded proof."""
    return compute_hash("fraud-proof", data)


def build_notice(proof: FraudProof, validators: ValidatorSet) -> FraudNotice:
    """Return what a block says of a proof; nothing is judged.

    Raises:
        InvalidShardEvidence: It convicts nobody.
    """
    return FraudNotice(
        get_slot(proof.header),
        compute_chunk_hash(proof.header),
        compute_proof_hash(encode(proof)),
        encode_bitmap(find_fraud_accused(proof, validators), len(validators)),
    )


def find_notice_accused(
    notice: FraudNotice, validators: ValidatorSet
) -> tuple[int, ...]:
    """Return whom a notice accuses, ascending.

    Args:
        notice: Of any origin.
        validators: Of the slot's epoch.

    Raises:
        InvalidShardEvidence: Nobody, or somebody who is not in the set.
    """
    accused = decode_bitmap(notice.bitmap, len(validators))
    if not accused:
        raise InvalidShardEvidence("a bitmap that does not fit the validator set")
    return accused


def validate_notice(
    notice: FraudNotice, proof: FraudProof, validators: ValidatorSet
) -> None:
    """Check that a notice says what its proof is about; the proof is judged elsewhere.

    Raises:
        InvalidShardEvidence: It says something else.
    """
    if notice != build_notice(proof, validators):
        raise InvalidShardEvidence("a notice of another fraud than its proof's")


def find_fraud_accused(proof: FraudProof, validators: ValidatorSet) -> tuple[int, ...]:
    """Return whom a proof convicts if it is genuine, ascending; costs no signature.

    Raises:
        InvalidShardEvidence: It convicts nobody.
    """
    signers = decode_bitmap(proof.certificate.bitmap, len(validators))
    if not signers:
        raise InvalidShardEvidence("a bitmap that does not fit the validator set")
    accused = set(signers)
    if proof.producer_signature is not None:
        if proof.header.producer >= len(validators):
            raise InvalidShardEvidence(f"producer {proof.header.producer}")
        accused.add(proof.header.producer)
    return tuple(sorted(accused))


def judge_fraud(
    proof: FraudProof,
    committee: Committee | None,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
    execute: Execute,
) -> FraudVerdict:
    """Return what a proof proves; the dearest check, execution, comes last.

    Args:
        proof: Of any origin.
        committee: Of the chunk's slot.  None if a block of this chain holds the chunk:
            then a certificate was judged with it, and the epoch's seed may be gone.
        validators: Of the chunk's epoch.
        chain_id: Part of what was signed.
        scheme: Verifies; once or twice.
        execute: As the endorsers should have.

    Raises:
        InvalidShardEvidence: It convicts nobody.
        MissingError: It cannot be judged here, or not yet.
    """
    accused = find_fraud_accused(proof, validators)
    produced = build_produced(proof)
    try:
        validate_body(produced)
        if committee is not None:
            validate_chunk_certificate(
                proof.header, proof.certificate, committee, validators, chain_id, scheme
            )
    except (InvalidChunk, InvalidChunkCertificate) as error:
        raise InvalidShardEvidence(f"of no endorsed chunk: {error}") from error
    if committee is None:
        endorsed = Endorsed(compute_chunk_hash(proof.header), proof.certificate)
        slot = get_slot(proof.header)
        validate_endorsed(endorsed, slot, validators, chain_id, scheme)
    _validate_producer(proof, validators, chain_id, scheme)
    try:
        result = execute(produced)
    except InvalidChunk as error:
        result = Reexecution(None, str(error))
    except RemoteError as error:
        raise InvalidShardEvidence(f"a witness of no use: {error}") from error
    difference = find_difference(proof.header, result)
    if difference is None:
        raise InvalidShardEvidence("the chunk is what its header says")
    return FraudVerdict(compute_fraud_id(proof), proof.header, accused, difference)


def build_fraud(produced: ProducedChunk, certificate: ChunkCertificate) -> FraudProof:
    """Return the proof against a chunk that its committee endorsed.

    Args:
        produced: Its witness may be the judge's own; zeros for an unknown signature.
        certificate: Of the chunk.
    """
    return FraudProof(
        produced.header,
        certificate,
        produced.signature if any(produced.signature) else None,
        produced.transactions,
        produced.packets,
        produced.witness,
    )


def build_produced(proof: FraudProof) -> ProducedChunk:
    """Return the chunk in the form in which it was endorsed."""
    return ProducedChunk(
        proof.header,
        proof.producer_signature or bytes(96),
        proof.transactions,
        proof.packets,
        proof.witness,
    )


def build_halt(notice: FraudNotice, height: Height) -> Halt:
    """Return what stops a shard once a block at `height` holds a notice."""
    fraud_id = compute_hash("fraud", notice.chunk_hash)
    return Halt(notice.slot.shard, notice.chunk_hash, fraud_id, height)


def find_difference(header: ChunkHeader, result: Reexecution) -> str | None:
    """Return in what a header differs from what executing gives; None: in nothing."""
    if result.header is None:
        return result.fault or "the body cannot be executed"
    if result.header == header:
        return None
    for name in ChunkHeader.__struct_fields__:
        mine, theirs = getattr(result.header, name), getattr(header, name)
        if mine != theirs:
            return f"{name} is {_show(theirs)}, executing gives {_show(mine)}"
    raise AssertionError("two different headers differ in some field")


def _validate_producer(
    proof: FraudProof,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> None:
    if proof.producer_signature is None:
        return
    header = proof.header
    message = compute_producer_bytes(
        chain_id, get_slot(header), compute_chunk_hash(header)
    )
    key = validators.validators[header.producer].public_key
    if not scheme.verify(key, message, proof.producer_signature):
        raise InvalidShardEvidence("the producer did not sign the chunk")


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()[:16]
    return encode(value).hex()[:16] if isinstance(value, tuple) else repr(value)
