"""The simulation finds what it is there to find: each weakened rule is caught.

A mutant that survives would mean that the runs prove less than they seem to.
"""

import pytest

from consensus.book import CertificateBook
from consensus.core import Core
from consensus.messages import Kind
from consensus.validators import ValidatorSet
from consensus.voter import Voter
from p2pchain.sim.disk import Disk
from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.scenarios import SCENARIOS
from p2pchain.sim.schedule import run_storm

SEEDS = range(150)
"""More than enough: each mutant dies within a few dozen of them."""


def nullify_after_finalize(monkeypatch):
    """R2 and R4 without their guards: who nullified may finalize, and back."""
    honest = Voter.finalize

    def finalize(self, round, proposal):
        kept, round.nullify = round.nullify, None
        vote = honest(self, round, proposal)
        round.nullify = kept
        return vote

    monkeypatch.setattr(Voter, "finalize", finalize)


def take_two_thirds_for_a_quorum(monkeypatch):
    """A quorum of exactly two thirds: with three of equal power two are enough."""

    def is_quorum(self, power):
        return 3 * power >= 2 * self.total_power

    monkeypatch.setattr(ValidatorSet, "is_quorum", is_quorum)


def take_half_for_a_quorum(monkeypatch):
    """A quorum of half the power."""

    def is_quorum(self, power):
        return 2 * power >= self.total_power

    monkeypatch.setattr(ValidatorSet, "is_quorum", is_quorum)


def send_before_the_log_is_synced(monkeypatch):
    """A crash loses the last votes, which others have."""
    honest = Disk.__init__

    def init(self, luck):
        honest(self, luck)
        self.is_syncing = False

    monkeypatch.setattr(Disk, "__init__", init)


def notarize_twice(monkeypatch):
    """R1 without "first": every valid proposal of the view gets a vote."""
    honest, consider = Voter.notarize, Core._consider

    def notarize(self, round, proposal):
        kept, round.notarize = round.notarize, None
        if kept is not None and kept.proposal == proposal:
            round.notarize = kept
            return None
        return honest(self, round, proposal)

    def forget_first(self, propose, sender):
        proposal = propose.notarize.proposal
        self._state.get_round(proposal.view).candidate = None
        consider(self, propose, sender)

    monkeypatch.setattr(Voter, "notarize", notarize)
    monkeypatch.setattr(Core, "_consider", forget_first)


def forget_the_floor(monkeypatch):
    """After a restart the log's votes do not bind."""

    def restore(self, round, vote):
        """Do nothing."""

    honest = Voter.may_notarize

    def may_notarize(self, round):
        self.silent_until = self.floor = 0
        return honest(self, round)

    monkeypatch.setattr(Voter, "restore", restore)
    monkeypatch.setattr(Voter, "may_notarize", may_notarize)


def count_nullification_as_conflict(monkeypatch):
    """N and X of one view taken for a conflict, which they are not."""
    honest = CertificateBook.find_rival

    def find_rival(self, certificate):
        for known in self.get_certificates(certificate.view):
            if {known.kind, certificate.kind} == {
                Kind.NOTARIZATION,
                Kind.NULLIFICATION,
            }:
                return known
        return honest(self, certificate)

    monkeypatch.setattr(CertificateBook, "find_rival", find_rival)


def accept_a_gap_in_just(monkeypatch):
    """Views may be jumped over without their nullification."""
    import consensus.core as core

    for module in (core, __import__("consensus.adopter", fromlist=["x"])):
        if hasattr(module, "find_fault"):
            monkeypatch.setattr(module, "find_fault", lambda propose, tip_view: None)


MUTANTS = [
    nullify_after_finalize,
    take_half_for_a_quorum,
    take_two_thirds_for_a_quorum,
    send_before_the_log_is_synced,
    notarize_twice,
    forget_the_floor,
    count_nullification_as_conflict,
    accept_a_gap_in_just,
]


def find_killer(seeds=SEEDS):
    """Return the first failure that a storm or the villains' scenarios show."""
    hunters = [SCENARIOS[name] for name in ("equivocator", "invalid-proposer")]
    for seed in seeds:
        for run in (run_storm, *(hunters if seed < 6 else ())):
            try:
                run(seed, "list", None)
            except InvariantBroken as broken:
                return run.__name__, seed, broken
    return None


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_mutant_is_caught(mutate, monkeypatch):
    mutate(monkeypatch)
    assert find_killer() is not None, f"{mutate.__name__} survives {len(SEEDS)} seeds"
