"""
The shell around the consensus core: disk, clock, network and application.

Theory of operation
-------------------
Events reach the core one at a time, in the trio thread, from wherever they happen:
a gossip check, a timer, a fetched block.  Its effects fall into two classes.

At once, in order: asking the application to build, judge, save or finalise a block
(its answers are the next events), starting timers, fetching.

In the outbox, in order: log records, messages, and decisions that follow from them.
One task empties it, turn by turn: all records of the turn in one append and one fsync,
in a thread; then the rest.
So nothing leaves before what it promises is on disk, and while the disk works, events
go on being handled and gather for the next turn.

Votes go straight to every peer and are not passed on: they are verified in sums, late,
and nobody forwards what it has not checked.  Certificates, which replace them, and
proposals are flooded.  That needs most validators to be connected with each other,
as they are in networks below the connection limit.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from chain.block import Attendance
from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    MissingParent,
    TooManyPending,
)
from consensus import effects as fx
from consensus import events as ev
from consensus.certificates import verify_certificate
from consensus.core import Core, CoreConfig
from consensus.errors import CorruptWal, LostWal
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
from consensus.randao import compute_reveal_bytes
from consensus.records import WalRecord
from network.faults import Fault
from network.network import Network
from network.topics import Topic, Verdict
from p2pchain.node.application import Application
from p2pchain.node.fetcher import Fetcher, WaitingBlock
from p2pchain.node.sync import MAX_GAP, Sync, SyncPorts
from p2pchain.node.sync_messages import Status
from p2pchain.node.timers import Timers
from p2pchain.node.wal_file import WalFile
from primitives.codec import decode, encode
from primitives.errors import P2PChainError

log = logging.getLogger(__name__)

PROPOSAL = "proposal"
"""Name of the timer that waits for the parent's time plus the interval."""


@dataclass(frozen=True, slots=True)
class ConsensusStatus:
    """Where this node stands, for people and programs."""

    epoch: int
    view: int
    leader: int
    """Index of the current view's leader."""
    index: int | None
    """Our own index; None while we only listen."""
    is_voting: bool
    mute_reason: str
    """Why a validator does not vote; empty when it does, or is none."""
    is_catching_up: bool
    best_height: int
    """The highest final height that a peer claims."""


class ConsensusDriver:
    """Runs consensus for one node.

    Args:
        config: What the network agreed on; `signer` is our key or None.
        application: The chain.
        network: Its topics CONSENSUS and BLOCKS are ours.
        wal_path: The log that `create_wal` made; needed with a signer.
        now_ms: Unix time in milliseconds.

    Raises:
        WalLocked: Another process votes with this key.
        WrongWal: The log belongs to another key or chain.
    """

    def __init__(
        self,
        *,
        config: CoreConfig,
        application: Application,
        network: Network,
        wal_path: Path | None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._application = application
        self._network = network
        self._now_ms = now_ms
        self._mute_reason = ""
        self._wal = self._open_wal(config, wal_path)
        if self._wal is None:
            config = replace(config, signer=None)
        self._config = config
        self._core = Core(
            config,
            application.tip,
            self._wal.records if self._wal is not None else (),
            _HeldBlocks(application),
        )
        self._events: deque[ev.Event] = deque()
        self._is_handling = False
        self._failure: Exception | None = None
        self._refusals: list[fx.Refuse] = []
        self._outbox: list[fx.Persist | fx.Broadcast | fx.Decide] = []
        self._is_writing = False
        self._outbox_filled = trio.Event()
        self._disk = trio.CapacityLimiter(1)
        self._timers = Timers(self._on_timer)
        self._fetcher = Fetcher(
            network, application, self._on_fetched_block, self._on_certificate
        )
        self._sync = Sync(
            network,
            application,
            SyncPorts(
                get_status=self._get_peer_status,
                verify_certificate=self._verify_certificate,
                get_certificates=self._core.book.get_certificates,
                on_block=self._on_synced_block,
                on_certificate=self._on_certificate,
            ),
        )
        network.subscribe(Topic.CONSENSUS, self._check_message)
        network.subscribe(Topic.BLOCKS, self._check_propose)

    @property
    def status(self) -> ConsensusStatus:
        """Where this node stands."""
        view = self._core.view
        config = self._config
        return ConsensusStatus(
            epoch=config.epoch,
            view=view,
            leader=compute_leader(config.seed, view, config.validators),
            index=self._core.index,
            is_voting=self._core.index is not None,
            mute_reason=self._mute_reason,
            is_catching_up=self._sync.is_catching_up,
            best_height=self._sync.best_height,
        )

    def get_peer_height(self, peer_id: bytes) -> int | None:
        """Return the final height that a connected peer last told us of."""
        return self._sync.get_height(peer_id)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take part until cancelled; raises what the disk or the application raises."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._timers.run)
                nursery.start_soon(self._fetcher.run)
                nursery.start_soon(self._sync.run)
                nursery.start_soon(self._empty_outbox)
                self._carry_out(self._core.start())
                self._handle_events()
                task_status.started()
        finally:
            if self._wal is not None:
                self._wal.close()

    # Setting up

    def _open_wal(self, config: CoreConfig, path: Path | None) -> WalFile | None:
        """Open the log, or explain why this validator must not vote."""
        if config.signer is None:
            return None
        assert path is not None, "a signer needs a log"
        try:
            return WalFile(path, config.signer.public_key, config.chain_id)
        except (LostWal, CorruptWal) as error:
            self._mute_reason = str(error)
            log.error("this validator does not vote: %s", error)
            return None

    # Events in, effects out

    def _apply(self, event: ev.Event) -> list[fx.Refuse]:
        """Handle an event and all that follow from it; return the refusals."""
        self._events.append(event)
        return self._handle_events()

    def _handle_events(self) -> list[fx.Refuse]:
        if self._is_handling:
            return []
        self._is_handling = True
        self._refusals = []
        try:
            while self._events and self._failure is None:
                self._carry_out(self._core.handle(self._events.popleft()))
        except Exception as error:
            # The core believes that its effects happened; after half of them it must
            # not say another word.  The outbox raises this out of `run`.
            self._failure = error
            self._outbox.clear()
            self._outbox_filled.set()
        finally:
            self._is_handling = False
        return self._refusals

    def _carry_out(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Persist() | fx.Broadcast():
                    self._outbox.append(effect)
                    self._outbox_filled.set()
                case fx.SetTimer():
                    value = ev.TimerFired(effect.timer, effect.view)
                    self._timers.set(effect.timer, effect.delay_ms / 1000, value)
                case fx.ScheduleProposal():
                    self._schedule_proposal(effect)
                case fx.BuildBlock():
                    self._build_block(effect)
                case fx.CheckBlock():
                    self._check_block(effect.proposal, effect.block, effect.sender)
                case fx.SavePending():
                    self._application.save_pending(effect.block_hash)
                case fx.Decide():
                    self._decide(effect)
                case fx.FetchBlock():
                    self._fetch_block(effect.proposal)
                case fx.FetchCertificates():
                    self._fetch_certificates(effect)
                case fx.Refuse():
                    self._refusals.append(effect)
                case fx.Conflict():
                    log.warning("conflicting votes: %s and %s", *_show(effect))

    def _decide(self, effect: fx.Decide) -> None:
        """Finalize a block, after the records that it follows from.

        A validator that is a quorum alone decides on votes that are not on disk yet.
        Were its block final without them, a crash would leave nobody who knows the
        notarization that the next block needs.  What we catch up with, others know.
        """
        if (self._outbox or self._is_writing) and not self._sync.is_catching_up:
            self._outbox.append(effect)
            self._outbox_filled.set()
        else:
            self._finalize(effect)

    def _finalize(self, effect: fx.Decide) -> None:
        self._application.finalize(effect.certificate)
        self._fetcher.forget_below(self._application.final_height)

    def _on_timer(self, name: Hashable, value: object) -> None:
        assert isinstance(value, ev.TimerFired | ev.ProposalDue)
        self._apply(value)

    # Proposing

    def _schedule_proposal(self, effect: fx.ScheduleProposal) -> None:
        due_ms = self._application.get_time_ms(effect.parent_hash)
        due_ms += self._config.params.interval_ms
        wait_s = max(0, due_ms - self._now_ms()) / 1000
        self._timers.set(PROPOSAL, wait_s, ev.ProposalDue(effect.view))

    def _build_block(self, effect: fx.BuildBlock) -> None:
        assert self._config.signer is not None
        earliest_ms = self._application.get_time_ms(effect.parent_hash)
        earliest_ms += self._config.params.interval_ms
        message = compute_reveal_bytes(self._config.chain_id, effect.epoch, effect.view)
        try:
            block_hash, block, height = self._application.build_block(
                epoch=effect.epoch,
                view=effect.view,
                parent_hash=effect.parent_hash,
                parent_view=effect.parent_view,
                proposer=effect.proposer,
                reveal=self._config.signer.sign(message),
                attendance=Attendance(effect.bitmap, effect.signature),
                time_ms=max(self._now_ms(), earliest_ms),
            )
        except P2PChainError:
            # The view passes without our block; the chain goes on.
            log.exception("no block for view %d", effect.view)
            return
        self._events.append(ev.BlockBuilt(effect.view, block_hash, block, height))

    # Judging and fetching blocks

    def _check_block(
        self, proposal: Proposal, block: bytes, sender: bytes | None
    ) -> None:
        """Have the application judge a block; queue what the core has to know."""
        try:
            self._application.add_block(proposal, block)
        except MissingParent:
            waiting = WaitingBlock(proposal, block, sender)
            self._fetcher.park(waiting, is_fetching=not self._is_far_behind)
        except InvalidBlock as error:
            if isinstance(error, BodyMismatch) or not self._is_named(proposal, block):
                self._blame(sender, str(error))
                self._events.append(ev.BlockMismatched(proposal))
            else:
                # The leader's, not the sender's; and where it is about time, perhaps
                # our clock's.  It costs the view.
                log.warning("invalid block in view %d: %s", proposal.view, error)
                self._events.append(ev.BlockRefused(proposal))
        except TooManyPending:
            log.exception("no judgement of block %s", proposal.block_hash.hex()[:8])
        else:
            self._events.append(ev.BlockAdded(proposal))
            self._check_children(proposal)

    @property
    def _is_far_behind(self) -> bool:
        """Whether a verified finalization tells that ranges are the way forward."""
        best = self._core.book.best_final_height
        return best > self._application.final_height + MAX_GAP

    def _check_children(self, proposal: Proposal) -> None:
        for child in self._fetcher.take_children(proposal.block_hash):
            self._check_block(child.proposal, child.block, child.sender)

    def _is_named(self, proposal: Proposal, block: bytes) -> bool:
        """Tell whether bytes that are not valid are at least those of the hash."""
        try:
            return self._application.read_proposal(block) == proposal
        except InvalidBlock:
            return False

    def _on_synced_block(self, proposal: Proposal) -> None:
        self._events.append(ev.BlockAdded(proposal))
        self._check_children(proposal)
        self._handle_events()

    def _on_fetched_block(
        self, proposal: Proposal, block: bytes, sender: bytes
    ) -> None:
        self._check_block(proposal, block, sender)
        self._handle_events()

    def _fetch_block(self, proposal: Proposal) -> None:
        if self._application.has_block(proposal.block_hash):
            self._events.append(ev.BlockAdded(proposal))
        elif not self._is_far_behind:
            self._fetcher.fetch_block(proposal.block_hash)

    def _fetch_certificates(self, effect: fx.FetchCertificates) -> None:
        def is_enough() -> bool:
            core = self._core
            return core.book.find_parent(core.view).missing_view != effect.view

        self._fetcher.fetch_certificates(effect.epoch, effect.view, is_enough)

    def _on_certificate(self, certificate: Certificate, sender: bytes) -> None:
        """Take a certificate that we asked for."""
        for refusal in self._apply(ev.Received(certificate, sender)):
            if refusal.reason.is_fault:
                self._blame(refusal.sender, refusal.reason.value)

    def _verify_certificate(self, certificate: Certificate) -> bool:
        config = self._config
        return certificate.epoch == config.epoch and verify_certificate(
            certificate, config.validators, config.chain_id, config.scheme
        )

    # Messages in

    async def _check_message(self, peer_id: bytes, payload: bytes) -> Verdict:
        """Take a vote or a certificate; pass only certificates on."""
        message: Message = decode(SmallMessage, payload, MAX_MESSAGE_BYTES)  # type: ignore[arg-type]
        match message:
            case Certificate(kind=Kind.FINALIZATION, proposal=Proposal() as proposal):
                self._sync.note_height(peer_id, proposal.height)
        verdict = self._receive(message, peer_id)
        if isinstance(message, Certificate):
            return verdict
        return Verdict.IGNORE if verdict is Verdict.ACCEPT else verdict

    async def _check_propose(self, peer_id: bytes, payload: bytes) -> Verdict:
        """Take a proposal; pass it on once its block is held."""
        propose = decode(Propose, payload, MAX_PROPOSE_BYTES)
        verdict = self._receive(propose, peer_id)
        block_hash = propose.notarize.proposal.block_hash
        if verdict is Verdict.ACCEPT and not self._application.has_block(block_hash):
            return Verdict.IGNORE
        return verdict

    def _receive(self, message: Message, peer_id: bytes) -> Verdict:
        verdict = Verdict.ACCEPT
        for refusal in self._apply(ev.Received(message, peer_id)):
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
            self._config.epoch, self._core.view, self._application.final_height
        )

    # Messages out

    async def _empty_outbox(self) -> None:
        """Write what was promised, then send; turn by turn."""
        while True:
            await self._outbox_filled.wait()
            if self._failure is not None:
                raise self._failure
            self._outbox_filled = trio.Event()
            turn, self._outbox = self._outbox, []
            self._is_writing = True
            records = [e.record for e in turn if isinstance(e, fx.Persist)]
            if records and self._wal is not None:
                await self._write(self._wal.append, records)
                if self._wal.is_long:
                    retained = self._core.get_retained_records()
                    await self._write(self._wal.rewrite, retained)
            self._is_writing = False
            for effect in turn:
                if isinstance(effect, fx.Broadcast):
                    self._send(effect.message, effect.is_repeat)
                elif isinstance(effect, fx.Decide):
                    self._finalize(effect)

    async def _write(
        self,
        write: Callable[[Sequence[WalRecord]], None],
        records: Sequence[WalRecord],
    ) -> None:
        # A thread of its own: votes never queue behind other services' work.
        await trio.to_thread.run_sync(write, records, limiter=self._disk)

    def _send(self, message: Message, is_repeat: bool) -> None:
        payload = encode(message)
        topic = Topic.BLOCKS if isinstance(message, Propose) else Topic.CONSENSUS
        if is_repeat or isinstance(message, Notarize | Nullify | Finalize):
            for peer in self._network.peers():
                self._network.send(peer.peer_id, topic, payload)
        else:
            self._network.publish(topic, payload)


SmallMessage = Notarize | Nullify | Finalize | Certificate


class _HeldBlocks:
    """The application's blocks as a container of hashes."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __contains__(self, block_hash: object) -> bool:
        return isinstance(block_hash, bytes) and self._application.has_block(block_hash)


def _show(conflict: fx.Conflict) -> tuple[str, str]:
    return repr(conflict.first), repr(conflict.second)
