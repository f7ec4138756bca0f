"""
Stake-weighted Simplex: the rules of one validator in one epoch, or of a listener.

Theory of operation
-------------------
Time is cut into views; each has a leader, drawn by stake.  In every view the validators
collect a quorum (more than 2/3 of power) either for the leader's block or for leaving
without one, and then all go on:

    enter v --Propose--> Notarize --quorum, block held--> Finalize --quorum--> final
       |                                      |
       |                                      +--> enter v+1
       +--t_L, t_A, bad block--> Nullify --quorum--> enter v+1

    R1  first valid proposal of the view: Persist, Notarize
    R2  quorum of Notarize and the block held: Persist, Finalize unless we nullified v
        or saw the leader equivocate; enter v+1 either way
    R3  quorum of Nullify: enter v+1
    R4  a timer, an invalid block or the leader's own Nullify: Nullify unless finalized
    R5  quorum of Finalize: the block and its ancestors are final
    R6  any certificate for a view >= ours: adopt it, enter the next view
    R7  stuck: repeat our votes of the view and the certificate that let us in
    R8  after nullified views wait longer; nullify at once where the leader is silent

Why it is safe: nobody honest notarizes twice in a view, so a view has one notarization;
nobody honest nullifies and finalizes one view, so a finalization excludes the view's
nullification.  A later block carries in `just` the nullification of every view that it
jumps over, so it cannot jump over a final one.

The epoch ends with its boundary block: on it nothing is built, it is proposed again in
view after view until it is final.  Then this core is over and says nothing more;
consensus.participant goes on with the next one.

The core is sans-IO: `handle` takes an event and returns effects, in order.  It knows
blocks by hash, time by timers that it asks for, and the disk by `Persist` standing
before the `Broadcast` that depends on it.  Whether a block is held and valid, it is
told.

Spec: docs/protocol/04-consensus.md
"""

from collections.abc import Container, Iterable

from consensus.activity import VIEWS_BEHIND
from consensus.adopter import Adopter
from consensus.book import CertificateBook, Tip
from consensus.effects import (
    Broadcast,
    CheckBlock,
    Effect,
    FetchBlock,
    FetchCertificates,
    Reason,
    SetTimer,
)
from consensus.events import (
    BlockAdded,
    BlockBuilt,
    BlockDropped,
    BlockMismatched,
    BlockRefused,
    Event,
    ProposalDue,
    Received,
    Timer,
    TimerFired,
)
from consensus.evidence import is_excluded
from consensus.leader import compute_leader
from consensus.messages import (
    Certificate,
    Finalize,
    Notarize,
    Nullify,
    Proposal,
    Propose,
    Vote,
    get_view,
)
from consensus.params import compute_backoff
from consensus.place import find_fault, is_long, is_next
from consensus.pool import PooledVote
from consensus.proposer import Proposer
from consensus.records import WalRecord
from consensus.restore import collect_records, restore
from consensus.round import Round
from consensus.state import CoreConfig, CoreState
from consensus.validators import decode_bitmap

VIEWS_AHEAD = 1
"""Votes are taken for the next view, which faster validators may have entered."""


class Core:
    """One participant's state; `start` once, then `handle` event after event.

    Args:
        config: Who we are and what we agreed on.
        tip: The last final block.
        records: Our log.
        held: The hashes of blocks that are held (asked only about those in the log).
        is_muted: Sign nothing until `begin_signing`.
    """

    def __init__(
        self,
        config: CoreConfig,
        tip: Tip,
        records: Iterable[WalRecord] = (),
        held: Container[bytes] = (),
        *,
        is_muted: bool = False,
    ) -> None:
        self._config = config
        self._validators = config.validators
        self._state = CoreState(config, tip)
        self._book = self._state.book
        self._voter = self._state.voter
        self._tally = self._state.tally
        self._activity = self._state.activity
        self._proposer = Proposer(self._state)
        self._adopter = Adopter(self._state, self._proposer)
        self._early: tuple[Propose, bytes | None] | None = None
        """The proposal of a later view."""
        self._unproven: tuple[Propose, bytes | None] | None = None
        """The proposal of this view, while certificates for it are fetched."""
        self._timers: dict[Timer, int] = {}
        """The view for which each was last set; others are of an epoch before."""
        restore(self._state, records, held)
        self._voter.is_muted = is_muted

    @property
    def view(self) -> int:
        """The view we are in."""
        return self._state.view

    @property
    def index(self) -> int | None:
        """Our place in the validator set; None while we only listen."""
        return self._voter.index

    @property
    def is_voting(self) -> bool:
        """Whether we have a place and may sign."""
        return self._voter.is_voting

    @property
    def is_over(self) -> bool:
        """Whether the boundary block is final: this core says nothing more."""
        return self._state.is_over

    @property
    def book(self) -> CertificateBook:
        """The certificates and held blocks, to read from."""
        return self._book

    @property
    def pooled_votes(self) -> int:
        """Votes held in memory; bounded by ten views, three kinds, two per signer."""
        return sum(
            len(round.notarize_pool)
            + len(round.nullify_pool)
            + len(round.finalize_pool)
            for round in self._state.rounds.values()
        )

    def start(self) -> list[Effect]:
        """Enter the view that the log leads to."""
        if not self.is_over:
            self._enter(self.view)
            self._repeat()
            self._settle()
        return self._state.take_effects()

    def begin_signing(self) -> int:
        """Unmute a muted core: sign in later views than the present one; return it."""
        self._voter.floor, self._voter.is_muted = self.view, False
        return self.view

    def handle(self, event: Event) -> list[Effect]:
        """Apply one event and return what it makes necessary."""
        if self.is_over:
            if isinstance(event, Received):
                self._state.refuse(event.sender, Reason.OTHER_EPOCH)
            return self._state.take_effects()
        match event:
            case Received(message=Propose() as propose):
                self._on_propose(propose, event.sender)
            case Received(message=Certificate() as certificate):
                self._on_certificate(certificate, event.sender)
            case Received(message=Notarize() | Nullify() | Finalize() as vote):
                self._on_vote(vote, event.sender)
            case TimerFired():
                self._on_timer(event)
            case ProposalDue():
                self._proposer.on_due(event.view)
            case BlockBuilt():
                self._on_built(event)
            case BlockAdded(proposal=proposal) if self._is_ours(proposal):
                self._on_block_added(proposal)
            case BlockDropped(block_hash=block_hash):
                self._book.drop_held(block_hash)
            case BlockRefused(proposal=proposal) if self._is_ours(proposal):
                self._on_block_refused(proposal)
            case BlockMismatched(proposal=proposal) if self._is_ours(proposal):
                self._on_block_mismatched(proposal)
            case _:
                # Of another epoch: an answer that came late, or the participant's.
                pass
        self._settle()
        return self._state.take_effects()

    def get_retained_records(self) -> list[WalRecord]:
        """Return the part of the log that still binds us: all a shorter log needs."""
        return collect_records(self._state)

    def _is_ours(self, proposal: Proposal) -> bool:
        return proposal.epoch == self._config.epoch

    # Entering and leaving views

    def _settle(self) -> None:
        """R2, R3, R6: go on while a certificate lets us."""
        while not self.is_over:
            passed = self._book.get_passed_view()
            if passed < self.view:
                self._proposer.prepare()
                return
            self._enter(passed + 1)

    def _enter(self, view: int) -> None:
        self._state.view = view
        self._unproven = None
        params = self._config.params
        factor = compute_backoff(self._book.count_nullified(view))
        round = self._get_round(view)
        self._set_timer(Timer.LEADER, params.compute_leader_timeout_ms(factor))
        self._set_timer(Timer.ADVANCE, params.compute_advance_timeout_ms(factor))
        self._forget_rounds()
        # Not only when stuck: views may pass one after the other without us.
        self._fetch_wanted()
        self._activity.advance(view)
        if self._early is not None and get_view(self._early[0])[1] <= view:
            (propose, sender), self._early = self._early, None
            if get_view(propose)[1] == view:
                self._consider(propose, sender)
        leader_left = round.nullify_pool.get_votes(None).get(round.leader)
        if leader_left is not None and leader_left.is_verified:
            self._adopter.nullify()
        if round.leader != self.index and self._activity.is_silent(round.leader, view):
            self._adopter.nullify()

    def _on_timer(self, event: TimerFired) -> None:
        if event.view != self.view or self._timers.get(event.timer) != event.view:
            return
        round = self._get_round(self.view)
        match event.timer:
            case Timer.LEADER:
                if round.notarize is None:
                    self._adopter.nullify()
            case Timer.ADVANCE:
                self._adopter.nullify()
                self._set_timer(Timer.REBROADCAST, self._config.params.rebroadcast_ms)
            case Timer.REBROADCAST:
                self._repeat()
                self._set_timer(Timer.REBROADCAST, self._config.params.rebroadcast_ms)

    def _repeat(self) -> None:
        """R7: repeat our votes of this view and the best entering certificate."""
        round = self._get_round(self.view)
        last = self._voter.last_finalize
        votes: list[Vote | None] = [round.notarize, round.nullify, last]
        for vote in votes:
            if vote is not None:
                self._state.emit(Broadcast(vote, is_repeat=True))
        entering = self._book.find_entering(self.view - 1)
        if entering is not None and self.is_voting:
            self._state.emit(Broadcast(entering, is_repeat=True))
        self._fetch_wanted()
        self._proposer.retry()

    def _fetch_wanted(self) -> None:
        for wanted in self._book.find_wanted():
            self._state.emit(FetchBlock(wanted))

    def _on_built(self, event: BlockBuilt) -> None:
        vote = self._proposer.on_built(event)
        if vote is not None:
            self._adopter.pool_own(self._get_round(event.view), vote)

    # Proposals of others

    def _on_propose(self, propose: Propose, sender: bytes | None) -> None:
        proposal, signer = propose.notarize.proposal, propose.notarize.signer
        if proposal.epoch != self._config.epoch:
            return self._state.refuse(sender, Reason.OTHER_EPOCH)
        is_wanted = self._book.is_wanted(proposal)
        if signer >= len(self._validators):
            return self._state.refuse(sender, Reason.UNKNOWN_SIGNER)
        if proposal.view < self.view and not is_wanted:
            if proposal.view >= self._oldest_view:
                # The vote in it still counts, perhaps against its signer.
                self._on_vote(propose.notarize, sender)
            return self._state.refuse(sender, Reason.STALE)
        leader = compute_leader(self._config.seed, proposal.view, self._validators)
        if signer != leader:
            return self._state.refuse(sender, Reason.NOT_LEADER)
        known = self._state.rounds.get(proposal.view)
        if known is not None and known.candidate == proposal and not is_wanted:
            return self._state.refuse(sender, Reason.DUPLICATE)
        if self._early is not None and self._early[0].notarize == propose.notarize:
            return self._state.refuse(sender, Reason.DUPLICATE)
        if not self._tally.verify(propose.notarize):
            return self._state.refuse(sender, Reason.BAD_SIGNATURE)
        if is_wanted and proposal.view != self.view:
            self._state.emit(CheckBlock(proposal, propose.block, sender))
            return None
        if not self._adopt_just(propose, sender):
            return None
        self._settle()
        if self.is_over:
            return None
        if proposal.view == self.view:
            self._consider(propose, sender)
        elif proposal.view > self.view and self._is_latest(proposal):
            self._early = propose, sender
        return None

    def _is_latest(self, proposal: Proposal) -> bool:
        return self._early is None or get_view(self._early[0])[1] < proposal.view

    def _adopt_just(self, propose: Propose, sender: bytes | None) -> bool:
        """Check the place of a signed proposal; adopt the certificates for it."""
        proposal = propose.notarize.proposal
        fault = find_fault(propose, self._book.tip.view)
        if fault is not None:
            reason, detail = fault
            if reason is Reason.BAD_PROPOSAL:
                self._blame_leader(proposal, sender, detail)
            else:
                self._state.refuse(sender, reason, detail)
            return False
        for certificate in propose.just:
            if flaw := self._adopter.adopt_untrusted(certificate):
                self._state.refuse(sender, Reason.BAD_JUST, flaw)
                return False
        if not is_next(propose, self._book.root, self._config.last_height):
            self._blame_leader(proposal, sender, "it does not follow its parent")
            return False
        return True

    def _blame_leader(
        self, proposal: Proposal, sender: bytes | None, detail: str
    ) -> None:
        self._state.refuse(sender, Reason.BAD_PROPOSAL, detail)
        if proposal.view == self.view:
            self._adopter.nullify()

    def _consider(self, propose: Propose, sender: bytes | None) -> None:
        """R1: have the first proposal of the view checked; notice a second one."""
        proposal = propose.notarize.proposal
        if is_long(proposal):
            missing = self._book.find_unskipped(proposal)
            if missing is not None:
                self._unproven = propose, sender
                self._state.emit(FetchCertificates(proposal.epoch, missing))
                return
        round = self._get_round(proposal.view)
        self._activity.note_vote(round.view, propose.notarize.signer)
        self._tally.admit(round, PooledVote(propose.notarize, None, is_verified=True))
        if round.candidate is None:
            round.candidate = proposal
        elif round.candidate != proposal:
            round.is_equivocal = True
            return
        if self._book.is_judged(proposal):
            self._on_block_added(proposal)
        else:
            self._state.emit(CheckBlock(proposal, propose.block, sender))

    def _on_block_added(self, proposal: Proposal) -> None:
        certificates = self._book.add_held(proposal)
        round = self._find_candidate(proposal)
        if round is not None and round.candidate is not None:
            self._adopter.notarize(round.candidate)
        for certificate in certificates:
            self._adopter.on_certified(certificate)

    def _on_block_mismatched(self, proposal: Proposal) -> None:
        """The bytes were not the block; the leader may have sent it to others."""
        round = self._find_candidate(proposal)
        if round is not None:
            round.candidate = None

    def _on_block_refused(self, proposal: Proposal) -> None:
        if self._find_candidate(proposal) is not None:
            self._adopter.nullify()

    def _find_candidate(self, judged: Proposal) -> Round | None:
        """Return the current round if its proposal is the one that was judged.

        A repetition is judged as what it repeats.
        """
        round = self._state.rounds.get(self.view)
        if round is None or round.candidate is None:
            return None
        candidate = round.candidate
        is_repeat = candidate.is_repeat and candidate.block_hash == judged.block_hash
        return round if candidate == judged or is_repeat else None

    # Votes of others

    def _on_vote(self, vote: Vote, sender: bytes | None) -> None:
        epoch, view = get_view(vote)
        if epoch != self._config.epoch:
            return self._state.refuse(sender, Reason.OTHER_EPOCH)
        if vote.signer >= len(self._validators):
            return self._state.refuse(sender, Reason.UNKNOWN_SIGNER)
        if view > self.view + VIEWS_AHEAD:
            return self._state.refuse(sender, Reason.EARLY)
        if view < self._oldest_view:
            return self._state.refuse(sender, Reason.STALE)
        self._activity.note_vote(view, vote.signer)
        round = self._get_round(view)
        pooled = PooledVote(vote, sender, is_verified=False)
        if self._book.is_settled(vote):
            return self._on_late_vote(round, pooled)
        if isinstance(vote, Nullify) and vote.signer == round.leader:
            # Acted upon alone (R4), so verified alone.
            pooled.is_verified = self._tally.verify(vote)
            if not pooled.is_verified:
                return self._state.refuse(sender, Reason.BAD_SIGNATURE)
        if not self._tally.admit(round, pooled):
            return None
        self._accuse(round, pooled)
        self._adopter.try_certify(round, vote)
        if pooled.is_verified and isinstance(vote, Nullify) and view == self.view:
            self._adopter.nullify()
        return None

    def _on_late_vote(self, round: Round, pooled: PooledVote) -> None:
        """Nobody counts it any more; but it may contradict what its signer said.

        Or will say: so it is pooled as all others are.
        """
        is_alone = not self._tally.has_rival(round, pooled.signed)
        if self._tally.admit(round, pooled):
            if is_alone:
                self._state.refuse(pooled.sender, Reason.STALE)
            self._accuse(round, pooled)

    def _accuse(self, round: Round, pooled: PooledVote) -> None:
        """Hold a vote against a certificate that counts its signer for another."""
        vote = pooled.signed
        for known in self._book.get_certificates(round.view):
            if is_excluded(known, vote):
                signers = decode_bitmap(known.bitmap, len(self._validators)) or ()
                if vote.signer in signers:
                    self._tally.accuse_signer(round, pooled, known)

    @property
    def _oldest_view(self) -> int:
        return max(self.view - VIEWS_BEHIND, 1)

    # Certificates

    def _on_certificate(self, certificate: Certificate, sender: bytes | None) -> None:
        if certificate.epoch != self._config.epoch:
            self._state.refuse(sender, Reason.OTHER_EPOCH)
        elif self._book.is_stale(certificate):
            self._state.refuse(sender, Reason.STALE)
        elif self._book.has(certificate):
            self._state.refuse(sender, Reason.DUPLICATE)
        elif flaw := self._adopter.adopt_untrusted(certificate):
            self._state.refuse(sender, Reason.BAD_CERTIFICATE, flaw)
        elif self._unproven is not None:
            (propose, asker), self._unproven = self._unproven, None
            self._consider(propose, asker)

    # Memory

    def _get_round(self, view: int) -> Round:
        return self._state.get_round(view)

    def _forget_rounds(self) -> None:
        """Drop old votes of others; our own stay while their view is not final."""
        for view in [view for view in self._state.rounds if view < self._oldest_view]:
            round = self._state.rounds[view]
            ours = (round.notarize, round.nullify, round.finalize)
            if view <= self._book.tip.view or not any(ours):
                del self._state.rounds[view]
            else:
                round.forget_votes()

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self._timers[timer] = self.view
        self._state.emit(SetTimer(timer, self.view, delay_ms))
