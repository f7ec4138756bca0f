"""
Evidence on the chain: which pieces a block may hold, and whom they convict.

    bytes --decode--> Piece --age, accused--> --two pairings--> Verdict

A verdict names keys, not indices: it is about the set of the epoch in which it
happened, while stakes are found by key.  It depends on nothing that differs between
branches, because nothing of an epoch exists before the set of that epoch is final.  So
one cache serves the pool, the leader's own block and everybody else's blocks, and each
piece is verified once.

Whether a verdict still convicts anybody depends on the state: see chain/slashing.py.

Spec: docs/protocol/11-staking.md
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from chain.errors import UselessEvidence
from chain.pieces import (
    Misdeed,
    Piece,
    compute_piece_id,
    decode_piece,
    find_piece_accused,
    get_misdeed,
    get_piece_place,
    validate_piece,
)
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.types import Epoch

MAX_VERDICTS = 1024
"""Verdicts remembered: 128 validators in eight epochs; below a megabyte."""

FindValidators = Callable[[Epoch], ValidatorSet | None]
"""The set of an epoch, as long as it is kept."""


@dataclass(frozen=True, slots=True)
class Accusation:
    """Evidence whose form is right and whose signatures are not verified."""

    evidence_id: bytes
    piece: Piece
    validators: ValidatorSet
    """Of the epoch in which it happened."""
    accused: tuple[bytes, ...]
    """BLS public keys; at least one."""

    @property
    def epoch(self) -> Epoch:
        """When it happened."""
        return get_piece_place(self.piece)[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What genuine evidence says."""

    evidence_id: bytes
    misdeed: Misdeed
    epoch: Epoch
    """When it happened; also the view."""
    view: int
    guilty: tuple[bytes, ...]
    """BLS public keys; at least one."""


def is_timely(epoch: Epoch, now: Epoch, evidence_epochs: int) -> bool:
    """Tell whether what happened in `epoch` can be punished in a block of epoch `now`.

    Stakes stay within reach for longer than this: genesis has `unbonding_epochs`
    above `evidence_epochs`.
    """
    return now - evidence_epochs <= epoch <= now


class EvidenceJudge:
    """Verifies evidence of one chain, each piece once."""

    def __init__(
        self, chain_id: bytes, scheme: SignatureScheme, capacity: int = MAX_VERDICTS
    ) -> None:
        self._chain_id = chain_id
        self._scheme = scheme
        self._capacity = capacity
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def read(self, data: bytes, find_validators: FindValidators) -> Accusation:
        """Return whom untrusted bytes accuse; costs no signature.

        Raises:
            InvalidEvidence: Not evidence, or against nobody of its epoch's set.
            UselessEvidence: Of an epoch whose set is not known here.
        """
        piece = decode_piece(data)
        epoch, _ = get_piece_place(piece)
        validators = find_validators(epoch)
        if validators is None:
            raise UselessEvidence(f"of epoch {epoch}, whose validators are not known")
        accused = find_piece_accused(piece, validators)
        return Accusation(
            compute_piece_id(piece),
            piece,
            validators,
            tuple(validators.get_public_keys(accused)),
        )

    def judge(self, accusation: Accusation) -> Verdict:
        """Return what the evidence proves.

        Raises:
            InvalidEvidence: A signature is forged, or a certificate has no quorum.
        """
        known = self._verdicts.get(accusation.evidence_id)
        if known is not None:
            return known
        piece, validators = accusation.piece, accusation.validators
        guilty = validate_piece(piece, validators, self._chain_id, self._scheme)
        epoch, view = get_piece_place(piece)
        verdict = Verdict(
            accusation.evidence_id,
            get_misdeed(piece),
            epoch,
            view,
            tuple(validators.get_public_keys(guilty)),
        )
        self._verdicts[accusation.evidence_id] = verdict
        if len(self._verdicts) > self._capacity:
            self._verdicts.popitem(last=False)
        return verdict
