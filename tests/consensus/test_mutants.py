"""The simulation finds what it is there to find: each weakened rule is caught.

A mutant that survives would mean that the tests prove less than they seem to.  Rules
that no schedule of this world can break, because another rule covers them (no Nullify
after Finalize: who finalizes leaves the view), are in test_core.py alone.
"""

import pytest
from consensus_world import CHAIN, Node
from storms import run_storm

from consensus.core import Core
from consensus.validators import ValidatorSet
from consensus.voter import Voter
from consensus.wal import encode_header

SEEDS = range(100)
"""More than enough: each mutant dies within a few dozen of them."""


def drop_finalize_guard(monkeypatch):
    """R2 without "if we have not nullified v"."""
    honest = Voter.finalize

    def finalize(self, round, proposal):
        kept, round.nullify = round.nullify, None
        vote = honest(self, round, proposal)
        round.nullify = kept
        return vote

    monkeypatch.setattr(Voter, "finalize", finalize)


def take_half_for_a_quorum(monkeypatch):
    """A quorum of half the power."""

    def has_quorum(self, indices):
        return 2 * self.get_power(indices) >= self.total_power

    monkeypatch.setattr(ValidatorSet, "has_quorum", has_quorum)


def forget_the_log(monkeypatch):
    """Send before the log is synced: a crash loses the last votes."""
    honest = Node.crash

    def crash(self, torn=b""):
        self.disk.log = encode_header(self.key.public_key, CHAIN)
        honest(self, torn)

    monkeypatch.setattr(Node, "crash", crash)


def notarize_twice(monkeypatch):
    """R1 without "first": every valid proposal of the view gets a vote."""
    honest = Voter.notarize

    def notarize(self, round, proposal):
        kept, round.notarize = round.notarize, None
        if kept is not None and kept.proposal == proposal:
            round.notarize = kept
            return None
        return honest(self, round, proposal)

    def consider(self, propose, sender):
        proposal = propose.notarize.proposal
        self._get_round(proposal.view).candidate = None
        honest_consider(self, propose, sender)

    honest_consider = Core._consider
    monkeypatch.setattr(Voter, "notarize", notarize)
    monkeypatch.setattr(Core, "_consider", consider)


MUTANTS = [
    drop_finalize_guard,
    take_half_for_a_quorum,
    forget_the_log,
    notarize_twice,
]


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_mutant_is_caught(mutate, monkeypatch):
    mutate(monkeypatch)
    for seed in SEEDS:
        try:
            run_storm(seed, size=4, with_villain=seed % 2 == 1)
        except AssertionError:
            return
    pytest.fail(f"{mutate.__name__} survives {len(SEEDS)} seeds")
