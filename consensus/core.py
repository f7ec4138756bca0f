"""
Stake-weighted Simplex: the rules of one validator, or of one that only listens.

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

Why it is safe: nobody honest notarizes twice in a view, so a view has one notarization;
nobody honest nullifies and finalizes one view, so a finalization excludes the view's
nullification.  A later block carries in `just` the nullification of every view that it
jumps over, so it cannot jump over a final one.

The core is sans-IO: `handle` takes an event and returns effects, in order.  It knows
blocks by hash, time by timers that it asks for, and the disk by `Persist` standing
before the `Broadcast` that depends on it.  Whether a block is held and valid, it is
told.  R8, further epochs and evidence are not in here yet: the epoch is constant.

Spec: docs/protocol/04-consensus.md
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from consensus.book import CertificateBook, Tip
from consensus.certificates import (
    validate_certificate,
)
from consensus.effects import (
    Broadcast,
    BuildBlock,
    CheckBlock,
    Conflict,
    Decide,
    Effect,
    FetchBlock,
    FetchCertificates,
    Persist,
    Reason,
    Refuse,
    SavePending,
    ScheduleProposal,
    SetTimer,
)
from consensus.errors import InvalidCertificate
from consensus.events import (
    BlockAdded,
    BlockBuilt,
    BlockMismatched,
    BlockRefused,
    Event,
    ProposalDue,
    Received,
    Timer,
    TimerFired,
)
from consensus.leader import compute_leader
from consensus.messages import (
    MAX_JUST,
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Proposal,
    Propose,
    Vote,
    get_view,
)
from consensus.params import ConsensusParams
from consensus.place import find_fault, is_next
from consensus.pool import PooledVote
from consensus.records import Floor, WalRecord, get_place
from consensus.round import Round
from consensus.scheme import SignatureScheme, Signer
from consensus.tally import Tally
from consensus.validators import ValidatorSet
from consensus.voter import Voter

VIEWS_BEHIND = 8
"""Votes are taken for that many views before ours: attendance and late finality."""
VIEWS_AHEAD = 1
"""And for the next one, which faster validators may have entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """What never changes while a core runs."""

    chain_id: bytes
    epoch: int
    seed: bytes
    """The epoch's seed, from which leaders are drawn."""
    validators: ValidatorSet
    last_height: int
    """Height of the epoch's boundary block."""
    params: ConsensusParams
    scheme: SignatureScheme
    signer: Signer | None
    """Our key; None for a node that only listens, or that lost its log."""


class Core:
    """One participant's state; `start` once, then `handle` event after event.

    Args:
        config: Who we are and what we agreed on.
        tip: The last final block.
        records: Our log.
        held: The hashes of blocks that are held (asked only about those in the log).
    """

    def __init__(
        self,
        config: CoreConfig,
        tip: Tip,
        records: Iterable[WalRecord] = (),
        held: Container[bytes] = (),
    ) -> None:
        self._config = config
        self._validators = config.validators
        self._voter = Voter(
            config.chain_id, config.epoch, config.validators, config.signer
        )
        self._book = CertificateBook(tip)
        self._rounds: dict[int, Round] = {}
        self._early: tuple[Propose, bytes | None] | None = None
        self._effects: list[Effect] = []
        self._tally = Tally(
            config.chain_id,
            config.epoch,
            config.validators,
            config.scheme,
            emit=lambda effect: self._effects.append(effect),
        )
        self._view = tip.view + 1
        self._restore(records, held)

    @property
    def view(self) -> int:
        """The view we are in."""
        return self._view

    @property
    def index(self) -> int | None:
        """Our place in the validator set; None while we only listen."""
        return self._voter.index

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
            for round in self._rounds.values()
        )

    def start(self) -> list[Effect]:
        """Enter the view that the log leads to."""
        self._enter(self._view)
        self._repeat()
        self._settle()
        return self._take_effects()

    def handle(self, event: Event) -> list[Effect]:
        """Apply one event and return what it makes necessary."""
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
                self._on_proposal_due(event.view)
            case BlockBuilt():
                self._on_built(event)
            case BlockAdded():
                self._on_block_added(event.proposal)
            case BlockRefused():
                self._on_block_refused(event.proposal)
            case BlockMismatched():
                self._on_block_mismatched(event.proposal)
        self._settle()
        return self._take_effects()

    def get_retained_records(self) -> list[WalRecord]:
        """Return the part of the log that still binds us: all a shorter log needs."""
        records: list[WalRecord] = []
        for certificates in (self._book.notarizations, self._book.nullifications):
            records += certificates.values()
        for round in self._rounds.values():
            votes = (round.notarize, round.nullify, round.finalize)
            records += [vote for vote in votes if vote is not None]
        return records

    # Entering and leaving views

    def _settle(self) -> None:
        """R2, R3, R6: go on while a certificate lets us."""
        while (passed := self._book.get_passed_view()) >= self._view:
            self._enter(passed + 1)
        self._prepare_proposal()

    def _enter(self, view: int) -> None:
        self._view = view
        params = self._config.params
        round = self._get_round(view)
        self._set_timer(Timer.LEADER, params.leader_timeout_ms)
        self._set_timer(Timer.ADVANCE, params.advance_timeout_ms)
        self._forget_rounds()
        if self._early is not None and get_view(self._early[0])[1] <= view:
            (propose, sender), self._early = self._early, None
            if get_view(propose)[1] == view:
                self._consider(propose, sender)
        leader_left = round.nullify_pool.get_votes(None).get(round.leader)
        if leader_left is not None and leader_left.is_verified:
            self._nullify()

    def _on_timer(self, event: TimerFired) -> None:
        if event.view != self._view:
            return
        round = self._get_round(self._view)
        match event.timer:
            case Timer.LEADER:
                if round.notarize is None:
                    self._nullify()
            case Timer.ADVANCE:
                self._nullify()
                self._set_timer(Timer.REBROADCAST, self._config.params.rebroadcast_ms)
            case Timer.REBROADCAST:
                self._repeat()
                self._set_timer(Timer.REBROADCAST, self._config.params.rebroadcast_ms)

    def _repeat(self) -> None:
        """R7: repeat our votes of this view and the best entering certificate."""
        round = self._get_round(self._view)
        last = self._voter.last_finalize
        votes: list[Vote | None] = [round.notarize, round.nullify, last]
        for vote in votes:
            if vote is not None:
                self._effects.append(Broadcast(vote, is_repeat=True))
        entering = self._book.find_entering(self._view - 1)
        if entering is not None and self._voter.index is not None:
            self._effects.append(Broadcast(entering, is_repeat=True))
        for wanted in self._book.find_wanted():
            self._effects.append(FetchBlock(wanted))
        self._retry_proposal()

    # Proposing

    def _prepare_proposal(self) -> None:
        """As the leader: plan the proposal as soon as there is a parent for it."""
        round = self._get_round(self._view)
        if not self._may_propose(round) or round.scheduled_parent is not None:
            return
        ancestry = self._book.find_parent(self._view)
        if len(ancestry.just) > MAX_JUST:
            return
        if ancestry.missing_view is not None:
            epoch = self._config.epoch
            self._effects.append(FetchCertificates(epoch, ancestry.missing_view))
            # Asked once; a repetition (R7) asks again.
            round.scheduled_parent = b""
            return
        round.scheduled_parent = ancestry.parent_hash
        self._effects.append(ScheduleProposal(self._view, ancestry.parent_hash))

    def _on_proposal_due(self, view: int) -> None:
        round = self._get_round(self._view)
        if view != self._view or not self._may_propose(round):
            return
        ancestry = self._book.find_parent(view)
        if ancestry.missing_view is not None:
            return
        if ancestry.parent_hash != round.scheduled_parent:
            round.scheduled_parent = ancestry.parent_hash
            self._effects.append(ScheduleProposal(view, ancestry.parent_hash))
            return
        assert self._voter.index is not None
        bitmap, signature = b"", b""
        if ancestry.notarization is not None:
            bitmap, signature = self._tally.compute_attendance(
                self._rounds.get(ancestry.parent_view), ancestry.notarization
            )
        self._effects.append(
            BuildBlock(
                epoch=self._config.epoch,
                view=view,
                parent_view=ancestry.parent_view,
                parent_hash=ancestry.parent_hash,
                proposer=self._voter.index,
                bitmap=bitmap,
                signature=signature,
            )
        )

    def _on_built(self, event: BlockBuilt) -> None:
        round = self._get_round(self._view)
        if event.view != self._view or not self._may_propose(round):
            return
        ancestry = self._book.find_parent(event.view)
        if ancestry.missing_view is not None:
            return
        if ancestry.parent_hash != round.scheduled_parent:
            return
        proposal = Proposal(
            epoch=self._config.epoch,
            view=event.view,
            parent_view=ancestry.parent_view,
            parent_hash=ancestry.parent_hash,
            block_hash=event.block_hash,
            height=event.height,
        )
        self._book.add_held(proposal)
        round.candidate = proposal
        vote = self._voter.notarize(round, proposal)
        assert vote is not None
        self._effects.append(Persist(vote))
        self._effects.append(Broadcast(Propose(event.block, vote, ancestry.just)))
        self._pool_own(round, vote)

    def _may_propose(self, round: Round) -> bool:
        return self._voter.index == round.leader and self._voter.may_notarize(round)

    # Proposals of others

    def _on_propose(self, propose: Propose, sender: bytes | None) -> None:
        proposal, signer = propose.notarize.proposal, propose.notarize.signer
        if proposal.epoch != self._config.epoch:
            return self._refuse(sender, Reason.OTHER_EPOCH)
        is_wanted = self._book.is_wanted(proposal)
        if proposal.view < self._view and not is_wanted:
            return self._refuse(sender, Reason.STALE)
        if signer >= len(self._validators):
            return self._refuse(sender, Reason.UNKNOWN_SIGNER)
        leader = compute_leader(self._config.seed, proposal.view, self._validators)
        if signer != leader:
            return self._refuse(sender, Reason.NOT_LEADER)
        known = self._rounds.get(proposal.view)
        if known is not None and known.candidate == proposal and not is_wanted:
            return self._refuse(sender, Reason.DUPLICATE)
        if self._early is not None and self._early[0].notarize == propose.notarize:
            return self._refuse(sender, Reason.DUPLICATE)
        if not self._tally.verify(propose.notarize):
            return self._refuse(sender, Reason.BAD_SIGNATURE)
        if is_wanted and proposal.view != self._view:
            self._effects.append(CheckBlock(proposal, propose.block, sender))
            return None
        if not self._adopt_just(propose, sender):
            return None
        self._settle()
        if proposal.view == self._view:
            self._consider(propose, sender)
        elif proposal.view > self._view and self._is_latest(proposal):
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
                self._refuse(sender, reason, detail)
            return False
        for certificate in propose.just:
            if not self._adopt_untrusted(certificate):
                self._refuse(sender, Reason.BAD_JUST, "a false certificate")
                return False
        if not is_next(propose, self._book.root_hash):
            self._blame_leader(proposal, sender, "it does not follow its parent")
            return False
        return True

    def _blame_leader(
        self, proposal: Proposal, sender: bytes | None, detail: str
    ) -> None:
        self._refuse(sender, Reason.BAD_PROPOSAL, detail)
        if proposal.view == self._view:
            self._nullify()

    def _consider(self, propose: Propose, sender: bytes | None) -> None:
        """R1: have the first proposal of the view checked; notice a second one."""
        proposal = propose.notarize.proposal
        round = self._get_round(proposal.view)
        self._tally.admit(round, PooledVote(propose.notarize, None, is_verified=True))
        if round.candidate is None:
            round.candidate = proposal
        elif round.candidate != proposal:
            round.is_equivocal = True
            return
        if self._book.is_held(proposal.block_hash):
            self._on_block_added(proposal)
        else:
            self._effects.append(CheckBlock(proposal, propose.block, sender))

    def _on_block_added(self, proposal: Proposal) -> None:
        certificates = self._book.add_held(proposal)
        round = self._rounds.get(self._view)
        if round is not None and round.candidate == proposal:
            self._send_vote(round, self._voter.notarize(round, proposal))
        for certificate in certificates:
            self._on_certified(certificate)

    def _on_block_mismatched(self, proposal: Proposal) -> None:
        """The bytes were not the block; the leader may have sent it to others."""
        round = self._rounds.get(proposal.view)
        if round is not None and round.candidate == proposal:
            round.candidate = None

    def _on_block_refused(self, proposal: Proposal) -> None:
        round = self._rounds.get(self._view)
        if round is not None and round.candidate == proposal:
            self._nullify()

    # Voting

    def _finalize(self, proposal: Proposal) -> None:
        """R2, the vote; spared where the view's nullification is known."""
        round = self._get_round(proposal.view)
        if proposal.view not in self._book.nullifications:
            self._send_vote(round, self._voter.finalize(round, proposal))

    def _nullify(self) -> None:
        """R4; spared where the view is final elsewhere and nobody needs our leave."""
        round = self._get_round(self._view)
        if self._book.best_final_view < self._view:
            self._send_vote(round, self._voter.nullify(round))

    def _send_vote(self, round: Round, vote: Vote | None) -> None:
        if vote is None:
            return
        self._effects.append(Persist(vote))
        self._effects.append(Broadcast(vote))
        self._pool_own(round, vote)

    def _pool_own(self, round: Round, vote: Vote) -> None:
        self._tally.admit(round, PooledVote(vote, None, is_verified=True))
        self._try_certify(round, vote)

    # Votes of others

    def _on_vote(self, vote: Vote, sender: bytes | None) -> None:
        epoch, view = get_view(vote)
        if epoch != self._config.epoch:
            return self._refuse(sender, Reason.OTHER_EPOCH)
        if vote.signer >= len(self._validators):
            return self._refuse(sender, Reason.UNKNOWN_SIGNER)
        if view > self._view + VIEWS_AHEAD:
            return self._refuse(sender, Reason.EARLY)
        if view < self._oldest_view or self._book.is_settled(vote):
            return self._refuse(sender, Reason.STALE)
        round = self._get_round(view)
        pooled = PooledVote(vote, sender, is_verified=False)
        if isinstance(vote, Nullify) and vote.signer == round.leader:
            # Acted upon alone (R4), so verified alone.
            pooled.is_verified = self._tally.verify(vote)
            if not pooled.is_verified:
                return self._refuse(sender, Reason.BAD_SIGNATURE)
        if not self._tally.admit(round, pooled):
            return None
        self._try_certify(round, vote)
        if pooled.is_verified and isinstance(vote, Nullify) and view == self._view:
            self._nullify()
        return None

    @property
    def _oldest_view(self) -> int:
        return max(self._book.tip.view, self._view - VIEWS_BEHIND, 1)

    def _try_certify(self, round: Round, vote: Vote) -> None:
        """R2, R3, R5: make the certificate once a quorum of votes verifies."""
        if self._book.is_certified(vote):
            return
        certificate = self._tally.count(round, vote)
        if certificate is not None:
            self._effects.append(Broadcast(certificate))
            self._adopt(certificate)

    # Certificates

    def _on_certificate(self, certificate: Certificate, sender: bytes | None) -> None:
        if certificate.epoch != self._config.epoch:
            self._refuse(sender, Reason.OTHER_EPOCH)
        elif self._book.is_stale(certificate):
            self._refuse(sender, Reason.STALE)
        elif self._book.has(certificate):
            self._refuse(sender, Reason.DUPLICATE)
        elif not self._adopt_untrusted(certificate):
            self._refuse(sender, Reason.BAD_CERTIFICATE)

    def _adopt_untrusted(self, certificate: Certificate) -> bool:
        if self._book.has(certificate):
            return True
        if certificate.epoch != self._config.epoch:
            return False
        try:
            validate_certificate(
                certificate,
                self._validators,
                self._config.chain_id,
                self._config.scheme,
            )
        except InvalidCertificate:
            return False
        rival = self._book.find_rival(certificate)
        if rival is not None:
            self._effects.append(Conflict(rival, certificate))
        elif not self._book.is_stale(certificate):
            self._adopt(certificate)
        return True

    def _adopt(self, certificate: Certificate) -> None:
        """R6: keep a verified certificate; what it allows happens in `_settle`."""
        if certificate.proposal is None:
            self._book.add_nullification(certificate)
            self._effects.append(Persist(certificate))
        else:
            self._book.add_certified(certificate)
            if self._book.is_held(certificate.proposal.block_hash):
                self._on_certified(certificate)
            else:
                self._effects.append(FetchBlock(certificate.proposal))
        self._retry_proposal()

    def _on_certified(self, certificate: Certificate) -> None:
        """R2, R5: a certificate whose block is held."""
        proposal = certificate.proposal
        assert proposal is not None
        if certificate.kind == Kind.FINALIZATION:
            self._decide(certificate)
        elif proposal.view > self._book.tip.view:
            # Durable before anybody can count on us for it, or a crash of all could
            # leave a certified block that nobody holds and no view could skip.
            self._effects.append(SavePending(proposal.block_hash))
            self._effects.append(Persist(certificate))
            self._finalize(proposal)
        self._retry_proposal()

    def _decide(self, certificate: Certificate) -> None:
        assert certificate.proposal is not None
        if certificate.proposal.height <= self._book.tip.height:
            return
        self._effects.append(Decide(certificate))
        self._book.set_tip(certificate)
        last = self._voter.last_finalize
        if last is not None and last.proposal.view <= self._book.tip.view:
            self._voter.last_finalize = None

    def _retry_proposal(self) -> None:
        """Something new: a leader that waited for a parent may look again."""
        round = self._rounds.get(self._view)
        if round is not None and round.scheduled_parent == b"":
            round.scheduled_parent = None

    # Memory

    def _restore(self, records: Iterable[WalRecord], held: Container[bytes]) -> None:
        """Take up the promises of the log; in its last view we stay silent.

        A vote that the log does not hold was never sent, but the view's block may
        have been: we neither propose nor notarize there again.
        """
        silent_until = 0
        for record in records:
            epoch, view = get_place(record)
            if epoch != self._config.epoch:
                continue
            match record:
                case Floor():
                    continue
                case Notarize() | Nullify() | Finalize():
                    silent_until = max(silent_until, view)
                    self._view = max(self._view, view)
                    self._restore_vote(record)
                case Certificate():
                    silent_until = max(silent_until, view + 1)
                    proposal = record.proposal
                    if proposal is not None and proposal.block_hash in held:
                        self._book.add_held(proposal)
                    if not self._book.is_stale(record):
                        self._book.restore(record)
        self._voter.silent_until = silent_until
        self._view = max(self._view, self._book.get_passed_view() + 1)

    def _restore_vote(self, vote: Vote) -> None:
        _, view = get_view(vote)
        if view < self._book.tip.view or vote.signer != self._voter.index:
            return
        round = self._get_round(view)
        self._voter.restore(round, vote)
        round.get_pool(vote).add(PooledVote(vote, None, is_verified=True))

    def _get_round(self, view: int) -> Round:
        round = self._rounds.get(view)
        if round is None:
            leader = compute_leader(self._config.seed, view, self._validators)
            round = self._rounds[view] = Round(view, leader)
        return round

    def _forget_rounds(self) -> None:
        """Drop old votes of others; our own stay while their view is not final."""
        for view in [view for view in self._rounds if view < self._oldest_view]:
            round = self._rounds[view]
            ours = (round.notarize, round.nullify, round.finalize)
            if view <= self._book.tip.view or not any(ours):
                del self._rounds[view]
            else:
                round.forget_votes()

    def _set_timer(self, timer: Timer, delay_ms: int) -> None:
        self._effects.append(SetTimer(timer, self._view, delay_ms))

    def _refuse(self, sender: bytes | None, reason: Reason, detail: str = "") -> None:
        self._effects.append(Refuse(sender, reason, detail))

    def _take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
