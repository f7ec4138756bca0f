"""
Pieces of evidence of any kind: about votes (E1 to E3) or about chunks (E4 to E6).

One union with one tag each, so a piece in a block or in gossip says itself what it is,
and whoever judges needs no cases.  A fraud proof (E5) is too long for a piece, and
needs execution to be judged: its piece is a notice, and chain/tree/court.py judges it.

Spec: docs/protocol/06-shards.md and 11-staking.md
"""

from consensus.errors import InvalidEvidence
from consensus.evidence import (
    MAX_EVIDENCE_BYTES,
    Equivocation,
    Evidence,
    decode_evidence,
    find_accused,
    get_equivocation,
    get_place,
    validate_evidence,
)
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from primitives.types import ShardId
from shards.evidence import (
    DoubleEndorsement,
    DoubleProduction,
    Misconduct,
    ShardEvidence,
    decode_shard_evidence,
    find_shard_accused,
    get_misconduct,
    validate_shard_evidence,
)
from shards.fraud import FraudNotice, find_notice_accused

Signed = Evidence | ShardEvidence
"""What signatures alone prove."""

Piece = Signed | FraudNotice

Misdeed = Equivocation | Misconduct
"""What the guilty did, in the words of interfaces."""


def decode_piece(data: bytes) -> Piece:
    """Return the piece that the bytes encode, whose form is right.

    Raises:
        InvalidEvidence: Not the canonical encoding of a piece, or its statements may
            stand beside each other.
    """
    try:
        # The stub of `decode` knows classes only, not unions of them.
        piece: Piece = decode(Piece, data, MAX_EVIDENCE_BYTES)  # type: ignore[arg-type]
    except DecodeError as error:
        raise InvalidEvidence(f"not evidence: {error}") from error
    if isinstance(piece, FraudNotice):
        return piece
    if isinstance(piece, DoubleEndorsement | DoubleProduction):
        return decode_shard_evidence(data)
    return decode_evidence(data)


def compute_piece_id(piece: Piece) -> bytes:
    """Return the 32 bytes that name a piece."""
    return compute_hash("evidence", encode(piece))


def get_piece_place(piece: Piece) -> tuple[int, int]:
    """Return the (epoch, view) in which it happened."""
    if isinstance(piece, DoubleEndorsement | DoubleProduction | FraudNotice):
        return piece.slot.epoch, piece.slot.created_view
    return get_place(piece)


def get_misdeed(piece: Piece) -> Misdeed:
    """Return what the guilty did, in the word of interfaces.

    Raises:
        InvalidEvidence: The two statements may stand beside each other.
    """
    if isinstance(piece, FraudNotice):
        return Misconduct.BAD_ENDORSE
    if isinstance(piece, DoubleEndorsement | DoubleProduction):
        return get_misconduct(piece)
    return get_equivocation(piece)


def find_piece_accused(piece: Piece, validators: ValidatorSet) -> tuple[int, ...]:
    """Return whom a piece convicts if it is genuine, ascending; costs no signature.

    Args:
        piece: Of any origin.
        validators: Of the epoch that `get_piece_place` names.

    Raises:
        InvalidEvidence: It convicts nobody, whoever signed it.
    """
    if isinstance(piece, FraudNotice):
        return find_notice_accused(piece, validators)
    if isinstance(piece, DoubleEndorsement | DoubleProduction):
        return find_shard_accused(piece, validators)
    return find_accused(piece, validators)


def get_halted(piece: Piece) -> ShardId | None:
    """Return the shard that a piece halts if it is genuine; only a fraud does."""
    return piece.slot.shard if isinstance(piece, FraudNotice) else None


def get_reach(piece: Piece, evidence_epochs: int) -> int:
    """Return how many epochs after it happened a block may still hold a piece.

    To execute a chunk again one has to know its epoch's layout, which the state keeps
    for one more.
    """
    return (
        min(1, evidence_epochs) if isinstance(piece, FraudNotice) else evidence_epochs
    )


def validate_signed(
    piece: Signed,
    validators: ValidatorSet,
    chain_id: bytes,
    scheme: SignatureScheme,
) -> tuple[int, ...]:
    """Return the indices of the guilty, ascending; at least one.

    Args:
        piece: Of any origin; no notice of a fraud.
        validators: Of the epoch that `get_piece_place` names.
        chain_id: Part of what was signed.
        scheme: Verifies; twice.

    Raises:
        InvalidEvidence: It convicts nobody.
    """
    if isinstance(piece, DoubleEndorsement | DoubleProduction):
        return validate_shard_evidence(piece, validators, chain_id, scheme)
    return validate_evidence(piece, validators, chain_id, scheme)
