"""
A simulated node's part in chunks: a desk, its log and bodies on disk, and its messages.

What p2pchain.node.chunks.service and chunk_outbox do, on virtual time: the desk hears
of a view shortly before its leader's turn; chunks and records of a turn are on disk
before the turn's messages leave; certified chunks are offered to the node's own blocks.

Like consensus beside it, a desk may lose power in any write and between any two
messages, and comes back with what the disk holds.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chain.errors import UnfinalParent, UnknownBlock
from chain.tree.blocktree import BlockTree
from chain.tree.chunk_judge import ChunkJudge
from consensus.participant import LOST_LOG_WAIT_MS
from consensus.wal import encode_header, encode_records, scan_wal
from p2pchain.node.chunks.lead import MOST_LEAD_S, ChunkLead
from p2pchain.node.chunks.outbox import CHUNK_PREFIX
from primitives.codec import decode, encode
from shards import effects as fx
from shards import events as ev
from shards.certificate import CertifiedChunk
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.desk import Desk
from shards.desk_state import DeskConfig, DeskRecord
from shards.inclusion import INCLUSION_VIEWS
from shards.messages import (
    MAX_PRODUCED_BYTES,
    Endorsement,
    Message,
    ProducedChunk,
    encode_message,
)
from shards.roles import Roles
from shards.slots import compute_brief_turn_ms

if TYPE_CHECKING:
    from p2pchain.sim.chains.tree_chain import TreeChain
    from p2pchain.sim.node import Node

VIEW = "view"
"""Name of the timer that waits for the desk's turn."""

Outgoing = fx.SaveChunk | fx.Persist | fx.Send | fx.Broadcast


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block could be made."""

    epoch: int
    view: int
    parent_hash: bytes


class ChunkDesk:
    """One life of one node's desk.

    Args:
        node: Whose it is.
        chain: That life's chain.
    """

    def __init__(self, node: "Node", chain: "TreeChain") -> None:
        self.node = node
        self._chain = chain
        self._log = node.disk.chunks
        records = self._read_log()
        self._is_lost = node.signer is not None and records is None
        self._earliest_ms = node.get_clock_ms() + LOST_LOG_WAIT_MS
        """Of the first block of an epoch in which a lost log may be begun anew."""
        self._saved = self._load_saved()
        self._roles = chain.tree.final.child_epoch.roles
        self._epoch = self._roles.epoch
        params = node.world.params
        self.desk = Desk(
            DeskConfig(
                chain_id=node.world.chains.chain_id,
                delta_ms=params.delta_ms,
                brief_turn_ms=compute_brief_turn_ms(
                    params.interval_ms, params.delta_ms
                ),
                scheme=node.world.keys.scheme,
                signer=node.signer,
            ),
            self._roles,
            records or (),
            self._saved,
            is_muted=self._is_lost,
        )
        self._judge = ChunkJudge(chain.tree)
        self._place: Place | None = None
        self._lead = ChunkLead()
        self._coming: Place | None = None
        """What the timer waits for, and when its time may come at the earliest."""
        self._open_ms = 0.0
        self._events: deque[ev.Event] = deque()
        self._refusals: list[fx.Refuse] = []
        self._is_handling = False
        self._timers: dict[object, int] = {}
        self._number = 0
        self._outbox: list[Outgoing] = []
        self._is_writing = False
        for produced in self._saved.values():
            self._keep(produced)

    @property
    def tree(self) -> BlockTree:
        """The node's blocks."""
        return self._chain.tree

    @property
    def roles(self) -> Roles:
        """Of the epoch that the desk is in."""
        return self._roles

    @property
    def is_signing(self) -> bool:
        """Whether it may say anything: not after the loss of its log."""
        return self.node.signer is not None and not self._is_lost

    # What the node tells

    def on_place(self, place: Place) -> None:
        """Consensus has a view and a parent to make a block on."""
        if place == self._place:
            return
        self._place = place
        due_ms = self._chain.get_time_ms(place.parent_hash)
        due_ms += self.node.world.params.interval_ms
        now_ms = self.node.get_clock_ms()
        wait_ms = due_ms - now_ms - round(self._lead.lead_s * 1000)
        self._set_timer(VIEW, max(0, wait_ms), place)
        self._coming = place
        self._open_ms = due_ms - MOST_LEAD_S * 1000

    def on_final(self) -> None:
        """Blocks became final, durably."""
        following = self._chain.tree.final.child_epoch
        if following.epoch != self._epoch:
            self._epoch, self._roles = following.epoch, following.roles
            self._handle(ev.EpochBegun(following.roles))
        first_ms = self._chain.epoch_first_time_ms
        if self._is_lost and first_ms is not None and first_ms > self._earliest_ms:
            # What we may have signed and forgotten was of slots that are over.
            self._is_lost = False
            self._replace_log([self.desk.begin_signing()])

    def offer(self, parent_hash: bytes, view: int) -> tuple[CertifiedChunk, ...]:
        """Return certified chunks that a block of ours may hold."""
        base = self._chain.tree.chunks.build_inclusion_base(parent_hash, view)
        picked = self.desk.pick(base)
        self.node.world.judge.on_pick(self.node, base, picked)
        self.node.requests.fetch_bodies(
            [
                certified.header
                for certified in picked
                if certified.header.shard in self.tree.followed
                and not self.tree.has_body(compute_chunk_hash(certified.header))
            ]
        )
        return picked

    def receive(self, message: Message, sender: str) -> None:
        """Take a message from another node; pass it on where gossip does."""
        world, name = self.node.world, sender.encode()
        refusals = self._handle(ev.Received(message, name))
        self._blame(refusals)
        if any(refusal.sender == name for refusal in refusals):
            return
        if isinstance(message, ProducedChunk):
            self._keep(message)
            self._hurry(message.header.epoch, message.header.created_view)
        if world.setup.is_relaying and not isinstance(message, Endorsement):
            for other in world.nodes.values():
                if other is not self.node and other.name != sender:
                    world.network.send_chunk(self.node, other, message)

    def get_saved(self, chunk_hash: bytes) -> ProducedChunk | None:
        """Return a chunk that the disk holds."""
        key = CHUNK_PREFIX + chunk_hash
        data = self._chain.tree.store.kv.get(key)
        return None if data is None else decode(ProducedChunk, data, MAX_PRODUCED_BYTES)

    # Events in, effects out

    def _handle(self, event: ev.Event) -> list[fx.Refuse]:
        self._events.append(event)
        if self._is_handling:
            return []
        self._is_handling = True
        self._refusals = []
        try:
            while self._events and self.node.is_up:
                for effect in self.desk.handle(self._events.popleft()):
                    self._carry_out(effect)
        finally:
            self._is_handling = False
        self._empty_outbox()
        return self._refusals

    def _carry_out(self, effect: fx.Effect) -> None:
        judge = self.node.world.judge
        match effect:
            case fx.SetTimer():
                event = ev.TimerFired(effect.timer, effect.slot)
                name = (effect.timer, effect.slot)
                self._set_timer(name, effect.delay_ms, event)
            case fx.Build():
                self._work(self.build, effect)
            case fx.Execute():
                self._work(self.execute, effect.produced)
            case fx.SaveChunk():
                self._keep(effect.produced)
                judge.on_chunk_made(effect.produced)
                chunk_hash = compute_chunk_hash(effect.produced.header)
                self._saved[chunk_hash] = effect.produced
                self._outbox.append(effect)
            case fx.Persist() | fx.Send() | fx.Broadcast():
                self._outbox.append(effect)
            case fx.Refuse():
                self._refusals.append(effect)
            case fx.Conflict():
                judge.on_chunk_conflict(self.node, effect.evidence)
                self._chain.evidence.accuse(effect.evidence)
            case fx.CertificateReady():
                judge.on_certified(self.node, effect.certified)
                self._note_lead(effect.certified.header)
                self._denounce(effect.certified)

    def _note_lead(self, header: ChunkHeader) -> None:
        """A chunk is certified; of our own we know how long that took."""
        if header.producer == self.desk.index:
            self._lead.on_certified(header.created_view, self._get_clock_s())

    def _get_clock_s(self) -> float:
        return self.node.get_clock_ms() / 1000

    def _work(self, action: Any, request: Any) -> None:
        """Execute now, or after as long as a worker takes."""
        world = self.node.world
        if world.setup.work_ms[1]:
            delay_ms = world.luck.randint(*world.setup.work_ms)
            world.after(
                delay_ms, self.node, self.node.guard, self._finish, action, request
            )
        else:
            action(request)

    def _finish(self, action: Any, request: Any) -> None:
        action(request)
        self._blame(self._handle(self._events.popleft()))

    def build(self, effect: fx.Build) -> None:
        """Make the chunk that the desk asked for."""
        produced = self.produce(effect)
        if produced is None:
            self._events.append(ev.NothingBuilt(effect.slot))
        else:
            self._events.append(ev.ChunkBuilt(produced))

    def produce(self, effect: fx.Build) -> ProducedChunk | None:
        """Return an unsigned chunk; None if there is nothing to do, or no more."""
        try:
            return self._chain.tree.chunks.produce_chunk(
                effect.slot, effect.anchor, effect.producer, self._chain.build_picker()
            )
        except (UnknownBlock, UnfinalParent):
            # The parent lost while a worker was busy.
            return None

    def execute(self, produced: ProducedChunk) -> None:
        """Judge somebody's chunk by its witness."""
        self._events.append(self._judge.judge(produced))

    def _denounce(self, certified: CertifiedChunk) -> None:
        produced = self._judge.take_suspect(certified.header)
        if produced is not None:
            self._chain.denounce(produced, certified.certificate)

    def _blame(self, refusals: Iterable[fx.Refuse]) -> None:
        for refusal in refusals:
            if refusal.sender is not None:
                self.node.world.judge.on_chunk_refuse(self.node, refusal)

    # Time

    def _set_timer(self, name: object, delay_ms: int, value: object) -> None:
        node = self.node
        self._number += 1
        number = self._timers[name] = self._number
        true_ms = max(0, round(delay_ms / node.clock.rate))
        node.world.after(true_ms, node, node.guard, self._fire, name, number, value)

    def _fire(self, name: object, number: int, value: object) -> None:
        if self._timers.get(name) != number:
            return
        del self._timers[name]
        if isinstance(value, Place):
            self._enter(value)
        else:
            assert isinstance(value, ev.TimerFired)
            self._blame(self._handle(value))

    def _hurry(self, epoch: int, view: int) -> None:
        """Somebody's turn has come already: do not let it wait for ours."""
        place = self._coming
        if place is None or (place.epoch, place.view) != (epoch, view):
            return
        if self.node.get_clock_ms() >= self._open_ms:
            self._set_timer(VIEW, 0, place)

    def _enter(self, place: Place) -> None:
        tree = self._chain.tree
        self._coming = None
        if place.epoch != self._epoch or not tree.has(place.parent_hash):
            return
        entered = self._judge.enter(place.view, place.parent_hash)
        if entered is not None:
            self._lead.begin(place.view, self._get_clock_s())
            self._blame(self._handle(entered))
            self._forget_saved(place.view)

    @property
    def parent(self) -> bytes:
        """The block that the next one follows, as far as the desk was told."""
        return self._judge.parent

    # The disk

    def _read_log(self) -> tuple[DeskRecord, ...] | None:
        """Return what the log says; None when it is lost."""
        node, log = self.node, self._log
        if node.signer is None or log.data is None:
            return None
        chain_id = node.world.chains.chain_id
        key = node.signer.public_key
        records, length = scan_wal(log.data, key, chain_id, DeskRecord)
        log.data = log.data[:length]
        return records

    def _replace_log(self, records: Iterable[DeskRecord]) -> None:
        node = self.node
        assert node.signer is not None
        header = encode_header(node.signer.public_key, node.world.chains.chain_id)
        self._log.replace(header + encode_records(list(records)))

    def _empty_outbox(self) -> None:
        """Begin a turn: write what was promised, and only then send."""
        if self._is_writing or not self._outbox:
            return
        turn, self._outbox = self._outbox, []
        chunks = {
            CHUNK_PREFIX + compute_chunk_hash(e.produced.header): encode(e.produced)
            for e in turn
            if isinstance(e, fx.SaveChunk)
        }
        records = [e.record for e in turn if isinstance(e, fx.Persist)]
        if chunks:
            self._chain.tree.store.kv.write(chunks, sync=True)
        data = encode_records(records) if records else b""
        delay_ms, world = 0, self.node.world
        if data:
            self._log.begin_append(data)
            if world.setup.disk_ms[1]:
                delay_ms = world.luck.randint(*world.setup.disk_ms)
        self._is_writing = True
        if delay_ms:
            world.after(
                delay_ms, self.node, self.node.guard, self._end_turn, turn, data
            )
        else:
            self._end_turn(turn, data)

    def _end_turn(self, turn: list[Outgoing], data: bytes) -> None:
        if data:
            self._log.finish_append()
            assert self._log.data is not None
            if len(self._log.data) > self.node.world.setup.compact_bytes:
                self._replace_log(self.desk.get_retained_records())
        self._is_writing = False
        for effect in turn:
            if isinstance(effect, fx.Send | fx.Broadcast):
                self.say(effect.message)
        self._empty_outbox()

    def say(self, message: Message) -> None:
        """Send to everybody: nodes are not known by their validators' keys."""
        node = self.node
        world = node.world
        world.judge.on_chunk_message(node, message)
        world.note(node, encode_message(message))
        for other in world.nodes.values():
            if other is node:
                continue
            node.count_send()
            world.network.send_chunk(node, other, message)

    # Bodies

    def _keep(self, produced: ProducedChunk) -> None:
        self._chain.keep_body(produced)

    def _load_saved(self) -> dict[bytes, ProducedChunk]:
        return {
            key[len(CHUNK_PREFIX) :]: decode(ProducedChunk, data, MAX_PRODUCED_BYTES)
            for key, data in self._chain.tree.store.kv.iterate(CHUNK_PREFIX)
        }

    def _forget_saved(self, view: int) -> None:
        """Delete chunks that no block can hold any more."""
        over = [
            chunk_hash
            for chunk_hash, produced in self._saved.items()
            if produced.header.epoch < self._epoch
            or produced.header.created_view + INCLUSION_VIEWS < view
        ]
        if over:
            keys = [CHUNK_PREFIX + chunk_hash for chunk_hash in over]
            self._chain.tree.store.kv.write(dict.fromkeys(keys), sync=False)
            for chunk_hash in over:
                del self._saved[chunk_hash]
