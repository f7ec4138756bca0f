"""
One core on a workbench: everybody else's votes are made by hand.

    bench = Bench(leads=False)          four validators, we are one of them
    propose = bench.propose()           a valid proposal of the current view's leader
    effects = bench.hear(propose)       what the core does about it
"""

from dataclasses import replace
from hashlib import blake2b

from consensus_world import CHAIN, GENESIS, PARAMS
from standin_bls import StandinScheme

from consensus import effects as fx
from consensus import events as ev
from consensus.book import Tip
from consensus.certificates import build_certificate
from consensus.core import Core
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
from consensus.state import CoreConfig
from consensus.validators import Validator, ValidatorSet

PEER = b"peer"


def make_hash(name):
    return blake2b(name.encode(), digest_size=32).digest()


class Bench:
    """A core, its colleagues' keys, and short ways to say things."""

    def __init__(self, size=4, leads=False, listens=False):
        self.scheme = StandinScheme()
        self.keys = [self.scheme.make_key(index) for index in range(size)]
        validators = tuple(Validator(key.public_key, 10) for key in self.keys)
        self.config = CoreConfig(
            chain_id=CHAIN,
            epoch=0,
            seed=compute_first_seed(CHAIN),
            validators=ValidatorSet(validators),
            last_height=2**62,
            params=PARAMS,
            scheme=self.scheme,
            signer=None,
        )
        leader = self.leader(1)
        self.me = leader if leads else (leader + 1) % size
        signer = None if listens else self.keys[self.me]
        self.config = replace(self.config, signer=signer)
        self.core = Core(self.config, Tip(0, 0, GENESIS, None))
        self.log = []
        self.first = self.note(self.core.start())

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
        self.core = Core(self.config, tip, self.log, held)
        return self.note(self.core.start())

    # What others say

    def leader(self, view):
        return compute_leader(self.config.seed, view, self.config.validators)

    @property
    def others(self):
        return [index for index in range(len(self.keys)) if index != self.me]

    def proposal(self, view=None, parent=None, name="block"):
        """Return a proposal on genesis or on another proposal."""
        view = view or self.core.view
        return Proposal(
            epoch=0,
            view=view,
            parent_view=parent.view if parent else 0,
            parent_hash=parent.block_hash if parent else GENESIS,
            block_hash=make_hash(f"{name} {view}"),
            height=parent.height + 1 if parent else 1,
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
        signature = self._sign(signer, compute_nullify_bytes(CHAIN, 0, view))
        return Nullify(0, view, signer, signature)

    def certify(self, kind, subject, signers=None):
        """Return a certificate of a proposal or, for X, of a view."""
        signers = self.others if signers is None else signers
        if kind is Kind.NULLIFICATION:
            votes = {s: self.nullify(s, subject).signature for s in signers}
            subject = 0, subject
        elif kind is Kind.NOTARIZATION:
            votes = {s: self.notarize(s, subject).signature for s in signers}
        else:
            votes = {s: self.finalize(s, subject).signature for s in signers}
        validators = self.config.validators
        return build_certificate(kind, subject, votes, validators, self.scheme)

    def _sign(self, signer, message):
        return self.keys[signer].sign(message)


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
