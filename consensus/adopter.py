"""
Votes become certificates, and certificates take us on.

    our vote --Persist--> Broadcast --+
    votes of others ------------------+--quorum--> Certificate --> adopt
    certificates of others --verified-------------------------------^  |
                                                                       v
            N with its block: SavePending, Persist, Finalize    F: Decide    X: Persist

What is adopted lets us leave the view; that happens in consensus.core.
"""

from consensus.certificates import validate_certificate
from consensus.effects import (
    Broadcast,
    Conflict,
    Decide,
    FetchBlock,
    Persist,
    SavePending,
)
from consensus.errors import InvalidCertificate
from consensus.messages import Certificate, Kind, Proposal, Vote
from consensus.pool import PooledVote
from consensus.proposer import Proposer
from consensus.round import Round
from consensus.state import CoreState
from consensus.validators import decode_bitmap


class Adopter:
    """Votes, quorums, certificates, decisions: all that follows without a clock."""

    def __init__(self, state: CoreState, proposer: Proposer) -> None:
        self._state = state
        self._config = state.config
        self._validators = state.config.validators
        self._book = state.book
        self._voter = state.voter
        self._tally = state.tally
        self._activity = state.activity
        self._proposer = proposer

    def nullify(self) -> None:
        """R4; spared where the view is final elsewhere and nobody needs our leave."""
        round = self._state.get_round(self._state.view)
        if self._book.best_final_view < self._state.view:
            self._send_vote(round, self._voter.nullify(round))

    def notarize(self, proposal: Proposal) -> None:
        """R1, the vote for a valid proposal."""
        round = self._state.get_round(proposal.view)
        self._send_vote(round, self._voter.notarize(round, proposal))

    def _send_vote(self, round: Round, vote: Vote | None) -> None:
        if vote is None:
            return
        self._state.emit(Persist(vote))
        self._state.emit(Broadcast(vote))
        self.pool_own(round, vote)

    def pool_own(self, round: Round, vote: Vote) -> None:
        """Count a vote of ours like the others'."""
        self._activity.note_vote(round.view, vote.signer)
        self._tally.admit(round, PooledVote(vote, None, is_verified=True))
        self.try_certify(round, vote)

    def try_certify(self, round: Round, vote: Vote) -> None:
        """R2, R3, R5: make the certificate once a quorum of votes verifies."""
        if self._book.is_certified(vote):
            return
        certificate = self._tally.count(round, vote)
        if certificate is not None:
            self._state.emit(Broadcast(certificate))
            self._adopt_true(certificate)

    def adopt_untrusted(self, certificate: Certificate) -> str:
        """Verify and adopt a certificate; return what is wrong with it.

        One that we hold with other signers is verified too: who passes it on answers
        for it.
        """
        if certificate.epoch != self._config.epoch:
            return "a certificate of another epoch"
        if certificate in self._book.get_certificates(certificate.view):
            return ""
        try:
            validate_certificate(
                certificate,
                self._validators,
                self._config.chain_id,
                self._config.scheme,
            )
        except InvalidCertificate as error:
            return str(error)
        signers = decode_bitmap(certificate.bitmap, len(self._validators))
        self._activity.note_certificate(certificate.view, signers or ())
        self._adopt_true(certificate)
        return ""

    def _adopt_true(self, certificate: Certificate) -> None:
        """Adopt a verified certificate, unless it is old or a lie of many."""
        rival = self._book.find_rival(certificate)
        if rival is not None:
            self._state.emit(Conflict(rival, certificate))
        elif not (self._book.is_stale(certificate) or self._book.has(certificate)):
            self._adopt(certificate)

    def _adopt(self, certificate: Certificate) -> None:
        """R6: keep a verified certificate; what it allows happens in `_settle`."""
        round = self._state.rounds.get(certificate.view)
        if round is not None:
            self._tally.accuse_signers(round, certificate)
        if certificate.proposal is None:
            self._book.add_nullification(certificate)
            self._state.emit(Persist(certificate))
        else:
            self._book.add_certified(certificate)
            if self._book.is_held(certificate.proposal.block_hash):
                self.on_certified(certificate)
            else:
                self._state.emit(FetchBlock(certificate.proposal))
        self._proposer.retry()

    def on_certified(self, certificate: Certificate) -> None:
        """R2, R5: a certificate whose block is held."""
        proposal = certificate.proposal
        assert proposal is not None
        if certificate.kind == Kind.FINALIZATION:
            self._decide(certificate)
        elif proposal.view > self._book.tip.view:
            # Durable before anybody can count on us for it, or a crash of all could
            # leave a certified block that nobody holds and no view could skip.
            self._state.emit(SavePending(proposal.block_hash))
            self._state.emit(Persist(certificate))
            self._finalize(proposal)
        self._proposer.retry()

    def _finalize(self, proposal: Proposal) -> None:
        """R2, the vote; spared where the view's nullification is known."""
        round = self._state.get_round(proposal.view)
        if proposal.view not in self._book.nullifications:
            self._send_vote(round, self._voter.finalize(round, proposal))

    def _decide(self, certificate: Certificate) -> None:
        assert certificate.proposal is not None
        if certificate.proposal.height <= self._book.tip.height:
            return
        self._state.emit(Decide(certificate))
        self._book.set_tip(certificate)
        self._voter.forget_final(self._book.tip.view)
        if self._state.is_over:
            self._voter.is_muted = True
