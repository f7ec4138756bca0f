"""
A small deterministic world for the core: virtual time, a seeded network, disks.

Theory of operation
-------------------
One heap of (time, number, action) is all there is of time.  Nodes are cores with a
disk; a node's effects become actions: messages arrive after a seeded delay or not at
all, timers fire, blocks are built and checked at once.  Every choice comes from one
`random.Random(seed)`, so a seed is a whole run and a failing seed is a bug report.

What a disk holds is bytes: the log in the format of consensus.wal and the blocks that
were saved.  A crash keeps what was synced, perhaps with a torn tail, and loses the
rest.  Invariants are checked while it runs; see `Judge`.
"""

import heapq
import random
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from consensus import effects as fx
from consensus import events as ev
from consensus.book import Tip
from consensus.core import Core
from consensus.leader import compute_first_seed
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Proposal,
    Propose,
    compute_notarize_bytes,
)
from consensus.params import ConsensusParams
from consensus.state import CoreConfig
from consensus.validators import Validator, ValidatorSet
from consensus.wal import encode_header, encode_records, scan_wal
from p2pchain.sim.signatures import StandinScheme
from primitives.codec import decode, encode

CHAIN = blake2b(b"test chain", digest_size=32).digest()
GENESIS = blake2b(b"test genesis", digest_size=32).digest()
PARAMS = ConsensusParams(interval_ms=1000, delta_ms=500, build_ms=500)


def make_block(view, parent_hash, height, proposer, salt=b""):
    """Return (hash, bytes) of a block; the bytes say everything."""
    block = encode((view, parent_hash, height, proposer, salt))
    return blake2b(block, digest_size=32).digest(), block


def read_block(block):
    """Return (view, parent hash, height, proposer, salt)."""
    return decode(tuple[int, bytes, int, int, bytes], block)


@dataclass
class Network:
    """What can happen to a message."""

    delay_ms: tuple = (5, 100)
    loss: float = 0.0
    duplication: float = 0.0
    cut: set = field(default_factory=set)
    """Pairs (from, to) that hear nothing."""


class Disk:
    """What survives a crash."""

    def __init__(self, header):
        self.log = header
        self.blocks = {}
        self.tip = Tip(0, 0, GENESIS, None)


class Node:
    """One core and its shell."""

    def __init__(self, world, name, key):
        self.world, self.name, self.key = world, name, key
        self.disk = Disk(encode_header(key.public_key, CHAIN))
        self.core = None
        self.life = 0
        self.chain = [GENESIS]
        """Final block hashes in order; also across restarts."""

    @property
    def is_up(self):
        return self.core is not None

    def start(self):
        """Start or restart from what the disk holds."""
        records, length = scan_wal(self.disk.log, self.key.public_key, CHAIN)
        self.disk.log = self.disk.log[:length]
        self.life += 1
        self.blocks = dict(self.disk.blocks)
        self.waiting = {}
        self.timers = {}
        self.held = {GENESIS: 0} | {h: read_block(b)[2] for h, b in self.blocks.items()}
        config = replace(self.world.config, signer=self.key)
        self.core = Core(config, self.disk.tip, records, self.held)
        self.view = 0
        self.run(self.core.start())

    def crash(self, torn=b""):
        """Lose everything that is not on disk; leave half a write behind."""
        self.core = None
        self.life += 1
        self.disk.log += torn

    def receive(self, message, sender):
        self.apply(ev.Received(message, sender))

    def apply(self, event):
        if self.is_up:
            self.run(self.core.handle(event))

    def run(self, effects):
        """Carry out effects in order, then judge the view."""
        records = [e.record for e in effects if isinstance(e, fx.Persist)]
        if records:
            self.disk.log += encode_records(records)
        for effect in effects:
            self.carry_out(effect)
        if self.is_up:
            assert self.core.view >= self.view, "views never go back"
            self.view = self.core.view
            assert self.core.pooled_votes <= 10 * 3 * 2 * len(self.world.nodes)

    def carry_out(self, effect):
        world = self.world
        match effect:
            case fx.Broadcast():
                world.judge.on_message(effect.message)
                world.broadcast(self, effect.message)
            case fx.SetTimer():
                number = self.timers[effect.timer] = world.next_number()
                world.after(effect.delay_ms, self, lambda: self.fire(effect, number))
            case fx.ScheduleProposal():
                wait = world.rng.choice((0, 100, PARAMS.interval_ms))
                due = ev.ProposalDue(effect.view)
                world.after(wait, self, lambda: self.apply(due))
            case fx.BuildBlock():
                self.build(effect)
            case fx.CheckBlock():
                self.check(effect.proposal, effect.block)
            case fx.FetchBlock():
                self.fetch(effect.proposal)
            case fx.FetchCertificates():
                self.fetch_certificates(effect.view)
            case fx.SavePending():
                self.save(effect.block_hash)
            case fx.Decide():
                self.finalize(effect.certificate)
            case fx.Refuse():
                if effect.reason.is_fault:
                    world.faults.append((effect.sender, effect.reason))
            case fx.Conflict():
                world.judge.on_conflict(effect)

    def fire(self, effect, number):
        if self.timers.get(effect.timer) == number:
            self.apply(ev.TimerFired(effect.timer, effect.view))

    def build(self, request):
        """Build the block and check that the attendance is what it says."""
        height = self.held[request.parent_hash] + 1
        assert bool(request.bitmap) == (request.parent_hash != GENESIS)
        block_hash, block = make_block(
            request.view, request.parent_hash, height, request.proposer
        )
        self.hold(block_hash, block, height)
        self.apply(ev.BlockBuilt(request.view, block_hash, block, height))

    def hold(self, block_hash, block, height):
        self.blocks[block_hash] = block
        self.held[block_hash] = height

    def check(self, proposal, block):
        """Validate bytes against the proposal; wait for the parent if need be."""
        if blake2b(block, digest_size=32).digest() != proposal.block_hash:
            return self.apply(ev.BlockMismatched(proposal))
        view, parent_hash, height, _, salt = read_block(block)
        is_same = (view, parent_hash) == (proposal.view, proposal.parent_hash)
        if salt == b"invalid" or height != proposal.height or not is_same:
            return self.apply(ev.BlockRefused(proposal))
        if parent_hash not in self.held:
            is_new = parent_hash not in self.waiting
            self.waiting.setdefault(parent_hash, {})[proposal.block_hash] = (
                proposal,
                block,
            )
            if is_new:
                self.ask_for(parent_hash)
            return None
        self.hold(proposal.block_hash, block, height)
        self.apply(ev.BlockAdded(proposal))
        for later in self.waiting.pop(proposal.block_hash, {}).values():
            self.check(*later)
        return None

    def fetch(self, proposal):
        """Ask for the block, or again for the ancestor that it waits for."""
        missing, known = proposal.block_hash, True
        while known and missing not in self.held:
            known = False
            for parent_hash, children in self.waiting.items():
                if missing in children:
                    missing, known = parent_hash, True
                    break
        if missing not in self.held:
            self.ask_for(missing)

    def ask_for(self, block_hash):
        """Ask every other node; each answer takes two delays and may be lost."""
        for other in self.world.nodes:
            if other is not self:
                self.world.ask(self, other, lambda o=other: o.find_block(block_hash))

    def find_block(self, block_hash):
        block = self.blocks.get(block_hash)
        return None if block is None else lambda node: node.take_block(block)

    def take_block(self, block):
        """Take fetched bytes, which say what proposal they belong to."""
        view, parent_hash, height, _, _ = read_block(block)
        if blake2b(block, digest_size=32).digest() in self.held:
            return
        proposal = Proposal(
            epoch=0,
            view=view,
            parent_view=self.view_of(parent_hash, block),
            parent_hash=parent_hash,
            block_hash=blake2b(block, digest_size=32).digest(),
            height=height,
        )
        self.check(proposal, block)

    def view_of(self, parent_hash, block):
        del block
        if parent_hash == GENESIS:
            return 0
        return self.world.view_of[parent_hash]

    def fetch_certificates(self, view):
        for other in self.world.nodes:
            if other is not self and other.is_up:
                self.world.ask(self, other, lambda o=other: o.find_certificates(view))

    def find_certificates(self, view):
        found = self.core.book.get_certificates(view)
        return lambda node: [node.receive(c, None) for c in found]

    def save(self, block_hash):
        """Save a block and its pending ancestors."""
        while block_hash != GENESIS and block_hash not in self.disk.blocks:
            self.disk.blocks[block_hash] = self.blocks[block_hash]
            block_hash = read_block(self.blocks[block_hash])[1]

    def finalize(self, certificate):
        proposal = certificate.proposal
        path, block_hash = [], proposal.block_hash
        while block_hash not in self.chain:
            path.append(block_hash)
            block_hash = read_block(self.blocks[block_hash])[1]
        assert block_hash == self.chain[-1], "a final block was left"
        self.chain += reversed(path)
        assert len(self.chain) - 1 == proposal.height
        self.save(proposal.block_hash)
        self.disk.tip = Tip(
            proposal.height, proposal.view, proposal.block_hash, certificate
        )
        self.world.judge.on_final(self)


class Judge:
    """The invariants, checked as things happen."""

    def __init__(self):
        self.certificates = {}
        self.longest = [GENESIS]
        self.honest = set()
        self.votes = {}

    def on_message(self, message):
        """At most one N and never F and X per view; honest votes never conflict."""
        match message:
            case Certificate():
                self._on_certificate(message)
            case Propose():
                self._on_vote(message.notarize)
            case Notarize() | Nullify() | Finalize():
                self._on_vote(message)

    def _on_certificate(self, certificate):
        key = certificate.kind, certificate.view
        subject = self.certificates.setdefault(key, certificate.proposal)
        assert subject == certificate.proposal, "two certificates of one kind and view"
        kinds = {kind for kind, view in self.certificates if view == certificate.view}
        assert not {Kind.NULLIFICATION, Kind.FINALIZATION} <= kinds, "F and X"

    def _on_vote(self, vote):
        view = vote.view if isinstance(vote, Nullify) else vote.proposal.view
        known = self.votes.setdefault((type(vote), view, vote.signer), vote)
        if vote.signer in self.honest:
            assert known == vote, "an honest signer contradicts itself"
            sent = {kind for kind, v, s in self.votes if (v, s) == (view, vote.signer)}
            assert not {Nullify, Finalize} <= sent, "nullified and finalized"

    def on_conflict(self, conflict):
        for vote in (conflict.first, conflict.second):
            assert not isinstance(vote, Certificate), "certificates in conflict"
            assert vote.signer not in self.honest, "evidence against the honest"

    def on_final(self, node):
        """Agreement: every final chain is a prefix of the longest one."""
        shared = min(len(node.chain), len(self.longest))
        assert node.chain[:shared] == self.longest[:shared], "a fork"
        if len(node.chain) > len(self.longest):
            self.longest = list(node.chain)


class World:
    """Everything: nodes, time, network, luck."""

    def __init__(self, seed, size=4, powers=None, scheme=None, make_key=None):
        self.rng = random.Random(seed)
        self.scheme = scheme or StandinScheme()
        make_key = make_key or self.scheme.make_key
        keys = [make_key(index) for index in range(size)]
        powers = powers or [10] * size
        self.validators = ValidatorSet(
            tuple(
                Validator(key.public_key, power)
                for key, power in zip(keys, powers, strict=True)
            )
        )
        self.config = CoreConfig(
            chain_id=CHAIN,
            epoch=0,
            seed=compute_first_seed(CHAIN),
            validators=self.validators,
            last_height=2**62,
            params=PARAMS,
            scheme=self.scheme,
            signer=None,
        )
        self.network = Network()
        self.judge = Judge()
        self.judge.honest = set(range(size))
        self.faults = []
        self.view_of = {}
        self.now_ms = 0
        self._queue = []
        self._number = 0
        self.nodes = [Node(self, index, key) for index, key in enumerate(keys)]
        self.villains = {}
        self.trace = blake2b(digest_size=16)

    def next_number(self):
        self._number += 1
        return self._number

    def after(self, delay_ms, node, action):
        """Do something later, unless the node crashes before."""
        life = node.life
        entry = (self.now_ms + delay_ms, self.next_number(), node, life, action)
        heapq.heappush(self._queue, entry)

    def start(self):
        for node in self.nodes:
            if node.name not in self.villains:
                node.start()
        for villain in self.villains.values():
            villain.start()

    def run(self, until_ms):
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, node, life, action = heapq.heappop(self._queue)
            if node.life == life:
                action()
        self.now_ms = until_ms

    def broadcast(self, sender, message):
        if isinstance(message, Propose):
            proposal = message.notarize.proposal
            self.view_of[proposal.block_hash] = proposal.view
        data = encode(message)
        self.trace.update(self.now_ms.to_bytes(8, "big") + data)
        for node in self.nodes:
            if node is not sender:
                self.send(sender, node, message)

    def send(self, sender, receiver, message):
        """Deliver once, twice or not at all, after a while."""
        if (sender.name, receiver.name) in self.network.cut:
            return
        name = b"%d" % sender.name
        target = self.villains.get(receiver.name, receiver)

        def deliver():
            target.receive(message, name)

        copies = 1 + (self.rng.random() < self.network.duplication)
        for _ in range(copies):
            if self.rng.random() < self.network.loss:
                continue
            delay = self.rng.randint(*self.network.delay_ms)
            self.after(delay, receiver, deliver)

    def ask(self, sender, receiver, question):
        """A request and its answer."""
        pairs = {(sender.name, receiver.name), (receiver.name, sender.name)}
        if pairs & self.network.cut or receiver.name in self.villains:
            return
        if self.rng.random() < self.network.loss:
            return
        delay = self.rng.randint(*self.network.delay_ms)

        def answer():
            take = question() if receiver.is_up else None
            if take is not None:
                self.after(delay, sender, lambda: take(sender))

        self.after(delay, receiver, answer)

    def cut_apart(self, *groups):
        """Partition: nobody hears anybody of another group."""
        where = {name: number for number, group in enumerate(groups) for name in group}
        self.network.cut = {
            (a, b) for a in where for b in where if where[a] != where[b]
        }

    def heal(self):
        self.network = Network()

    @property
    def honest_nodes(self):
        return [node for node in self.nodes if node.name in self.judge.honest]


class Equivocator:
    """A validator that proposes two blocks when it leads and votes for everything."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.node = world.nodes[name]
        world.villains[name] = self
        world.judge.honest.discard(name)
        self.seen = set()

    def start(self):
        """It lives through the core of its node, whose proposals it doubles."""
        self.node.start()
        self.node.run = self.run_twisted
        self.core = self.node.core

    def run_twisted(self, effects):
        for effect in effects:
            match effect:
                case fx.Broadcast(message=Propose() as propose):
                    self.propose_two(propose)
                case fx.Broadcast(message=Nullify()) if self.world.rng.random() < 0.5:
                    pass
                case _:
                    self.node.carry_out(effect)

    def propose_two(self, propose):
        """One half of the others gets one block, one half another."""
        proposal = propose.notarize.proposal
        block_hash, block = make_block(
            proposal.view, proposal.parent_hash, proposal.height, self.name, b"twin"
        )
        twin = replace_proposal(proposal, block_hash)
        vote = self.sign(twin)
        self.world.view_of[block_hash] = proposal.view
        self.world.view_of[proposal.block_hash] = proposal.view
        self.node.hold(block_hash, block, proposal.height)
        second = Propose(block, vote, propose.just)
        for node in self.world.nodes:
            if node is self.node:
                continue
            choice = self.world.rng.choice(((propose,), (second,), (propose, second)))
            for message in choice:
                self.world.send(self.node, node, message)

    def sign(self, proposal):
        signature = self.node.key.sign(compute_notarize_bytes(CHAIN, proposal))
        return Notarize(proposal, self.name, signature)

    def receive(self, message, sender):
        """Vote for whatever is proposed, as often as it is proposed."""
        if isinstance(message, Propose) and message.notarize.proposal not in self.seen:
            self.seen.add(message.notarize.proposal)
            vote = self.sign(message.notarize.proposal)
            for node in self.world.nodes:
                if node is not self.node:
                    self.world.send(self.node, node, vote)
        self.node.receive(message, sender)


def replace_proposal(proposal, block_hash):
    """Return the proposal with another block."""
    return Proposal(
        epoch=proposal.epoch,
        view=proposal.view,
        parent_view=proposal.parent_view,
        parent_hash=proposal.parent_hash,
        block_hash=block_hash,
        height=proposal.height,
    )
