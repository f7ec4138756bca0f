"""
One machine of a simulated network: a participant, its disk, and the shell between.

The shell does what p2pchain.node.consensus.driver does, on virtual time: events go in
one at a time; what an effect asks of the chain happens at once; log records, messages
and decisions go through an outbox, turn by turn, so that nothing leaves before what it
promises is on disk.

A machine goes off between two events, in any write and at any byte of it, or between
two sends of one turn.  A villain (p2pchain.sim.villains) is a node with other manners.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chain.tree.following import Follow
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
from consensus.participant import Participant
from consensus.scheme import Signer
from consensus.wal import encode_header
from p2pchain.sim.chains.list_blocks import GENESIS_TIME_MS
from p2pchain.sim.chains.tree_chain import TreeChain
from p2pchain.sim.errors import InvariantBroken, PowerCut
from p2pchain.sim.machine.block_desk import BlockDesk
from p2pchain.sim.machine.chunk_desk import ChunkDesk, Place
from p2pchain.sim.machine.clock import Clock
from p2pchain.sim.machine.disk import Disk
from p2pchain.sim.machine.mind import open_mind
from p2pchain.sim.machine.outbox import Outbox
from p2pchain.sim.machine.questions import Answer, Question, answer
from p2pchain.sim.machine.requests import MAX_GAP, Requests
from p2pchain.sim.machine.shard_taker import ShardTaker
from primitives.errors import P2PChainError
from shards.messages import Message as ChunkMessage

if TYPE_CHECKING:
    from p2pchain.sim.chains.chains import Chain
    from p2pchain.sim.world import World

TELL_MS = 1000
"""One peer is told of one epoch's end that often at most."""


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
        """The shards that it wants; see `change_follow`."""
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
        self._outbox = Outbox(self)
        self._blocks = BlockDesk(self)
        self._timers: dict[object, int] = {}
        self._told: dict[tuple[str, int], int] = {}
        self._relayed: set[Message] = set()
        self._began: int | None = None
        try:
            self.chain = self.world.chains.open(self)
            self.requests = Requests(self)
            self.mind = open_mind(self)
            self.desk = self.open_desk()
            self.world.judge.on_start(self)
            self.guard(self._begin)
        except PowerCut:
            self.crash()
            return
        jitter = self.world.luck.randrange(500)
        if self.is_up:
            self.world.after(jitter, self, self.requests.exchange_status)
        if self.is_up and self.world.setup.is_adopting:
            assert isinstance(self.chain, TreeChain)
            self.guard(ShardTaker(self, self.chain).tick)

    def change_follow(self, shards: frozenset[int] | None) -> None:
        """Want other shards from now on; None: all."""
        self.follow = Follow(shards)
        if self.is_up and isinstance(self.chain, TreeChain):
            self.chain.tree.follow = self.follow

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

    def _begin(self) -> None:
        self._carry_out(self.mind.start())
        self.handle_events()

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
                self.guard(self.handle_events)

    def answer(self, question: Question, asker: str) -> Answer | None:
        """Answer another node."""
        return answer(self, question, asker)

    def blame(self, peer: str | None, reason: str) -> None:
        """Somebody did what no correct node does."""
        self.world.judge.on_blame(self, peer, reason)

    def enqueue(self, event: ev.Event) -> None:
        """Have an event handled after those that are being handled."""
        self._events.append(event)

    def build_block(self, effect: fx.BuildBlock) -> None:
        """Build a block for consensus to propose."""
        self._blocks.build(effect)

    def take_block(self, proposal: Proposal, block: bytes, sender: str) -> None:
        """Take a block that was asked for."""
        self.guard(self.check_and_handle, proposal, block, sender)

    def on_block(self, proposal: Proposal) -> None:
        """A block of a range is held."""
        self._events.append(ev.BlockAdded(proposal))
        self._blocks.check_children(proposal)
        self.guard(self.handle_events)

    def check_again(self, proposal: Proposal, block: bytes, sender: str | None) -> None:
        """Judge a block for which something was missing."""
        self.guard(self.check_and_handle, proposal, block, sender)

    def check_and_handle(
        self, proposal: Proposal, block: bytes, sender: str | None
    ) -> None:
        """Judge a block, and handle what follows from it."""
        self._blocks.check(proposal, block, sender)
        self.handle_events()

    def handle_events(self) -> None:
        """Handle what is queued, and what follows from it."""
        if self._is_handling:
            return
        self._is_handling = True
        try:
            while self._events and self.is_up:
                self._handle_event(self._events.popleft())
        finally:
            self._is_handling = False
        self._outbox.empty()
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
                    self._outbox.put(effect)
                case fx.SetTimer():
                    event = ev.TimerFired(effect.timer, effect.view)
                    self.set_timer(effect.timer, effect.delay_ms, event)
                case fx.ScheduleProposal():
                    self._blocks.schedule(effect)
                case fx.BuildBlock():
                    self.build_block(effect)
                case fx.LoadBlock():
                    self._blocks.load(effect)
                case fx.CheckBlock():
                    sender = effect.sender.decode() if effect.sender else None
                    self._blocks.check(effect.proposal, effect.block, sender)
                case fx.SavePending():
                    self.chain.save_pending(effect.block_hash)
                case fx.Decide():
                    self._decide(effect)
                case fx.FetchBlock():
                    self._blocks.fetch(effect.proposal)
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

    def set_timer(self, name: object, delay_ms: int, event: ev.Event) -> None:
        """Have an event happen later, in this life, by this machine's clock."""
        number = self._timers.get(name, 0) + 1
        self._timers[name] = number
        true_ms = max(0, round(delay_ms / self.clock.rate))
        self.world.after(true_ms, self, self._fire, name, number, event)

    def _fire(self, name: object, number: int, event: ev.Event) -> None:
        if self._timers[name] == number:
            self.apply(event)

    def _decide(self, effect: fx.Decide) -> None:
        """Finalize a block, after the records that it follows from."""
        if self._outbox.is_busy and not self.requests.is_catching_up:
            self._outbox.put(effect)
        else:
            self.make_final(effect.certificate)

    def make_final(self, certificate: Certificate) -> None:
        """Make a block and its ancestors final."""
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

    def _tell_epoch_end(self, peer: str, epoch: int) -> None:
        last_ms = self._told.get((peer, epoch))
        if last_ms is not None and self.world.now_ms < last_ms + TELL_MS:
            return
        certificate = self.chain.get_epoch_end(epoch)
        other = self.world.nodes.get(peer)
        if certificate is not None and other is not None:
            self._told[peer, epoch] = self.world.now_ms
            self.world.network.send(self, other, certificate)

    # Messages out

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
