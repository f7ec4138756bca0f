"""
One machine of a simulated network: a participant, its disk, and the shell between.

The shell does what p2pchain.node.consensus_driver does, on virtual time: events go in
one at a time; what an effect asks of the chain happens at once; log records, messages
and decisions go through an outbox, turn by turn, so that nothing leaves before what it
promises is on disk.

A machine goes off between two events, in any write and at any byte of it, or between
two sends of one turn.  A villain (p2pchain.sim.villains) is a node with other manners.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from chain.block import Attendance
from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    MissingBodies,
    MissingFraudProof,
    MissingParent,
    TooManyPending,
    UnjudgedFraud,
)
from chain.following import Follow
from consensus import effects as fx
from consensus import events as ev
from consensus.book import CertificateBook
from consensus.epoch import EpochConfig
from consensus.messages import (
    Certificate,
    Kind,
    Message,
    Proposal,
    Propose,
)
from consensus.participant import Participant, ParticipantConfig
from consensus.randao import compute_reveal_bytes
from consensus.records import Floor, WalRecord
from consensus.scheme import Signer
from consensus.wal import encode_header, encode_records, scan_wal
from p2pchain.sim.chunkdesk import ChunkDesk, Place
from p2pchain.sim.disk import Disk
from p2pchain.sim.errors import InvariantBroken, PowerCut
from p2pchain.sim.listchain import GENESIS_TIME_MS
from p2pchain.sim.requests import MAX_GAP, Answer, Question, Requests, answer
from p2pchain.sim.treechain import TreeChain
from primitives.errors import P2PChainError
from shards.messages import Message as ChunkMessage

if TYPE_CHECKING:
    from p2pchain.sim.chains import Chain
    from p2pchain.sim.world import World

TELL_MS = 1000
"""One peer is told of one epoch's end that often at most."""

Outgoing = fx.Persist | fx.Broadcast | fx.Decide | fx.BeginLog


@dataclass(slots=True)
class Clock:
    """A machine's own idea of time."""

    offset_ms: int = 0
    rate: float = 1.0
    """Its milliseconds per true millisecond."""


class Node:
    """One validator or listener, across crashes."""

    is_honest = True

    def __init__(self, world: "World", name: str, signer: Signer | None) -> None:
        self.world = world
        self.name = name
        self.signer = signer
        self.disk = Disk(world.luck)
        self.clock = Clock()
        self.follow = Follow(world.setup.follows.get(name))
        """The shards that it wants; another choice counts from its next life on."""
        self.life = 0
        """Counts starts and crashes: what was scheduled in one life ends with it."""
        self.sends_left: int | None = None
        """Go off after that many more messages to single peers."""
        self.is_up = False
        self.chain: Chain
        self.desk: ChunkDesk | None = None
        """Its part in chunks, where the chain has some."""
        self.mind: Participant
        self.requests: Requests
        if signer is not None:
            chain_id = world.chains.chain_id
            header = encode_header(signer.public_key, chain_id)
            self.disk.votes.data = self.disk.chunks.data = header

    # What others may ask

    @property
    def epoch(self) -> EpochConfig:
        """The epoch that consensus is in."""
        return self.mind.epoch

    @property
    def view(self) -> int:
        """The view that consensus is in."""
        return self.mind.view

    @property
    def book(self) -> CertificateBook:
        """What consensus holds."""
        return self.mind.book

    @property
    def is_far_behind(self) -> bool:
        """Whether ranges are the way forward."""
        return self.book.best_final_height > self.chain.final_height + MAX_GAP

    def get_clock_ms(self) -> int:
        """Return this machine's time, Unix milliseconds."""
        clock = self.clock
        passed = int(self.world.now_ms * clock.rate)
        return GENESIS_TIME_MS + passed + clock.offset_ms

    def draw_peers(self) -> list["Node"]:
        """Return everybody else in the order in which to ask them."""
        peers = [node for node in self.world.nodes.values() if node is not self]
        self.world.luck.shuffle(peers)
        return peers

    # Life

    def start(self) -> None:
        """Start, or start again from what the disk holds."""
        self.life += 1
        self.is_up = True
        self._events: deque[ev.Event] = deque()
        self._is_handling = False
        self._outbox: list[Outgoing] = []
        self._is_writing = False
        self._timers: dict[object, int] = {}
        self._told: dict[tuple[str, int], int] = {}
        self._relayed: set[Message] = set()
        self._began: int | None = None
        try:
            self.chain = self.world.chains.open(self)
            self.requests = Requests(self)
            self.mind = self._open_mind()
            self.desk = self.open_desk()
            self.world.judge.on_start(self)
            self.guard(self._begin)
        except PowerCut:
            self.crash()
            return
        jitter = self.world.luck.randrange(500)
        if self.is_up:
            self.world.after(jitter, self, self.requests.exchange_status)

    def crash(self) -> None:
        """Go off: everything that is not on disk is gone."""
        self.life += 1
        self.is_up = False
        self.sends_left = None
        self.disk.tear()
        self.world.note(self, b"crash")

    def lose_log(self) -> None:
        """The file of own votes is gone; only while the machine is off."""
        assert not self.is_up
        self.disk.votes.data = None

    def lose_chunk_log(self) -> None:
        """The file of what it signed about chunks is gone; only while it is off."""
        assert not self.is_up
        self.disk.chunks.data = None

    def wipe_database(self) -> None:
        """The chain's database is gone and will be fetched again; only while off."""
        assert not self.is_up
        self.disk.database = None
        self.world.judge.on_wipe(self)

    def open_desk(self) -> ChunkDesk | None:
        """Return this life's desk; None where chunks have no committees."""
        if isinstance(self.chain, TreeChain):
            return ChunkDesk(self, self.chain)
        return None

    def _open_mind(self) -> Participant:
        world, records = self.world, self._read_log()
        is_lost = self.signer is not None and records is None
        return Participant(
            ParticipantConfig(
                chain_id=world.chains.chain_id,
                params=world.params,
                scheme=world.keys.scheme,
                signer=self.signer,
            ),
            self.chain.epoch,
            self.chain.tip,
            records or (),
            _HeldBlocks(self.chain),
            lost_at_ms=self.get_clock_ms() if is_lost else None,
        )

    def _read_log(self) -> tuple[WalRecord, ...] | None:
        """Return what the log says; None when it is lost."""
        log = self.disk.votes
        if self.signer is None or log.data is None:
            return None
        chain_id = self.world.chains.chain_id
        records, length = scan_wal(log.data, self.signer.public_key, chain_id)
        log.data = log.data[:length]
        return records

    def _begin(self) -> None:
        self._carry_out(self.mind.start())
        self._handle_events()

    def guard(self, action: Callable[..., None], *args: Any) -> None:
        """Do something that may be interrupted by a power cut."""
        try:
            action(*args)
        except PowerCut:
            self.crash()
            return
        except InvariantBroken:
            raise
        except (AssertionError, LookupError, ValueError, P2PChainError) as error:
            if not self.is_honest:
                self.crash()
                return
            text = f"node {self.name}: {type(error).__name__}: {error}"
            raise InvariantBroken("node breaks down", text) from error
        if self.is_up:
            self.world.judge.on_turn(self)

    # Events in

    def receive(self, message: Message, sender: str) -> None:
        """Take a message from another node."""
        if not self.is_up:
            return
        match message:
            case Certificate(kind=Kind.FINALIZATION, proposal=Proposal() as proposal):
                self.guard(self.requests.note_height, sender, proposal.height)
        refusals = self.world.judge.count_refusals(self)
        self.apply(ev.Received(message, sender.encode()))
        if self.is_up and self.world.setup.is_relaying:
            is_refused = self.world.judge.count_refusals(self) > refusals
            if not is_refused and isinstance(message, Certificate | Propose):
                self._relay(message, sender)

    def receive_chunk(self, message: ChunkMessage, sender: str) -> None:
        """Take what another node says about a chunk."""
        if self.is_up and self.desk is not None:
            self.guard(self.desk.receive, message, sender)

    def receive_evidence(self, data: bytes, sender: str) -> None:
        """Take what another node says that somebody did."""
        if self.is_up:
            self.guard(self.chain.evidence.on_gossip, data, sender)

    def apply(self, event: ev.Event) -> None:
        """Handle an event and all that follow from it."""
        if self.is_up:
            self._events.append(event)
            if not self._is_handling:
                self.guard(self._handle_events)

    def answer(self, question: Question, asker: str) -> Answer | None:
        """Answer another node."""
        return answer(self, question, asker)

    def blame(self, peer: str | None, reason: str) -> None:
        """Somebody did what no correct node does."""
        self.world.judge.on_blame(self, peer, reason)

    def take_block(self, proposal: Proposal, block: bytes, sender: str) -> None:
        """Take a block that was asked for."""
        self.guard(self._check_and_handle, proposal, block, sender)

    def on_block(self, proposal: Proposal) -> None:
        """A block of a range is held."""
        self._events.append(ev.BlockAdded(proposal))
        self._check_children(proposal)
        self.guard(self._handle_events)

    def check_again(self, proposal: Proposal, block: bytes, sender: str | None) -> None:
        """Judge a block for which something was missing."""
        self.guard(self._check_and_handle, proposal, block, sender)

    def _check_and_handle(
        self, proposal: Proposal, block: bytes, sender: str | None
    ) -> None:
        self._check_block(proposal, block, sender)
        self._handle_events()

    def _handle_events(self) -> None:
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._events and self.is_up:
                self._handle_event(self._events.popleft())
        finally:
            self._is_handling = False
        self._empty_outbox()
        self._tell_place()

    def _handle_event(self, event: ev.Event) -> None:
        """Handle an event, and before it what gave way since the last one."""
        for block_hash in self.chain.take_evicted():
            self._carry_out(self.mind.handle(ev.BlockDropped(block_hash)))
        if isinstance(event, ev.BlockAdded):
            block_hash = event.proposal.block_hash
            if not self.chain.has_block(block_hash):
                return
        self._carry_out(self.mind.handle(event))

    def _tell_place(self) -> None:
        """Tell the desk where the next block belongs, if its parent is here."""
        if self.desk is None or not self.is_up:
            return
        ancestry = self.book.find_parent(self.view)
        if ancestry.missing_view is not None or ancestry.is_repeat:
            return
        if self.chain.has_block(ancestry.parent_hash):
            place = Place(self.epoch.epoch, self.view, ancestry.parent_hash)
            self.desk.on_place(place)

    # Effects out

    def _carry_out(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Persist() | fx.Broadcast() | fx.BeginLog():
                    self._outbox.append(effect)
                case fx.SetTimer():
                    event = ev.TimerFired(effect.timer, effect.view)
                    self._set_timer(effect.timer, effect.delay_ms, event)
                case fx.ScheduleProposal():
                    self._schedule_proposal(effect)
                case fx.BuildBlock():
                    self._build_block(effect)
                case fx.LoadBlock():
                    self._load_block(effect)
                case fx.CheckBlock():
                    sender = effect.sender.decode() if effect.sender else None
                    self._check_block(effect.proposal, effect.block, sender)
                case fx.SavePending():
                    self.chain.save_pending(effect.block_hash)
                case fx.Decide():
                    self._decide(effect)
                case fx.FetchBlock():
                    self._fetch_block(effect.proposal)
                case fx.FetchCertificates():
                    self.requests.fetch_certificates(effect.epoch, effect.view)
                case fx.TellEpochEnd():
                    self._tell_epoch_end(effect.peer.decode(), effect.epoch)
                case fx.CatchUp():
                    self.requests.catch_up(effect.peer.decode())
                case fx.Refuse():
                    self.world.judge.on_refuse(self, effect)
                case fx.Conflict():
                    self.world.judge.on_conflict(self, effect)
                    self.chain.report(effect.first, effect.second)

    def _set_timer(self, name: object, delay_ms: int, event: ev.Event) -> None:
        number = self._timers.get(name, 0) + 1
        self._timers[name] = number
        true_ms = max(0, round(delay_ms / self.clock.rate))
        self.world.after(true_ms, self, self._fire, name, number, event)

    def _fire(self, name: object, number: int, event: ev.Event) -> None:
        if self._timers[name] == number:
            self.apply(event)

    def _decide(self, effect: fx.Decide) -> None:
        """Finalize a block, after the records that it follows from."""
        is_busy = self._outbox or self._is_writing
        if is_busy and not self.requests.is_catching_up:
            self._outbox.append(effect)
        else:
            self._finalize(effect.certificate)

    def _finalize(self, certificate: Certificate) -> None:
        before = self.chain.final_height
        try:
            self.chain.finalize(certificate)
        finally:
            # Also when the power goes behind the write: others may build on it.
            self.world.judge.on_final(self, before)
        self.requests.forget_below(self.chain.final_height)
        if self.desk is not None:
            self.desk.on_final()
        self.requests.fetch_packets()
        self._follow_epoch()

    def _follow_epoch(self) -> None:
        """Tell consensus what the chain knows of epochs."""
        epoch = self.chain.epoch
        if epoch.epoch != self.mind.epoch.epoch:
            self._events.append(ev.EpochBegun(epoch, self.chain.tip))
        first_ms = self.chain.epoch_first_time_ms
        if first_ms is not None and self._began != epoch.epoch:
            self._began = epoch.epoch
            self._events.append(ev.FirstBlockFinal(epoch.epoch, first_ms))

    # Proposing

    def _schedule_proposal(self, effect: fx.ScheduleProposal) -> None:
        due_ms = self.chain.get_time_ms(effect.parent_hash)
        due_ms += self.world.params.interval_ms
        wait_ms = max(0, due_ms - self.get_clock_ms())
        self._set_timer("proposal", wait_ms, ev.ProposalDue(effect.view))

    def _build_block(self, effect: fx.BuildBlock) -> None:
        assert self.signer is not None
        earliest_ms = self.chain.get_time_ms(effect.parent_hash)
        earliest_ms += self.world.params.interval_ms
        message = compute_reveal_bytes(
            self.world.chains.chain_id, effect.epoch, effect.view
        )
        block_hash, block, height = self.chain.build_block(
            epoch=effect.epoch,
            view=effect.view,
            parent_hash=effect.parent_hash,
            parent_view=effect.parent_view,
            proposer=effect.proposer,
            reveal=self.signer.sign(message),
            attendance=Attendance(effect.bitmap, effect.signature),
            time_ms=max(self.get_clock_ms(), earliest_ms),
        )
        self._events.append(ev.BlockBuilt(effect.view, block_hash, block, height))

    def _load_block(self, effect: fx.LoadBlock) -> None:
        block = self.chain.get_block_bytes(effect.block_hash)
        assert block is not None, "a held block is gone"
        height = self.chain.read_proposal(block).height
        event = ev.BlockBuilt(effect.view, effect.block_hash, block, height)
        self._events.append(event)

    # Judging and fetching blocks

    def _check_block(
        self, proposal: Proposal, block: bytes, sender: str | None
    ) -> None:
        judged = proposal
        try:
            # Once more under an old name: what waits for its parent must name that.
            judged = self._get_judged(proposal, block)
            self.chain.add_block(judged, block)
        except MissingParent:
            self.requests.park(judged, block, sender)
        except MissingBodies as error:
            self.requests.park_bodiless(proposal, block, sender, error.headers)
        except MissingFraudProof as error:
            again = partial(self._check_and_handle, proposal, block, sender)
            self.requests.fetch_proof(error.proof_hash, again)
        except UnjudgedFraud:
            # Not for us to vote for; a quorum that can judge it makes it final.
            return
        except InvalidBlock as error:
            if isinstance(error, BodyMismatch) or not self._is_named(proposal, block):
                self.blame(sender, str(error))
                self._events.append(ev.BlockMismatched(proposal))
            else:
                self.world.judge.on_invalid(self, proposal, str(error))
                self._events.append(ev.BlockRefused(proposal))
        except TooManyPending:
            return
        else:
            self._events.append(ev.BlockAdded(proposal))
            self._check_children(proposal)

    def _get_judged(self, proposal: Proposal, block: bytes) -> Proposal:
        """Return the proposal that the chain judges: a repetition's first one."""
        if not proposal.is_repeat:
            return proposal
        original = self.chain.read_proposal(block)
        if original.block_hash != proposal.block_hash:
            raise BodyMismatch("other bytes than those of the repeated block")
        return original

    def _check_children(self, proposal: Proposal) -> None:
        for child in self.requests.take_children(proposal.block_hash):
            self._check_block(*child)

    def _is_named(self, proposal: Proposal, block: bytes) -> bool:
        try:
            return self.chain.read_proposal(block).block_hash == proposal.block_hash
        except InvalidBlock:
            return False

    def _fetch_block(self, proposal: Proposal) -> None:
        if self.chain.has_block(proposal.block_hash):
            self._events.append(ev.BlockAdded(proposal))
        elif not self.is_far_behind:
            self.requests.fetch_block(proposal.block_hash)

    def _tell_epoch_end(self, peer: str, epoch: int) -> None:
        last_ms = self._told.get((peer, epoch))
        if last_ms is not None and self.world.now_ms < last_ms + TELL_MS:
            return
        certificate = self.chain.get_epoch_end(epoch)
        other = self.world.nodes.get(peer)
        if certificate is not None and other is not None:
            self._told[peer, epoch] = self.world.now_ms
            self.world.network.send(self, other, certificate)

    # The outbox

    def _empty_outbox(self) -> None:
        """Begin a turn: write what was promised, and only then send."""
        if self._is_writing or not self._outbox:
            return
        turn, self._outbox = self._outbox, []
        data = self._encode_turn(turn)
        delay_ms = 0
        if data:
            self.disk.votes.begin_append(data)
            if self.world.setup.disk_ms[1]:
                delay_ms = self.world.luck.randint(*self.world.setup.disk_ms)
        self._is_writing = True
        if delay_ms:
            self.world.after(delay_ms, self, self.guard, self._end_turn, turn, data)
        else:
            self._end_turn(turn, data)

    def _encode_turn(self, turn: list[Outgoing]) -> bytes:
        for effect in turn:
            if isinstance(effect, fx.BeginLog):
                self._begin_log(effect.floor)
        records = [e.record for e in turn if isinstance(e, fx.Persist)]
        if not records or self.disk.votes.data is None:
            return b""
        return encode_records(records)

    def _begin_log(self, floor: Floor) -> None:
        assert self.signer is not None
        header = encode_header(self.signer.public_key, self.world.chains.chain_id)
        self.disk.votes.replace(header + encode_records([floor]))

    def _end_turn(self, turn: list[Outgoing], data: bytes) -> None:
        if data:
            log = self.disk.votes
            log.finish_append()
            assert log.data is not None
            if len(log.data) > self.world.setup.compact_bytes:
                self._compact_log()
        self._is_writing = False
        for effect in turn:
            if isinstance(effect, fx.Broadcast):
                self.say(effect.message)
            elif isinstance(effect, fx.Decide):
                self._finalize(effect.certificate)
        self._handle_events()

    def _compact_log(self) -> None:
        assert self.signer is not None
        retained = self.mind.get_retained_records()
        header = encode_header(self.signer.public_key, self.world.chains.chain_id)
        self.disk.votes.replace(header + encode_records(retained))

    def say(self, message: Message) -> None:
        """Send to everybody."""
        self.world.judge.on_message(self, message)
        if self.sends_left is None:
            self.world.broadcast(self, message)
            return
        for other in self.world.nodes.values():
            if other is not self:
                self.count_send()
                self.world.network.send(self, other, message)

    def count_send(self) -> None:
        """Count a message to a single peer.

        Raises:
            PowerCut: The power was to go before it.
        """
        if self.sends_left is not None:
            if self.sends_left == 0:
                raise PowerCut
            self.sends_left -= 1

    def _relay(self, message: Message, sender: str) -> None:
        """Pass on what was new here, once."""
        if message in self._relayed:
            return
        self._relayed.add(message)
        if isinstance(message, Propose):
            block_hash = message.notarize.proposal.block_hash
            # The very bytes: a block that is held says nothing about these.
            if self.chain.get_block_bytes(block_hash) != message.block:
                return
        for other in self.world.nodes.values():
            if other is not self and other.name != sender:
                self.world.network.send(self, other, message)


class _HeldBlocks:
    """A chain's blocks as a container of hashes."""

    def __init__(self, chain: "Chain") -> None:
        self._chain = chain

    def __contains__(self, block_hash: object) -> bool:
        return isinstance(block_hash, bytes) and self._chain.has_block(block_hash)
