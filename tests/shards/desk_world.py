"""
A small deterministic world for desks: virtual time, a seeded network, disks, villains.

Theory of operation
-------------------
Consensus is left out: the world has one chain of blocks, and every 1.5 s it enters a
view.  Nodes hear of a view late, and sometimes with an older parent than there is.  The
view's leader, if it is up and honest, includes what its desk picks; sometimes nobody
does.  A shard's state is a hash, and executing a chunk is hashing its transactions into
it, so everybody can tell a good header from a bad one by computing it.

A node's disk holds the log, in bytes, and saved chunks.  A crash may come at any
write: before it, after it, or in the middle of it; what was to come after it does not.

`Judge` holds what is seen against what must never be:

- no honest key signs two chunks or two endorsements in one slot, whatever crashes;
- no certificate of a chunk that executes differently, liars being below a third;
- every certificate has an honest signer, who has body and witness on disk;
- no evidence against the honest, and no fault charged to them;
- what a desk picks, a block may hold.
"""

import heapq
import random
from dataclasses import dataclass

from shard_world import CHAIN, SEED, Chain, Town, make_next, name, replace

from consensus.validators import decode_bitmap
from consensus.wal import encode_header, encode_records, scan_wal
from shards import effects as fx
from shards import events as ev
from shards.certificate import (
    CertifiedChunk,
    build_chunk_certificate,
    compute_endorsement_bytes,
    compute_producer_bytes,
    validate_chunk_certificate,
)
from shards.chunk import compute_chunk_hash
from shards.desk import Desk
from shards.desk_state import DeskConfig, DeskRecord
from shards.evidence import validate_shard_evidence
from shards.inclusion import INCLUSION_VIEWS, validate_inclusion
from shards.messages import (
    Certified,
    Endorsement,
    ProducedChunk,
    decode_message,
    encode_message,
)
from shards.producers import ProducerTable, ShardProducers
from shards.roles import Roles
from shards.slots import Slot, draw_custodians, get_slot

WITNESS = b"what the chunk touches"
DELTA_MS = 300
VIEW_MS = 1500


@dataclass
class Luck:
    """What can happen."""

    delay_ms: tuple = (5, 100)
    loss: float = 0.0
    late: float = 0.0
    """Part of the messages that take seconds."""
    behind: float = 0.0
    """Part of the views that a node enters with an older parent."""
    skipped: float = 0.0
    """Part of the views without a block."""
    crash: float = 0.0
    """Chance that a node crashes at a write."""


CALM = Luck()
STORM = Luck(delay_ms=(5, 250), loss=0.1, late=0.1, behind=0.2, skipped=0.2, crash=0.02)


class Crash(Exception):
    """A write was the node's last."""


class Disk:
    """What survives a crash."""

    def __init__(self, log):
        self.log = log
        self.saved = {}


class Node:
    """A desk and its shell."""

    def __init__(self, world, index):
        self.world, self.index = world, index
        self.key = world.town.keys[index]
        self.disk = Disk(encode_header(self.key.public_key, CHAIN))
        self.desk = None
        self.height = 0
        self.life = 0

    def start(self):
        records, length = scan_wal(
            self.disk.log, self.key.public_key, CHAIN, DeskRecord
        )
        self.disk.log = self.disk.log[:length]
        self.timers = {}
        self.life += 1
        world = self.world
        self.desk = Desk(
            world.get_config(self.key), world.roles, records, self.disk.saved
        )
        self.enter()

    def crash(self):
        self.desk = None
        self.life += 1
        self.world.crashes += 1
        self.world.after(self.world.rng.randint(100, 2500), self, self.start)

    def enter(self, height=None):
        """Enter the world's view, with the newest parent or an older one."""
        chain, world = self.world.chain, self.world
        self.height = max(self.height, chain.height if height is None else height)
        self.apply(
            ev.ViewEntered(
                base=chain.get_base(world.view, height=self.height),
                parent=chain.get_name(self.height),
                leaders=(
                    world.get_leader(world.view),
                    world.get_leader(world.view + 1),
                ),
                producible=frozenset(world.roles.shards),
            )
        )

    def lead(self):
        """Return what the next block holds."""
        base = self.world.chain.get_base(self.world.view)
        return [] if self.desk is None else self.desk.pick(base)

    def receive(self, message, sender):
        self.apply(ev.Received(message, sender))

    def apply(self, event):
        if self.desk is None:
            return
        effects = self.desk.handle(event)
        self.world.judge.on_memory(self.desk)
        try:
            for effect in effects:
                self.carry_out(effect)
        except Crash:
            self.crash()

    def carry_out(self, effect):
        world = self.world
        match effect:
            case fx.SaveChunk(produced):
                chunk_hash = compute_chunk_hash(produced.header)
                self.write(lambda: self.disk.saved.update({chunk_hash: produced}))
            case fx.Persist(record):
                data = encode_records([record])
                self.write(lambda: self.append(data), lambda: self.append(data[:-5]))
            case fx.Send(recipients, message):
                world.judge.on_sent(self, message)
                for recipient in recipients:
                    world.deliver(self.index, recipient, message)
            case fx.Broadcast(message):
                world.judge.on_sent(self, message)
                for recipient in range(world.size):
                    if recipient != self.index:
                        world.deliver(self.index, recipient, message)
            case fx.SetTimer(timer, slot, delay_ms):
                number = self.timers[timer, slot] = world.next_number()
                world.after(delay_ms, self, lambda: self.fire(timer, slot, number))
            case fx.Build():
                world.after(world.rng.randint(1, 200), self, lambda: self.build(effect))
            case fx.Execute(produced):
                delay_ms = world.rng.randint(1, 200)
                world.after(delay_ms, self, lambda: self.execute(produced))
            case fx.CertificateReady(certified):
                world.judge.on_certificate(certified)
            case fx.Refuse(sender, reason):
                world.judge.on_refused(sender, reason, effect.detail)
            case fx.Conflict(evidence):
                world.judge.on_conflict(evidence)

    def append(self, data):
        self.disk.log += data

    def write(self, do, do_half=lambda: None):
        """Write, unless this is the write at which we crash."""
        how = self.world.find_crash()
        if how in (None, "after"):
            do()
        elif how == "torn":
            do_half()
        if how is not None:
            raise Crash

    def fire(self, timer, slot, number):
        if self.timers.get((timer, slot)) == number:
            self.apply(ev.TimerFired(timer, slot))

    def build(self, request):
        chain, slot = self.world.chain, request.slot
        tip = chain.heads[self.height][slot.shard]
        is_same = compute_chunk_hash(tip) == request.prev_chunk
        if not is_same or self.world.rng.random() < 0.1:
            self.apply(ev.NothingBuilt(slot))
            return
        self.apply(ev.ChunkBuilt(self.world.make_chunk(slot, tip, request)))

    def execute(self, produced):
        header = produced.header
        if produced.witness != WITNESS:
            judgement = ev.Judgement.SPOILT
        elif self.world.rng.random() < 0.05:
            judgement = ev.Judgement.UNKNOWN
        elif self.world.is_true(header):
            judgement = ev.Judgement.GOOD
        else:
            judgement = ev.Judgement.BAD
        self.apply(ev.Executed(header, judgement))


class Liar:
    """A validator that signs whatever it likes, as often as it likes."""

    def __init__(self, world, index):
        self.world, self.index, self.key = world, index, world.town.keys[index]
        self.life = 0
        self.seen = set()
        self.desk = None

    def start(self):
        pass

    def enter(self, height=None):
        """Produce several chunks for each slot in which it has a rank."""
        del height
        world, rng = self.world, self.world.rng
        for shard in world.roles.shards:
            slot = Slot(0, shard, world.view)
            if self.index not in world.roles.get_producers(slot):
                continue
            tip = world.chain.tips[shard]
            for _ in range(rng.randint(1, 3)):
                produced = self.produce(slot, tip)
                for recipient in range(world.size):
                    if rng.random() < 0.6:
                        world.deliver(self.index, recipient, produced)

    def produce(self, slot, tip):
        """Return a chunk of some kind of wrongness, or a good one."""
        world, rng = self.world, self.world.rng
        request = fx.Build(slot, b"", world.chain.parent, self.index)
        produced = world.make_chunk(slot, tip, request)
        header = produced.header
        match rng.choice(["good", "minted", "jump", "huge", "body", "unsigned"]):
            case "minted":
                header = replace(header, post_root=name(rng.random()))
            case "jump":
                header = replace(header, seq=header.seq + 1)
            case "huge":
                header = replace(header, work=2**40)
            case "body":
                produced = replace(produced, transactions=(b"else",))
            case "unsigned":
                return replace(produced, signature=bytes(96))
        message = compute_producer_bytes(CHAIN, slot, compute_chunk_hash(header))
        return replace(produced, header=header, signature=self.key.sign(message))

    def lead(self):
        return []

    def receive(self, message, sender):
        """Spoil it, endorse it in everybody's name, certify what is not enough."""
        del sender
        rng, world = self.world.rng, self.world
        if not isinstance(message, ProducedChunk):
            return
        slot, chunk_hash = get_slot(message.header), compute_chunk_hash(message.header)
        if chunk_hash in self.seen:
            return
        self.seen.add(chunk_hash)
        payload = compute_endorsement_bytes(CHAIN, slot, chunk_hash)
        signature = self.key.sign(payload)
        spoilt = replace(message, witness=b"spoilt")
        for recipient in range(world.size):
            if rng.random() < 0.5:
                world.deliver(self.index, recipient, spoilt)
            signer = rng.choice([self.index, rng.randrange(world.size)])
            fake = Endorsement(slot, chunk_hash, signer, signature)
            world.deliver(self.index, recipient, fake)
        if rng.random() < 0.3:
            two = {self.index, rng.randrange(world.size)}
            signers = dict.fromkeys(two, signature)
            certificate = build_chunk_certificate(
                signers, world.town.validators, world.town.scheme
            )
            lie = Certified(CertifiedChunk(message.header, certificate))
            world.deliver(self.index, rng.randrange(world.size), lie)


class Judge:
    """What must never be seen, checked as things happen."""

    def __init__(self, world):
        self.world = world
        self.signed = {}
        self.certified = set()
        self.convicted = set()

    def on_sent(self, node, message):
        match message:
            case ProducedChunk():
                header = message.header
                self._on_signed("produce", node, get_slot(header), header)
            case Endorsement():
                assert message.signer == node.index
                self._on_signed("endorse", node, message.slot, message.chunk_hash)

    def _on_signed(self, kind, node, slot, what):
        known = self.signed.setdefault((kind, node.index, slot), what)
        assert known == what, f"{kind} twice in {slot} by {node.index}"

    def on_certificate(self, certified):
        world, header = self.world, certified.header
        assert world.is_true(header), "a certificate of a wrong chunk"
        slot = get_slot(header)
        validate_chunk_certificate(
            header,
            certified.certificate,
            world.roles.get_committee(slot),
            world.town.validators,
            CHAIN,
            world.town.scheme,
        )
        signers = decode_bitmap(certified.certificate.bitmap, world.size)
        honest = [world.nodes[i] for i in signers if i not in world.liars]
        assert honest, "a certificate without an honest signer"
        for node in honest:
            assert compute_chunk_hash(header) in node.disk.saved, "endorsed, not held"
        self.certified.add(slot)

    def on_refused(self, sender, reason, detail):
        is_honest = sender not in self.world.liars
        assert not (reason.is_fault and is_honest), f"{sender}: {reason} {detail}"

    def on_conflict(self, evidence):
        world = self.world
        guilty = validate_shard_evidence(
            evidence, world.town.validators, CHAIN, world.town.scheme
        )
        assert set(guilty) <= world.liars, f"evidence against {guilty}"
        self.convicted |= set(guilty)

    def on_memory(self, desk):
        most = (INCLUSION_VIEWS + 2) * len(self.world.roles.shards)
        assert len(desk.open_slots) <= most


class World:
    """Everything: nodes, time, network, luck."""

    def __init__(
        self, seed, powers=(10,) * 4, shards=(1, 2), liars=(), luck=CALM, ring=None
    ):
        self.rng = random.Random(seed)
        self.luck = luck
        self.town = Town(list(powers), ring)
        self.size = len(powers)
        self.liars = set(liars)
        self.chain = Chain(shards=(0, *shards))
        hosts = tuple(range(0, self.size, 2))
        table = ProducerTable(
            tuple(
                ShardProducers(shard, hosts, tuple(sorted(drawn)))
                for shard in shards
                for drawn in [draw_custodians(SEED, shard, powers)]
            )
        )
        self.roles = Roles(0, SEED, self.town.validators, table)
        self.truth = set()
        self.now_ms = 0
        self.view = 1
        self.writes = self.crashes = 0
        self.crash_at = None
        self.included = dict.fromkeys(shards, 0)
        self._queue, self._number = [], 0
        self.judge = Judge(self)
        self.nodes = [
            (Liar if i in self.liars else Node)(self, i) for i in range(self.size)
        ]

    def get_config(self, key):
        return DeskConfig(
            chain_id=CHAIN,
            delta_ms=DELTA_MS,
            brief_turn_ms=DELTA_MS // 3,
            scheme=self.town.scheme,
            signer=key,
        )

    def get_leader(self, view):
        return view % self.size

    # The truth about chunks

    def make_chunk(self, slot, tip, request):
        """Return an unsigned chunk that is what its header says."""
        transactions = (self.rng.randbytes(8), slot.created_view.to_bytes(4, "big"))
        header = make_next(
            tip,
            epoch=0,
            view=slot.created_view,
            anchor=request.anchor,
            producer=request.producer,
            transactions=transactions,
        )
        self.truth.add(compute_chunk_hash(header))
        return ProducedChunk(header, bytes(96), transactions, (), WITNESS)

    def is_true(self, header):
        return compute_chunk_hash(header) in self.truth

    # Time

    def next_number(self):
        self._number += 1
        return self._number

    def after(self, delay_ms, node, action):
        life = None if node is None else node.life
        entry = (self.now_ms + delay_ms, self.next_number(), node, life, action)
        heapq.heappush(self._queue, entry)

    def run(self, views):
        """Let that many views go by."""
        if self.now_ms == 0:
            for node in self.nodes:
                node.start()
            self.after(0, None, self._begin_view)
        last = self.view + views
        while self.view < last:
            self.now_ms, _, node, life, action = heapq.heappop(self._queue)
            if node is None or node.life == life:
                action()

    def _begin_view(self):
        for node in self.nodes:
            delay_ms = self.rng.randint(0, 200)
            self.after(delay_ms, node, lambda node=node: self._enter(node))
        self.after(VIEW_MS - 500, None, self._make_block)
        self.after(VIEW_MS, None, self._end_view)

    def _enter(self, node):
        if self.rng.random() < self.luck.behind:
            node.enter(max(0, self.chain.height - 1))
            self.after(400, node, node.enter)
        else:
            node.enter()

    def _make_block(self):
        if self.rng.random() < self.luck.skipped:
            return
        base = self.chain.get_base(self.view)
        picked = self.nodes[self.get_leader(self.view)].lead()
        for certified in picked:
            header = certified.header
            producers = self.roles.get_producers(get_slot(header))
            validate_inclusion(header, base, producers)
            self.judge.on_certificate(certified)
            self.included[header.shard] += 1
        self.chain.add(self.view, *(certified.header for certified in picked))

    def _end_view(self):
        self.view += 1
        self._begin_view()

    # Luck

    def deliver(self, sender, recipient, message):
        """Send bytes; they come later, much later, or never."""
        luck = self.luck
        if self.rng.random() < luck.loss:
            return
        delay_ms = self.rng.randint(*luck.delay_ms)
        if self.rng.random() < luck.late:
            delay_ms += self.rng.randint(500, 6000)
        data = encode_message(message)
        node = self.nodes[recipient]
        self.after(delay_ms, node, lambda: node.receive(decode_message(data), sender))

    def find_crash(self):
        """Tell whether the write that comes now is a node's last, and how."""
        self.writes += 1
        if self.crash_at is not None and self.writes == self.crash_at[0]:
            return self.crash_at[1]
        if self.rng.random() < self.luck.crash:
            return self.rng.choice(["before", "torn", "after"])
        return None
