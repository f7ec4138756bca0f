"""
The kill list: each weakened rule is found, by the invariant that it was there for.

A mutant that survives would mean that the runs prove less than they seem to.  For each
there is a scenario that brings the trouble which the rule is for, and a few seeds.
"""

import pytest
from mutant_kills import Kill

from consensus import core as core_module
from consensus import evidence, state
from consensus.adopter import Adopter
from consensus.book import Ancestry, CertificateBook
from consensus.core import Core
from consensus.leader import compute_leader
from consensus.messages import Kind
from consensus.participant import Participant
from consensus.pool import VoteVerifier
from consensus.validators import ValidatorSet
from consensus.voter import Voter
from p2pchain.sim.chains import list_chain as listchain
from p2pchain.sim.machine.disk import Disk
from primitives.hashing import compute_hash


def finalize_after_nullify(monkeypatch):
    """R2 without its guard: who nullified a view may finalize it."""
    honest = Voter.finalize

    def finalize(self, round, proposal):
        kept, round.nullify = round.nullify, None
        vote = honest(self, round, proposal)
        round.nullify = kept
        return vote

    monkeypatch.setattr(Voter, "finalize", finalize)


def nullify_after_finalize(monkeypatch):
    """R4 without its guard: who finalized a view may nullify it, and views follow."""
    honest = Voter.nullify

    def nullify(self, round):
        kept, round.finalize = round.finalize, None
        vote = honest(self, round)
        round.finalize = kept
        return vote

    def send(self):
        for view in (self._state.view, self._state.view - 1):
            if view > 0:
                round = self._state.get_round(view)
                self._send_vote(round, self._voter.nullify(round))

    monkeypatch.setattr(Voter, "nullify", nullify)
    monkeypatch.setattr(Adopter, "nullify", send)


def take_two_thirds_for_a_quorum(monkeypatch):
    """A quorum of exactly two thirds: with six of equal power four are enough."""
    monkeypatch.setattr(
        ValidatorSet,
        "is_quorum",
        lambda self, power: 3 * power >= 2 * self.total_power,
    )


def take_half_for_a_quorum(monkeypatch):
    """A quorum of half the power."""
    monkeypatch.setattr(
        ValidatorSet, "is_quorum", lambda self, power: 2 * power >= self.total_power
    )


def send_before_the_log_is_synced(monkeypatch):
    """A crash loses the last votes, which others have."""
    honest = Disk.__init__

    def init(self, luck):
        honest(self, luck)
        self.votes.is_syncing = False

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


def vote_in_an_old_view(monkeypatch):
    """R6 without "never": a proposal of a view that we left gets a vote."""
    honest = Core._on_propose

    def on_propose(self, propose, sender):
        proposal = propose.notarize.proposal
        if proposal.epoch == self._config.epoch and proposal.view < self.view:
            leader = self._state.get_round(proposal.view).leader
            vote = propose.notarize
            if vote.signer == leader and self._tally.verify(vote):
                self._adopter.notarize(proposal)
        honest(self, propose, sender)

    monkeypatch.setattr(Core, "_on_propose", on_propose)


def take_the_leader_from_a_certificate(monkeypatch):
    """Who leads follows from the certificate that let us in: there are many of them."""
    books = []
    handle, start = Core.handle, Core.start

    def remember(honest):
        def method(self, *args):
            books[:] = [self.book]
            return honest(self, *args)

        return method

    def compute(seed, view, validators):
        entering = books[0].find_entering(view - 1) if books else None
        if entering is not None:
            seed = compute_hash("mutant", seed, entering.bitmap)
        return compute_leader(seed, view, validators)

    monkeypatch.setattr(Core, "handle", remember(handle))
    monkeypatch.setattr(Core, "start", remember(start))
    for module in (core_module, state, listchain):
        monkeypatch.setattr(module, "compute_leader", compute)


def accept_a_gap_in_just(monkeypatch):
    """Views may be jumped over without their nullification."""
    honest = core_module.find_fault

    def find_fault(propose, tip_view):
        fault = honest(propose, tip_view)
        is_gap = fault is not None and "not contiguous" in fault[1]
        return None if is_gap else fault

    monkeypatch.setattr(core_module, "find_fault", find_fault)


def forget_the_log(monkeypatch):
    """After a restart the log's votes do not bind."""
    monkeypatch.setattr(Voter, "restore", lambda self, round, vote: None)
    monkeypatch.setattr(Voter, "may_notarize", _may_notarize_anything)


def skip_the_floor(monkeypatch):
    """After a restart votes that a shorter log left out are taken for never given."""

    monkeypatch.setattr(Voter, "may_sign", lambda self, view: self.is_voting)


def vote_without_a_log(monkeypatch):
    """Who lost its log votes at once."""
    monkeypatch.setattr(Participant, "mute", None)


def build_on_the_boundary(monkeypatch):
    """The epoch's last block is built upon instead of being proposed again."""
    honest = CertificateBook._build_ancestry

    def build_ancestry(self, parent, skipped):
        found = honest(self, parent, skipped)
        if not found.is_repeat:
            return found
        return Ancestry(
            parent_view=found.parent_view,
            parent_hash=found.parent_hash,
            height=found.height + 1,
            notarization=found.notarization,
            just=found.just,
        )

    monkeypatch.setattr(CertificateBook, "_build_ancestry", build_ancestry)
    monkeypatch.setattr(core_module, "is_next", lambda *args: True)


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


def convict_for_leaving_a_view(monkeypatch):
    """Evidence of a Notarize and a Nullify in one view, both of them legal."""
    honest = evidence._classify

    def classify(first, second):
        kinds = {evidence._get_kind(first), evidence._get_kind(second)}
        if kinds == {Kind.NOTARIZATION, Kind.NULLIFICATION}:
            return evidence.Equivocation.DOUBLE_NOTARIZE
        return honest(first, second)

    monkeypatch.setattr(evidence, "_classify", classify)


def convict_without_signatures(monkeypatch):
    """Evidence is believed as it comes."""
    monkeypatch.setattr(evidence, "_validate_vote", lambda *args: None)


def mark_votes_that_stood_in_a_sum(monkeypatch):
    """What verified together is taken for each signer's word."""
    honest = VoteVerifier.find_forged

    def find_forged(self, votes):
        forged = honest(self, votes)
        for pooled in votes:
            pooled.is_verified = pooled not in forged
        return forged

    monkeypatch.setattr(VoteVerifier, "find_forged", find_forged)


def repeat_nothing(monkeypatch):
    """R7 dropped: what was lost once is lost."""
    monkeypatch.setattr(Core, "_repeat", lambda self: None)


def stay_where_we_nullified(monkeypatch):
    """R6 without its last clause: a view that we nullified is left by X only."""
    honest = Core._settle

    def settle(self):
        book = self._book
        round = self._state.rounds.get(self.view)
        if round is not None and round.nullify is not None:
            kept = book.notarizations.pop(self.view, None)
            honest(self)
            if kept is not None:
                book.notarizations.setdefault(kept.view, kept)
            return
        honest(self)

    monkeypatch.setattr(Core, "_settle", settle)


def _may_notarize_anything(self, round):
    return self.is_voting and round.notarize is None and round.nullify is None


KILLS = [
    Kill(finalize_after_nullify, "partition", range(2), "no honest evidence"),
    Kill(nullify_after_finalize, "double-finalizer", range(2), "no honest evidence"),
    Kill(take_two_thirds_for_a_quorum, "two-offline", range(4), "quorums"),
    Kill(take_half_for_a_quorum, "all-online", range(2), "quorums"),
    Kill(send_before_the_log_is_synced, "crash-storm", range(4), "no honest evidence"),
    Kill(notarize_twice, "equivocator", range(4), "no honest evidence"),
    Kill(vote_in_an_old_view, "late-equivocator", range(4), "no honest evidence"),
    Kill(take_the_leader_from_a_certificate, "all-online", range(2), "honest unblamed"),
    Kill(accept_a_gap_in_just, "jump", range(8), "honest blocks valid"),
    Kill(forget_the_log, "crash-storm", range(6), "no honest evidence"),
    Kill(skip_the_floor, "late-echo", range(4), "no honest evidence"),
    Kill(vote_without_a_log, "lost-log", range(2), "lost log"),
    Kill(build_on_the_boundary, "boundary-trouble", range(2), "honest blocks valid"),
    Kill(
        count_nullification_as_conflict,
        "double-finalizer",
        range(8),
        "no honest evidence",
    ),
    Kill(convict_for_leaving_a_view, "slanderer", range(6), "no honest evidence"),
    Kill(convict_without_signatures, "slanderer", range(2), "no honest evidence"),
    Kill(mark_votes_that_stood_in_a_sum, "swapper", range(3), "no honest evidence"),
    Kill(repeat_nothing, "certified-split", range(2), "progress"),
    Kill(stay_where_we_nullified, "certified-split", range(2), "progress"),
]


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.mutate.__name__)
def test_mutant_is_caught(kill, monkeypatch):
    kill.check(monkeypatch, "list")
