"""
One core on a workbench: everybody else's votes are made by hand.

    bench = Bench(leads=False)          four validators, we are one of them
    propose = bench.propose()           a valid proposal of the current view's leader
    effects = bench.hear(propose)       what the core does about it

A `Lifebench` has a whole participant instead, and `begin_epoch` takes it on.
"""

from dataclasses import replace
from hashlib import blake2b

from consensus import effects as fx
from consensus import events as ev
from consensus.book import Tip
from consensus.certificates import build_certificate
from consensus.core import Core
from consensus.epoch import EpochConfig
from consensus.leader import compute_first_seed, compute_leader
from consensus.messages import (
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Proposal,
    Propose,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from consensus.params import ConsensusParams
from consensus.participant import Participant, ParticipantConfig
from consensus.state import CoreConfig
from consensus.validators import Validator, ValidatorSet
from p2pchain.sim.signatures import StandinScheme

PEER = b"peer"
CHAIN = blake2b(b"test chain", digest_size=32).digest()
GENESIS = blake2b(b"test genesis", digest_size=32).digest()
PARAMS = ConsensusParams(interval_ms=1000, delta_ms=500, build_ms=500)
FAR = 2**62


def make_hash(name):
    return blake2b(name.encode(), digest_size=32).digest()


class Bench:
    """A core, its colleagues' keys, and short ways to say things."""

    epoch = 0
    """Of the messages that are made."""

    def __init__(self, size=4, leads=False, listens=False, last_height=FAR):
        self.scheme = StandinScheme()
        self.keys = [self.scheme.make_key(index) for index in range(size)]
        validators = tuple(Validator(key.public_key, 10) for key in self.keys)
        self.config = CoreConfig(
            chain_id=CHAIN,
            epoch=0,
            seed=compute_first_seed(CHAIN),
            validators=ValidatorSet(validators),
            last_height=last_height,
            params=PARAMS,
            scheme=self.scheme,
            signer=None,
        )
        leader = self.leader(1)
        self.me = leader if leads else (leader + 1) % size
        signer = None if listens else self.keys[self.me]
        self.config = replace(self.config, signer=signer)
        self.log = []
        self.root = Tip(0, 0, GENESIS, None)
        self.core = self.make_core(self.root, ())
        self.first = self.note(self.core.start())

    def make_core(self, tip, held):
        return Core(self.config, tip, self.log, held)

    # What the core does

    def note(self, effects):
        """Keep what would be on disk, and return the effects."""
        self.log += [e.record for e in effects if isinstance(e, fx.Persist)]
        return effects

    def handle(self, event):
        return self.note(self.core.handle(event))

    def hear(self, *messages, sender=PEER):
        """Return the effects of receiving messages."""
        effects = []
        for message in messages:
            effects += self.handle(ev.Received(message, sender))
        return effects

    def hold(self, proposal):
        """Say that the block of a proposal is held and valid."""
        return self.handle(ev.BlockAdded(proposal))

    def fire(self, timer, view=None):
        return self.handle(ev.TimerFired(timer, view or self.core.view))

    def restart(self, held=(), tip=None):
        """Start again from the log."""
        tip = tip or self.core.book.tip
        self.core = self.make_core(tip, held)
        return self.note(self.core.start())

    # What others say

    def leader(self, view):
        return compute_leader(self.config.seed, view, self.config.validators)

    @property
    def others(self):
        return [index for index in range(len(self.keys)) if index != self.me]

    def proposal(self, view=None, parent=None, name="block"):
        """Return a proposal on the epoch's root or on another proposal."""
        view = view or self.core.view
        return Proposal(
            epoch=self.epoch,
            view=view,
            parent_view=parent.view if parent else 0,
            parent_hash=parent.block_hash if parent else self.root.block_hash,
            block_hash=make_hash(f"{name} {view} of {self.epoch}"),
            height=parent.height + 1 if parent else self.root.height + 1,
        )

    def repeat(self, certified, view):
        """Return the proposal in `view` of what is certified already."""
        return Proposal(
            epoch=self.epoch,
            view=view,
            parent_view=certified.view,
            parent_hash=certified.block_hash,
            block_hash=certified.block_hash,
            height=certified.height,
        )

    def propose(self, proposal=None, just=(), signer=None):
        """Return a Propose; by default a valid one for the current view."""
        proposal = proposal or self.proposal()
        signer = self.leader(proposal.view) if signer is None else signer
        return Propose(b"block bytes", self.notarize(signer, proposal), tuple(just))

    def notarize(self, signer, proposal):
        signature = self._sign(signer, compute_notarize_bytes(CHAIN, proposal))
        return Notarize(proposal, signer, signature)

    def finalize(self, signer, proposal):
        signature = self._sign(signer, compute_finalize_bytes(CHAIN, proposal))
        return Finalize(proposal, signer, signature)

    def nullify(self, signer, view=None):
        view = view or self.core.view
        signature = self._sign(signer, compute_nullify_bytes(CHAIN, self.epoch, view))
        return Nullify(self.epoch, view, signer, signature)

    def certify(self, kind, subject, signers=None):
        """Return a certificate of a proposal or, for X, of a view."""
        signers = self.others if signers is None else signers
        if kind is Kind.NULLIFICATION:
            votes = {s: self.nullify(s, subject).signature for s in signers}
            subject = self.epoch, subject
        elif kind is Kind.NOTARIZATION:
            votes = {s: self.notarize(s, subject).signature for s in signers}
        else:
            votes = {s: self.finalize(s, subject).signature for s in signers}
        validators = self.config.validators
        return build_certificate(kind, subject, votes, validators, self.scheme)

    def _sign(self, signer, message):
        return self.keys[signer].sign(message)


class Lifebench(Bench):
    """A participant on the same bench."""

    def __init__(self, lost_at_ms=None, log=(), epoch_blocks=2, **options):
        self.given_log, self.lost_at_ms = list(log), lost_at_ms
        self.epoch_blocks = epoch_blocks
        super().__init__(**options)

    @property
    def epoch_config(self):
        seed = compute_first_seed(CHAIN)
        return EpochConfig(
            epoch=self.epoch,
            seed=seed,
            validators=self.config.validators,
            last_height=(self.epoch + 1) * self.epoch_blocks,
        )

    def make_core(self, tip, held):
        self.log, self.given_log = self.given_log + self.log, []
        return Participant(
            ParticipantConfig(
                chain_id=CHAIN,
                params=PARAMS,
                scheme=self.scheme,
                signer=self.config.signer,
            ),
            self.epoch_config,
            tip,
            self.log,
            held,
            lost_at_ms=self.lost_at_ms,
        )

    def begin_epoch(self, boundary_hash=None):
        """Say that the boundary block is final and the next epoch has begun."""
        self.epoch += 1
        height = self.epoch * self.epoch_blocks
        block_hash = boundary_hash or make_hash(f"root {self.epoch}")
        self.root = Tip(height, 0, block_hash, None)
        return self.handle(ev.EpochBegun(self.epoch_config, self.root))

    def finish_epoch(self):
        """Bring the epoch to its end: two blocks, certified, the second one final."""
        first = self.proposal(1)
        last = self.proposal(2, first)
        effects = self.hear(self.certify(Kind.NOTARIZATION, first))
        effects += self.hold(first)
        effects += self.hear(self.certify(Kind.NOTARIZATION, last))
        effects += self.hold(last)
        effects += self.hear(self.certify(Kind.FINALIZATION, last))
        assert self.core.is_over
        return last


def find(effects, kind):
    """Return the effects of one class."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects, kind=object):
    """Return the broadcast messages of one class."""
    messages = [effect.message for effect in find(effects, fx.Broadcast)]
    return [message for message in messages if isinstance(message, kind)]


def reasons(effects):
    """Return why messages were refused."""
    return [effect.reason for effect in find(effects, fx.Refuse)]


def assert_durable(effects):
    """Every own vote that goes out stands in the log before it."""
    persisted = set()
    for effect in effects:
        if isinstance(effect, fx.Persist):
            persisted.add(effect.record)
        elif isinstance(effect, fx.Broadcast) and not effect.is_repeat:
            vote = effect.message
            if isinstance(vote, Propose):
                vote = vote.notarize
            if isinstance(vote, Notarize | Nullify | Finalize):
                assert vote in persisted
