"""
Evidence on the chain: which pieces a block may hold, and whom they convict.

    bytes --decode--> Piece --age, accused--> --two pairings--> Verdict

A verdict names keys, not indices: it is about the set of the epoch in which it
happened, while stakes are found by key.  It depends on nothing that differs between
branches, because nothing of an epoch exists before the set of that epoch is final.  So
one cache serves the pool, the leader's own block and everybody else's blocks, and each
piece is verified once.

A fraud takes execution instead of pairings, on the branch that the chunk stands on: the
caller brings a `Court` (chain/tree/court.py).

Whether a verdict still convicts anybody depends on the state: see
chain/rewarding/slashing.py.

Spec: docs/protocol/11-staking.md
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chain.errors import UselessEvidence
from chain.records.pieces import (
    Misdeed,
    Piece,
    compute_piece_id,
    decode_piece,
    find_piece_accused,
    get_halted,
    get_misdeed,
    get_piece_place,
    get_reach,
    validate_signed,
)
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.types import Epoch, ShardId
from shards.fraud import FraudNotice

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

    @property
    def halted(self) -> ShardId | None:
        """The shard that it halts."""
        return get_halted(self.piece)


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
    piece: Piece

    @property
    def halted(self) -> ShardId | None:
        """The shard that it halts."""
        return get_halted(self.piece)


def is_timely(found: Accusation | Verdict, now: Epoch, evidence_epochs: int) -> bool:
    """Tell whether what happened can be punished in a block of epoch `now`.

    Stakes stay within reach for longer than this: genesis has `unbonding_epochs`
    above `evidence_epochs`.
    """
    reach = get_reach(found.piece, evidence_epochs)
    return now - reach <= found.epoch <= now


class Court(Protocol):
    """Judges frauds, which takes more than signatures."""

    def judge(self, notice: FraudNotice, validators: ValidatorSet) -> None:
        """Check that a notice is true.

        Args:
            notice: Untrusted; timely for the court's block.
            validators: Of its slot's epoch.

        Raises:
            InvalidEvidence: It is not.
            UselessEvidence: It is not for this branch to judge, or not yet.
            MissingFraudProof: The proof has to be fetched first.
            UnjudgedFraud: It is from before our history.
        """


class QuorumsWord:
    """Believes every notice: of blocks that a quorum has judged."""

    def judge(self, notice: FraudNotice, validators: ValidatorSet) -> None:
        """Believe it."""


class NoCourt:
    """Where no chunks are executed."""

    def judge(self, notice: FraudNotice, validators: ValidatorSet) -> None:
        """Refuse it."""
        raise UselessEvidence("a fraud, which cannot be judged here")


QUORUMS_WORD = QuorumsWord()
NO_COURT = NoCourt()


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

    def judge(self, accusation: Accusation, court: Court = NO_COURT) -> Verdict:
        """Return what the evidence proves.

        Args:
            accusation: Timely.
            court: For frauds.  What a court says depends on the branch, so it is asked
                each time; it remembers what is dear.

        Raises:
            InvalidEvidence: A signature is forged, a certificate has no quorum, or a
                chunk is as it should be.
            UselessEvidence, MissingFraudProof, UnjudgedFraud: As the court has it.
        """
        piece, validators = accusation.piece, accusation.validators
        if isinstance(piece, FraudNotice):
            court.judge(piece, validators)
            return _build_verdict(accusation)
        known = self._verdicts.get(accusation.evidence_id)
        if known is not None:
            return known
        validate_signed(piece, validators, self._chain_id, self._scheme)
        verdict = _build_verdict(accusation)
        self._verdicts[accusation.evidence_id] = verdict
        if len(self._verdicts) > self._capacity:
            self._verdicts.popitem(last=False)
        return verdict


def _build_verdict(accusation: Accusation) -> Verdict:
    """Return the verdict on an accusation that proved true: all accused are guilty."""
    epoch, view = get_piece_place(accusation.piece)
    return Verdict(
        evidence_id=accusation.evidence_id,
        misdeed=get_misdeed(accusation.piece),
        epoch=epoch,
        view=view,
        guilty=accusation.accused,
        piece=accusation.piece,
    )
