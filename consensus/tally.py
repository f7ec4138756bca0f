"""
Counting votes: which to pool, which to verify when, and when they make a certificate.
"""

from collections.abc import Callable

from consensus.certificates import build_certificate, merge_votes
from consensus.effects import Conflict, Effect, Reason, Refuse
from consensus.evidence import is_excluded
from consensus.messages import Certificate, Finalize, Kind, Notarize, Nullify, Vote
from consensus.pool import (
    MAX_PER_SIGNER,
    PooledVote,
    VotePool,
    VoteVerifier,
    get_subject,
)
from consensus.round import Round
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet, decode_bitmap

KIND_OF: dict[type[Vote], Kind] = {
    Notarize: Kind.NOTARIZATION,
    Nullify: Kind.NULLIFICATION,
    Finalize: Kind.FINALIZATION,
}
"""What a quorum of such votes certifies."""


class Tally:
    """Counts the votes of one epoch.

    Args:
        chain_id: Part of what is signed.
        epoch: The epoch.
        validators: Its set.
        scheme: Verifies and adds signatures.
        emit: Takes `Refuse` and `Conflict` effects.
    """

    def __init__(
        self,
        chain_id: bytes,
        epoch: int,
        validators: ValidatorSet,
        scheme: SignatureScheme,
        emit: Callable[[Effect], None],
    ) -> None:
        self._epoch = epoch
        self._validators = validators
        self._scheme = scheme
        self._verifier = VoteVerifier(chain_id, validators, scheme)
        self._emit = emit

    def verify(self, vote: Vote) -> bool:
        """Tell whether the signer, who is in the set, signed `vote`."""
        return self._verifier.verify(vote)

    def admit(self, round: Round, pooled: PooledVote) -> bool:
        """Pool a vote; verify it first where its signer said something else."""
        pool, vote = round.get_pool(pooled.signed), pooled.signed
        known = list(pool.find(vote.signer))
        same = [entry for entry in known if entry.signed == vote]
        if same:
            if pooled.is_verified:
                same[0].is_verified = True
            self._emit(Refuse(pooled.sender, Reason.DUPLICATE))
            return False
        if sum(entry.is_verified for entry in known) >= MAX_PER_SIGNER:
            self._emit(Refuse(pooled.sender, Reason.SURPLUS))
            return False
        if self.has_rival(round, vote) and not self._settle_rivals(round, pooled):
            return False
        pool.add(pooled)
        return True

    def has_rival(self, round: Round, vote: Vote) -> bool:
        """Tell whether a vote that excludes this one is pooled, perhaps a forged one.

        Two of one kind, or a Finalize and a Nullify; Notarize and Nullify may both be.
        """
        opposite = round.get_opposite_pool(vote)
        others = () if opposite is None else tuple(opposite.find(vote.signer))
        known = (*round.get_pool(vote).find(vote.signer), *others)
        return any(entry.signed != vote for entry in known)

    def accuse_signer(
        self, round: Round, pooled: PooledVote, known: Certificate
    ) -> None:
        """Hold a pooled vote against its signer, whom a certificate counts otherwise.

        The vote is verified for that; a forged one goes.
        """
        if not pooled.is_verified:
            pooled.is_verified = self.verify(pooled.signed)
            if not pooled.is_verified:
                self._remove(round.get_pool(pooled.signed), [pooled])
                return
        self._emit(Conflict(known, pooled.signed))

    def accuse_signers(self, round: Round, certificate: Certificate) -> None:
        """Hold what is pooled against those whom a new certificate counts."""
        signers = decode_bitmap(certificate.bitmap, len(self._validators)) or ()
        for pool in (round.notarize_pool, round.nullify_pool, round.finalize_pool):
            for subject in pool.list_subjects():
                votes = pool.get_votes(subject)
                example = next(iter(votes.values())).signed
                if not is_excluded(certificate, example):
                    continue
                for pooled in [votes[s] for s in signers if s in votes]:
                    self.accuse_signer(round, pooled, certificate)

    def count(self, round: Round, vote: Vote) -> Certificate | None:
        """Return the certificate of `vote`'s subject once a quorum verifies."""
        pool, subject = round.get_pool(vote), get_subject(vote)
        if not self._validators.is_quorum(pool.get_power(subject)):
            return None
        self._drop_forged(round, vote)
        if not self._validators.is_quorum(pool.get_power(subject)):
            return None
        votes = pool.get_votes(subject)
        return build_certificate(
            KIND_OF[type(vote)],
            subject if subject is not None else (self._epoch, round.view),
            {signer: entry.signed.signature for signer, entry in votes.items()},
            self._validators,
            self._scheme,
        )

    def compute_attendance(
        self, round: Round | None, notarization: Certificate
    ) -> tuple[bytes, bytes]:
        """Return bitmap and sum of all votes that we hold for a certified block.

        Those that the certificate does not count are verified without the others: two
        votes in each other's places verify together, and one of them may be counted.
        """
        counted = decode_bitmap(notarization.bitmap, len(self._validators)) or ()
        pool = round.notarize_pool.get_votes(notarization.proposal) if round else {}
        extra = [entry for signer, entry in pool.items() if signer not in counted]
        if round is not None:
            self._remove(round.notarize_pool, self._verifier.find_forged(extra))
            pool = round.notarize_pool.get_votes(notarization.proposal)
        votes = {signer: entry.signed.signature for signer, entry in pool.items()}
        return merge_votes(notarization, votes, self._validators, self._scheme)

    def _settle_rivals(self, round: Round, pooled: PooledVote) -> bool:
        """Verify a vote and the rivals of its signer; False when it is forged."""
        vote = pooled.signed
        pooled.is_verified = pooled.is_verified or self.verify(vote)
        if not pooled.is_verified:
            self._emit(Refuse(pooled.sender, Reason.BAD_SIGNATURE))
            return False
        for pool in (round.get_pool(vote), round.get_opposite_pool(vote)):
            if pool is None:
                continue
            for forged in pool.settle_rivals(vote.signer, self.verify):
                self._emit(Refuse(forged.sender, Reason.BAD_SIGNATURE))
            for rival in pool.find(vote.signer):
                self._emit(Conflict(rival.signed, vote))
                if isinstance(vote, Notarize) and vote.signer == round.leader:
                    round.is_equivocal = True
        return True

    def _drop_forged(self, round: Round, vote: Vote) -> None:
        """Verify the votes of `vote`'s subject in their sum; forged ones go."""
        pool = round.get_pool(vote)
        entries = pool.get_votes(get_subject(vote)).values()
        doubtful = [entry for entry in entries if not entry.is_verified]
        self._remove(pool, self._verifier.find_forged(doubtful))

    def _remove(self, pool: VotePool, forged: list[PooledVote]) -> None:
        pool.remove(forged)
        for entry in forged:
            self._emit(Refuse(entry.sender, Reason.BAD_SIGNATURE))
