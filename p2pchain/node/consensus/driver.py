"""
The shell around consensus: disk, clock, network and application.

Theory of operation
-------------------
Events reach the participant one at a time, in the trio thread, from wherever they
happen: a gossip check, a timer, a fetched block.  Its effects fall into two classes.

At once, in order: asking the application to build, judge, save or finalise a block
(its answers are the next events), starting timers, fetching.

Through the outbox, in order: log records, messages, and decisions that follow from
them; see outbox.py.

When a decision makes the last block of an epoch final, the application knows the next
epoch, and the participant is told.  A peer that lags behind in the epoch before is
given that block's finalization, and a peer that is ahead is asked for final blocks.

Votes go straight to every peer and are not passed on: they are verified in sums, late,
and nobody forwards what it has not checked.  Certificates, which replace them, and
proposals are flooded.  That needs most validators to be connected with each other,
as they are in networks below the connection limit.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path

import trio

from consensus import effects as fx
from consensus import events as ev
from consensus.certificates import verify_certificate
from consensus.leader import compute_leader
from consensus.messages import (
    MAX_MESSAGE_BYTES,
    MAX_PROPOSE_BYTES,
    Certificate,
    Finalize,
    Kind,
    Message,
    Notarize,
    Nullify,
    Proposal,
    Propose,
)
from consensus.participant import Mute, Participant, ParticipantConfig
from network.faults import Fault
from network.network import Network
from network.topics import Topic, Verdict
from p2pchain.node.consensus.application import Application
from p2pchain.node.consensus.block_desk import BlockDesk, BlockPorts, HeldBlocks
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.outbox import Outbox
from p2pchain.node.consensus.pace import Pace
from p2pchain.node.consensus.status import ConsensusStatus, Place
from p2pchain.node.consensus.sync import MAX_GAP, Sync, SyncPorts
from p2pchain.node.consensus.sync_messages import Status
from p2pchain.node.consensus.timers import Timers
from p2pchain.node.home.wal_file import WalFile
from primitives.codec import decode, encode

log = logging.getLogger(__name__)


class ConsensusDriver:
    """Runs consensus for one node.

    Args:
        config: What the network agreed on; `signer` is our key or None.
        application: The chain.
        network: Its topics CONSENSUS and BLOCKS are ours.
        wal_path: The log that `create_wal` made; needed with a signer.
        now_ms: Unix time in milliseconds.
        on_place: Hears of every (epoch, view, parent) on which a block could be made.
        bodies: Gets the bodies of chunks, where the application's blocks have any.

    Raises:
        WalLocked: Another process votes with this key.
        WrongWal: The log belongs to another key or chain.
    """

    def __init__(
        self,
        *,
        config: ParticipantConfig,
        application: Application,
        network: Network,
        wal_path: Path | None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        on_place: Callable[[Place], None] | None = None,
        bodies: BodyExchange | None = None,
    ) -> None:
        self._config = config
        self._application = application
        self._network = network
        self._on_place = on_place
        self._place: Place | None = None
        self._wal = self._open_wal(wal_path)
        is_lost = self._wal is not None and self._wal.is_lost
        self._participant = Participant(
            config,
            application.epoch,
            application.tip,
            self._wal.records if self._wal is not None else (),
            HeldBlocks(application),
            lost_at_ms=now_ms() if is_lost else None,
        )
        self._events: deque[ev.Event] = deque()
        self._is_handling = False
        self._failure: Exception | None = None
        self._refusals: list[fx.Refuse] = []
        self._outbox = Outbox(
            self._wal,
            network,
            self._participant.get_retained_records,
            self._finalize,
        )
        self._ends_told = Pace(config.params.rebroadcast_ms / 1000)
        self._asked = Pace(config.params.rebroadcast_ms / 1000)
        self._timers = Timers(self._on_timer)
        self._blocks = BlockDesk(
            config,
            application,
            network,
            bodies,
            self._timers,
            now_ms,
            BlockPorts(
                enqueue=self._events.append,
                handle=self._handle_and_blame,
                blame=self._blame,
                is_far_behind=self._is_far_behind,
                on_certificate=self._on_certificate,
            ),
        )
        self._fetcher = self._blocks.fetcher
        self._sync = Sync(
            network,
            application,
            SyncPorts(
                get_status=self._get_peer_status,
                verify_certificate=self._verify_certificate,
                get_certificates=self._get_certificates,
                on_block=self._blocks.on_synced_block,
                on_certificate=self._on_certificate,
            ),
            bodies,
        )
        network.subscribe(Topic.CONSENSUS, self._check_message)
        network.subscribe(Topic.BLOCKS, self._check_propose)

    @property
    def status(self) -> ConsensusStatus:
        """Where this node stands."""
        participant = self._participant
        epoch, view = participant.epoch, participant.view
        return ConsensusStatus(
            epoch=epoch.epoch,
            view=view,
            leader=compute_leader(epoch.seed, view, epoch.validators),
            index=participant.index,
            is_voting=participant.is_voting,
            mute_reason=self._explain_mute(),
            is_catching_up=self._sync.is_catching_up,
            best_height=self._sync.best_height,
        )

    def get_peer_height(self, peer_id: bytes) -> int | None:
        """Return the final height that a connected peer last told us of."""
        return self._sync.get_height(peer_id)

    @property
    def best_height(self) -> int:
        """The highest final height that a connected peer claims, or ours."""
        return self._sync.best_height

    def hold_ranges(self, is_held: Callable[[], bool]) -> None:
        """Take no ranges of blocks while `is_held` says so."""
        self._sync.is_held = is_held

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take part until cancelled; raises what the disk or the application raises."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._timers.run)
                nursery.start_soon(self._fetcher.run)
                nursery.start_soon(self._sync.run)
                nursery.start_soon(self._outbox.run)
                self._carry_out(self._participant.start())
                self._handle_and_blame()
                task_status.started()
        finally:
            if self._wal is not None:
                self._wal.close()

    # Setting up

    def _open_wal(self, path: Path | None) -> WalFile | None:
        if self._config.signer is None:
            return None
        assert path is not None, "a signer needs a log"
        wal = WalFile(path, self._config.signer.public_key, self._config.chain_id)
        if wal.is_lost:
            log.error("this validator does not vote yet: %s", wal.flaw)
        return wal

    def _explain_mute(self) -> str:
        mute = self._participant.mute
        if mute is None:
            return ""
        if mute is Mute.LOST_LOG and self._wal is not None:
            return f"{self._wal.flaw}; {mute.value}"
        return mute.value

    # Events in, effects out

    def _handle_events(self) -> list[fx.Refuse]:
        if self._is_handling:
            return []
        self._is_handling = True
        self._refusals = []
        try:
            while self._events and self._failure is None:
                self._handle_event(self._events.popleft())
        except Exception as error:
            # The participant believes that its effects happened; after half of them it
            # must not say another word.  The outbox raises this out of `run`.
            self._failure = error
            self._outbox.fail(error)
        finally:
            self._is_handling = False
        self._tell_place()
        return self._refusals

    def _handle_event(self, event: ev.Event) -> None:
        """Handle an event, and before it what gave way since the last one.

        So consensus never counts on a block that the application has dropped.
        """
        for block_hash in self._application.take_evicted():
            self._carry_out(self._participant.handle(ev.BlockDropped(block_hash)))
        if isinstance(event, ev.BlockAdded):
            block_hash = event.proposal.block_hash
            if not self._application.has_block(block_hash):
                return
        self._carry_out(self._participant.handle(event))

    def _tell_place(self) -> None:
        """Tell where the next block belongs, if that is news and its parent is here."""
        if self._on_place is None:
            return
        participant = self._participant
        ancestry = participant.book.find_parent(participant.view)
        if ancestry.missing_view is not None or ancestry.is_repeat:
            return
        place = Place(participant.epoch.epoch, participant.view, ancestry.parent_hash)
        if place != self._place and self._application.has_block(place.parent_hash):
            self._place = place
            self._on_place(place)

    def _handle_and_blame(self) -> None:
        """Handle events that no message of a peer is waiting for an answer to."""
        for refusal in self._handle_events():
            if refusal.reason.is_fault:
                self._blame(refusal.sender, refusal.reason.value)

    def _carry_out(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Persist() | fx.BeginLog() | fx.Broadcast():
                    self._outbox.put(effect)
                case fx.SetTimer():
                    value = ev.TimerFired(effect.timer, effect.view)
                    self._timers.set(effect.timer, effect.delay_ms / 1000, value)
                case fx.ScheduleProposal():
                    self._blocks.schedule(effect)
                case fx.BuildBlock():
                    self._blocks.build(effect)
                case fx.LoadBlock():
                    self._blocks.load(effect)
                case fx.CheckBlock():
                    self._blocks.check(effect.proposal, effect.block, effect.sender)
                case fx.SavePending():
                    self._application.save_pending(effect.block_hash)
                case fx.Decide():
                    self._decide(effect)
                case fx.FetchBlock():
                    self._blocks.fetch(effect.proposal)
                case fx.FetchCertificates():
                    self._fetch_certificates(effect)
                case fx.TellEpochEnd():
                    self._tell_epoch_end(effect)
                case fx.CatchUp():
                    if self._asked.take_turn(effect.peer):
                        self._sync.ask(effect.peer)
                case fx.Refuse():
                    self._refusals.append(effect)
                case fx.Conflict():
                    self._application.report(effect.first, effect.second)

    def _decide(self, effect: fx.Decide) -> None:
        """Finalize a block, after the records that it follows from.

        A validator that is a quorum alone decides on votes that are not on disk yet.
        Were its block final without them, a crash would leave nobody who knows the
        notarization that the next block needs.  What we catch up with, others know.
        """
        if self._outbox.is_empty or self._sync.is_catching_up:
            self._finalize(effect)
        else:
            self._outbox.put(effect)

    def _finalize(self, effect: fx.Decide) -> None:
        self._application.finalize(effect.certificate)
        self._fetcher.forget_below(self._application.final_height)
        epoch = self._application.epoch
        if epoch.epoch != self._participant.epoch.epoch:
            log.info("epoch %d begins", epoch.epoch)
            self._events.append(ev.EpochBegun(epoch, self._application.tip))
        first_time_ms = self._application.epoch_first_time_ms
        if self._participant.mute is Mute.LOST_LOG and first_time_ms is not None:
            self._events.append(ev.FirstBlockFinal(epoch.epoch, first_time_ms))
        self._handle_and_blame()

    def _is_far_behind(self) -> bool:
        """Whether a verified finalization tells that ranges are the way forward."""
        best = self._participant.book.best_final_height
        return best > self._application.final_height + MAX_GAP

    def _tell_epoch_end(self, effect: fx.TellEpochEnd) -> None:
        certificate = self._application.get_epoch_end(effect.epoch)
        if certificate is not None and self._ends_told.take_turn(effect.peer):
            self._network.send(effect.peer, Topic.CONSENSUS, encode(certificate))

    def _on_timer(self, name: Hashable, value: object) -> None:
        assert isinstance(value, ev.TimerFired | ev.ProposalDue)
        self._events.append(value)
        self._handle_and_blame()

    # Certificates

    def _fetch_certificates(self, effect: fx.FetchCertificates) -> None:
        def is_enough() -> bool:
            participant = self._participant
            if participant.epoch.epoch != effect.epoch:
                return True
            return not participant.book.is_unknown(effect.view)

        self._fetcher.fetch_certificates(effect.epoch, effect.view, is_enough)

    def _on_certificate(self, certificate: Certificate, sender: bytes) -> None:
        """Take a certificate that we asked for."""
        self._events.append(ev.Received(certificate, sender))
        self._handle_and_blame()

    def _verify_certificate(self, certificate: Certificate) -> bool:
        """Tell whether a certificate is true and of the epoch that we are in."""
        config, epoch = self._config, self._participant.epoch
        return certificate.epoch == epoch.epoch and verify_certificate(
            certificate, epoch.validators, config.chain_id, config.scheme
        )

    def _get_certificates(self, epoch: int, view: int) -> tuple[Certificate, ...]:
        """Return what we hold of a view; of an epoch that is over, its end."""
        if epoch == self._participant.epoch.epoch:
            return self._participant.book.get_certificates(view)
        end = self._application.get_epoch_end(epoch)
        return () if end is None else (end,)

    # Messages in

    async def _check_message(self, peer_id: bytes, payload: bytes) -> Verdict:
        """Take a vote or a certificate; pass only certificates on."""
        message: Message = decode(SmallMessage, payload, MAX_MESSAGE_BYTES)  # type: ignore[arg-type]
        verdict = self._receive(message, peer_id)
        match message:
            case Certificate(kind=Kind.FINALIZATION, proposal=Proposal() as proposal):
                if verdict is Verdict.ACCEPT:
                    # Verified: the height is real, and the peer most likely has it.
                    self._sync.note_height(peer_id, proposal.height)
                return verdict
            case Certificate():
                return verdict
        return Verdict.IGNORE if verdict is Verdict.ACCEPT else verdict

    async def _check_propose(self, peer_id: bytes, payload: bytes) -> Verdict:
        """Take a proposal; pass it on once its block is held.

        These very bytes, that is: where the block was here before, nobody has looked at
        them, and who passes them on answers for them.
        """
        propose = decode(Propose, payload, MAX_PROPOSE_BYTES)
        verdict = self._receive(propose, peer_id)
        block_hash = propose.notarize.proposal.block_hash
        held = self._application.get_block_bytes(block_hash)
        if verdict is Verdict.ACCEPT and held != propose.block:
            return Verdict.IGNORE
        return verdict

    def _receive(self, message: Message, peer_id: bytes) -> Verdict:
        verdict = Verdict.ACCEPT
        self._events.append(ev.Received(message, peer_id))
        for refusal in self._handle_events():
            if refusal.reason.is_fault:
                log.info("refused: %s %s", refusal.reason.value, refusal.detail)
            if refusal.sender == peer_id:
                is_fault = refusal.reason.is_fault or verdict is Verdict.REJECT
                verdict = Verdict.REJECT if is_fault else Verdict.IGNORE
            elif refusal.reason.is_fault:
                self._blame(refusal.sender, refusal.reason.value)
        return verdict

    def _blame(self, sender: bytes | None, reason: str) -> None:
        if sender is not None:
            log.info("%s is to blame: %s", sender.hex()[:8], reason)
            self._network.penalize(sender, Fault.BAD_MESSAGE)

    def _get_peer_status(self) -> Status:
        return Status(
            self._participant.epoch.epoch,
            self._participant.view,
            self._application.final_height,
        )


SmallMessage = Notarize | Nullify | Finalize | Certificate
