"""The rules one by one, kept and broken."""

import msgspec
import pytest
from consensus_bench import (
    CHAIN,
    GENESIS,
    Bench,
    assert_durable,
    find,
    make_hash,
    reasons,
    sent,
)
from hypothesis import given
from hypothesis import strategies as st

from consensus import book, place
from consensus import effects as fx
from consensus import events as ev
from consensus.core import Core
from consensus.effects import Reason
from consensus.events import Timer
from consensus.evidence import build_evidence, validate_evidence
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Propose,
)
from consensus.pool import PooledVote, VotePool
from primitives.codec import encode

N, X, F = Kind.NOTARIZATION, Kind.NULLIFICATION, Kind.FINALIZATION


def change(record, **fields):
    return msgspec.structs.replace(record, **fields)


def make_certified(bench):
    """Bring the bench's core to hold a certified block of view 1; return it."""
    proposal = bench.proposal(1)
    bench.hear(bench.propose(proposal))
    bench.hold(proposal)
    bench.hear(bench.certify(N, proposal))
    assert bench.core.view == 2
    return proposal


# R1


def test_valid_proposal_is_checked_and_then_notarized():
    bench = Bench()
    propose = bench.propose()
    proposal = propose.notarize.proposal
    effects = bench.hear(propose)
    assert find(effects, fx.CheckBlock)[0].proposal == proposal
    assert not sent(effects)
    effects = bench.hold(proposal)
    assert_durable(effects)
    [vote] = sent(effects, Notarize)
    assert vote == bench.notarize(bench.me, proposal)


def test_only_the_first_proposal_is_notarized():
    bench = Bench()
    bench.hear(bench.propose())
    twin = bench.proposal(name="twin")
    effects = bench.hear(bench.propose(twin)) + bench.hold(twin)
    assert not sent(effects, Notarize)
    assert len(find(effects, fx.Conflict)) == 1


def test_no_notarize_after_nullify():
    bench = Bench()
    bench.fire(Timer.LEADER)
    effects = bench.hear(bench.propose())
    effects += bench.hold(bench.proposal())
    assert not sent(effects, Notarize)


def test_a_listener_follows_without_voting():
    bench = Bench(listens=True)
    proposal = bench.proposal()
    effects = bench.hear(bench.propose()) + bench.hold(proposal)
    effects += bench.hear(*(bench.notarize(i, proposal) for i in range(4)))
    effects += bench.hear(*(bench.finalize(i, proposal) for i in range(4)))
    assert bench.core.view == 2
    assert find(effects, fx.Decide)
    assert not sent(effects, (Notarize | Nullify | Finalize))


BAD_PROPOSES = {
    "other epoch": (lambda b, p: change(p, epoch=1), Reason.OTHER_EPOCH),
    "height": (lambda b, p: change(p, height=2), Reason.BAD_PROPOSAL),
    "parent hash": (
        lambda b, p: change(p, parent_hash=make_hash("other")),
        Reason.BAD_PROPOSAL,
    ),
    "parent in its own view": (lambda b, p: change(p, parent_view=1), None),
    "parent without certificate": (
        lambda b, p: change(p, view=2, parent_view=1),
        Reason.BAD_JUST,
    ),
    "gap in just": (lambda b, p: change(p, view=2), Reason.BAD_JUST),
}


@pytest.mark.parametrize("name", BAD_PROPOSES)
def test_bad_proposal_is_refused(name):
    twist, reason = BAD_PROPOSES[name]
    bench = Bench()
    proposal = twist(bench, bench.proposal())
    effects = bench.hear(bench.propose(proposal))
    assert not find(effects, fx.CheckBlock)
    assert reasons(effects) == [reason or Reason.BAD_PROPOSAL]


def test_a_signed_contradiction_costs_the_leader_its_view():
    bench = Bench()
    effects = bench.hear(bench.propose(change(bench.proposal(), height=7)))
    assert sent(effects, Nullify)


def test_a_tampered_message_does_not_cost_the_leader_its_view():
    bench = Bench()
    good = bench.propose()
    forged = change(good.notarize, signature=bytes(96))
    for bad, reason in (
        (change(good, notarize=forged), Reason.BAD_SIGNATURE),
        (bench.propose(signer=bench.me), Reason.NOT_LEADER),
        (change(good, just=(bench.certify(X, 1),)), Reason.BAD_JUST),
    ):
        effects = bench.hear(bad)
        assert reasons(effects) == [reason]
        assert not sent(effects, Nullify)
    assert find(bench.hear(good), fx.CheckBlock)


def test_a_tampered_block_is_replaced_by_a_good_copy():
    bench = Bench()
    proposal = bench.proposal()
    bench.hear(change(bench.propose(), block=b"tampered"))
    assert not sent(bench.handle(ev.BlockMismatched(proposal)))
    assert find(bench.hear(bench.propose()), fx.CheckBlock)
    assert sent(bench.hold(proposal), Notarize)


def test_proposal_on_a_certificate_that_we_lack_brings_it_along():
    bench = Bench()
    parent = bench.proposal(1)
    notarization = bench.certify(N, parent)
    child = bench.proposal(2, parent)
    effects = bench.hear(bench.propose(child, [notarization]))
    assert find(effects, fx.FetchBlock)[0].proposal == parent
    assert not find(effects, fx.CheckBlock)
    effects = bench.hold(parent)
    assert bench.core.view == 2
    assert find(effects, fx.CheckBlock)[0].proposal == child


def test_proposal_over_nullified_views():
    bench = Bench()
    child = bench.proposal(4)
    just = [bench.certify(X, view) for view in (1, 2, 3)]
    effects = bench.hear(bench.propose(child, just))
    assert bench.core.view == 4
    assert find(effects, fx.CheckBlock)


@pytest.mark.parametrize(
    "views", [(1, 3), (1, 2), (2, 3), (1, 2, 2, 3), (3, 2, 1), (1, 2, 3, 4), ()]
)
def test_just_with_a_gap_is_refused(views):
    bench = Bench()
    just = [bench.certify(X, view) for view in views]
    effects = bench.hear(bench.propose(bench.proposal(4), just))
    assert reasons(effects) == [Reason.BAD_JUST]
    assert bench.core.view == 1


@pytest.fixture
def short(monkeypatch):
    """Let a Propose bring two nullifications at most."""
    for module in (book, place):
        monkeypatch.setattr(module, "MAX_SKIPPED", 2)


@pytest.mark.usefixtures("short")
def test_of_many_skipped_views_the_first_are_fetched_before_a_vote():
    bench = Bench()
    child = bench.proposal(6)
    just = [bench.certify(X, view) for view in (4, 5)]
    effects = bench.hear(bench.propose(child, just))
    assert bench.core.view == 6
    assert not find(effects, fx.CheckBlock)
    # One after the other, the highest first; what is not asked for helps as well.
    assert [e.view for e in find(effects, fx.FetchCertificates)] == [3]
    effects = bench.hear(bench.certify(X, 1))
    assert [e.view for e in find(effects, fx.FetchCertificates)] == [3]
    effects = bench.hear(bench.certify(X, 3))
    assert [e.view for e in find(effects, fx.FetchCertificates)] == [2]
    effects = bench.hear(bench.certify(X, 2))
    assert [e.proposal for e in find(effects, fx.CheckBlock)] == [child]
    assert sent(bench.hold(child), Notarize)


@pytest.mark.usefixtures("short")
def test_in_a_later_view_nothing_is_left_of_what_waited():
    bench = Bench()
    just = [bench.certify(X, view) for view in (2, 3)]
    bench.hear(bench.propose(bench.proposal(4), just))
    bench.hear(bench.certify(X, 4))
    assert bench.core.view == 5
    assert not find(bench.hear(bench.certify(X, 1)), fx.CheckBlock)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("views", [(1, 2), (1, 2, 3), (2, 3, 4, 5), (5,), (3, 5), ()])
def test_the_last_skipped_views_are_brought_and_no_others(views):
    bench = Bench()
    just = [bench.certify(X, view) for view in views]
    effects = bench.hear(bench.propose(bench.proposal(6), just))
    assert reasons(effects) == [Reason.BAD_JUST]
    assert bench.core.view == 1


@pytest.mark.usefixtures("short")
def test_a_leader_brings_the_last_skipped_views():
    bench = Bench()
    views = iter(range(1, 100))
    while bench.leader(bench.core.view) != bench.me or bench.core.view < 5:
        bench.hear(bench.certify(X, next(views)))
    view = bench.core.view
    bench.handle(ev.ProposalDue(view))
    effects = bench.handle(ev.BlockBuilt(view, make_hash("own"), b"own", 1))
    [propose] = sent(effects, Propose)
    assert [each.view for each in propose.just] == [view - 2, view - 1]


def test_false_certificate_in_just_is_refused():
    bench = Bench()
    for bad in (
        bench.certify(X, 1, signers=bench.others[:2]),
        change(bench.certify(X, 1), signature=bytes(96)),
        change(bench.certify(N, bench.proposal(1)), kind=X),
    ):
        effects = bench.hear(bench.propose(bench.proposal(2), [bad]))
        assert reasons(effects) == [Reason.BAD_JUST]
    assert bench.core.view == 1


# R2


def test_quorum_of_notarize_certifies_finalizes_and_enters():
    bench = Bench()
    proposal = bench.proposal()
    bench.hear(bench.propose())
    bench.hold(proposal)
    effects = bench.hear(*(bench.notarize(i, proposal) for i in bench.others[:2]))
    assert_durable(effects)
    [certificate] = sent(effects, Certificate)
    assert certificate.kind == N
    assert sent(effects, Finalize)
    assert find(effects, fx.SavePending)[0].block_hash == proposal.block_hash
    assert bench.core.view == 2


def test_two_thirds_are_not_a_quorum():
    bench = Bench(size=6)
    proposal = bench.proposal()
    others = [i for i in bench.others if i != bench.leader(1)]
    bench.hear(bench.propose())
    bench.hold(proposal)
    effects = bench.hear(*(bench.notarize(i, proposal) for i in others[:2]))
    assert not sent(effects, Certificate)
    assert sent(bench.hear(bench.notarize(others[2], proposal)), Certificate)


def test_certified_block_waits_for_its_bytes():
    bench = Bench()
    proposal = bench.proposal()
    effects = bench.hear(bench.certify(N, proposal))
    assert find(effects, fx.FetchBlock)
    assert bench.core.view == 1
    effects = bench.hold(proposal)
    assert sent(effects, Finalize)
    assert bench.core.view == 2


def test_no_finalize_after_nullify_but_the_view_is_left():
    bench = Bench()
    bench.fire(Timer.LEADER)
    proposal = bench.proposal()
    bench.hear(bench.certify(N, proposal))
    effects = bench.hold(proposal)
    assert not sent(effects, Finalize)
    assert bench.core.view == 2


def test_no_finalize_after_the_leader_equivocated():
    bench = Bench()
    proposal, twin = bench.proposal(), bench.proposal(name="twin")
    bench.hear(bench.propose(proposal))
    bench.hold(proposal)
    bench.hear(bench.notarize(bench.leader(1), twin))
    effects = bench.hear(bench.certify(N, proposal))
    assert not sent(effects, Finalize)
    assert bench.core.view == 2


# R3, R4


def test_timers_nullify():
    bench = Bench()
    effects = bench.fire(Timer.LEADER)
    assert_durable(effects)
    assert sent(effects) == [bench.nullify(bench.me)]
    assert not sent(bench.fire(Timer.ADVANCE), Nullify)


def test_leader_timer_does_nothing_once_we_voted_but_the_other_one_does():
    bench = Bench()
    bench.hear(bench.propose())
    bench.hold(bench.proposal())
    assert not sent(bench.fire(Timer.LEADER))
    assert sent(bench.fire(Timer.ADVANCE), Nullify)


def test_timer_of_an_old_view_does_nothing():
    bench = Bench()
    make_certified(bench)
    assert bench.fire(Timer.ADVANCE, view=1) == []


def test_invalid_block_nullifies_at_once():
    bench = Bench()
    bench.hear(bench.propose())
    assert sent(bench.handle(ev.BlockRefused(bench.proposal())), Nullify)


def test_leaders_own_nullify_nullifies_at_once():
    bench = Bench()
    assert sent(bench.hear(bench.nullify(bench.leader(1))), Nullify)


def test_forged_nullify_of_the_leader_does_not():
    bench = Bench()
    forged = change(bench.nullify(bench.leader(1)), signature=bytes(96))
    effects = bench.hear(forged)
    assert reasons(effects) == [Reason.BAD_SIGNATURE]
    assert not sent(effects)


def test_early_nullify_of_the_next_leader_counts_on_entering():
    bench = Bench()
    bench.hear(bench.nullify(bench.leader(2), view=2))
    effects = bench.hear(bench.certify(X, 1))
    assert bench.core.view == 2
    assert sent(effects, Nullify) == [bench.nullify(bench.me, 2)]


def test_no_nullify_after_finalize():
    bench = Bench()
    make_certified(bench)
    votes = [r for r in bench.log if isinstance(r, Finalize)]
    assert len(votes) == 1
    # Back in view 1 by a restart that lost everything but the vote.
    bench.log = votes
    bench.restart()
    assert bench.core.view == 1
    assert not sent(bench.fire(Timer.ADVANCE), Nullify)


def test_quorum_of_nullify_enters_the_next_view():
    bench = Bench()
    effects = bench.hear(*(bench.nullify(i) for i in bench.others))
    assert [c.kind for c in sent(effects, Certificate)] == [X]
    assert bench.core.view == 2


# R5


def test_quorum_of_finalize_decides_also_in_a_later_view():
    bench = Bench()
    proposal = make_certified(bench)
    effects = bench.hear(*(bench.finalize(i, proposal) for i in bench.others[:2]))
    [decision] = find(effects, fx.Decide)
    assert decision.certificate.proposal == proposal
    assert bench.core.book.tip.height == 1


def test_finalization_of_an_unknown_block_waits_for_it():
    bench = Bench()
    proposal = bench.proposal()
    effects = bench.hear(bench.certify(F, proposal))
    assert find(effects, fx.FetchBlock)
    assert not find(effects, fx.Decide)
    # Nobody needs our leave to leave a final view.
    assert not sent(bench.fire(Timer.ADVANCE), Nullify)
    effects = bench.hold(proposal)
    assert find(effects, fx.Decide)
    assert bench.core.view == 2


# R6


def test_certificate_of_a_far_view_is_adopted():
    bench = Bench()
    bench.hear(bench.certify(X, 40))
    assert bench.core.view == 41


def test_no_vote_in_a_view_that_was_jumped_over():
    bench = Bench()
    bench.hear(bench.certify(X, 40))
    effects = bench.hear(bench.propose(bench.proposal(3)))
    assert reasons(effects) == [Reason.STALE]


def test_known_certificates_are_not_verified_again():
    bench = Bench()
    certificate = bench.certify(X, 40)
    bench.hear(certificate)
    before = bench.scheme.pairings
    assert reasons(bench.hear(certificate)) == [Reason.DUPLICATE]
    assert bench.scheme.pairings == before


@pytest.mark.parametrize(
    "fields",
    [
        {"signature": bytes(96)},
        {"bitmap": b"\x07\x00"},
        {"bitmap": b""},
        {"bitmap": b"\xf7"},
        {"bitmap": b"\x01"},
        {"kind": F},
        {"view": 7},
    ],
)
def test_bad_certificate_is_refused(fields):
    bench = Bench()
    for good in (bench.certify(X, 3), bench.certify(N, bench.proposal(3))):
        bad = change(good, **fields)
        if bad == good:
            continue
        assert reasons(bench.hear(bad)) == [Reason.BAD_CERTIFICATE]
    assert bench.core.view == 1


def test_conflicting_certificates_are_reported_and_not_adopted():
    bench = Bench()
    proposal, twin = bench.proposal(), bench.proposal(name="twin")
    bench.hear(bench.certify(N, proposal))
    effects = bench.hear(bench.certify(N, twin))
    assert len(find(effects, fx.Conflict)) == 1
    assert bench.core.book.notarizations[1].proposal == proposal
    assert find(bench.hear(bench.certify(F, twin)), fx.Conflict)


def test_n_and_x_of_one_view_are_no_conflict():
    bench = Bench()
    effects = bench.hear(bench.certify(N, bench.proposal()), bench.certify(X, 1))
    assert not find(effects, fx.Conflict)


# R7


def test_stuck_view_repeats_votes_and_entering_certificate():
    bench = Bench()
    bench.hear(bench.certify(X, 1))
    bench.fire(Timer.LEADER)
    bench.fire(Timer.ADVANCE)
    effects = bench.fire(Timer.REBROADCAST)
    assert all(e.is_repeat for e in find(effects, fx.Broadcast))
    assert sent(effects) == [bench.nullify(bench.me, 2), bench.certify(X, 1)]
    assert find(effects, fx.SetTimer)


def test_stuck_view_fetches_again():
    bench = Bench()
    bench.hear(bench.certify(N, bench.proposal()))
    bench.fire(Timer.ADVANCE)
    assert find(bench.fire(Timer.REBROADCAST), fx.FetchBlock)


# Votes


def test_forged_votes_are_found_by_halving_and_named():
    bench = Bench(size=7)
    proposal = bench.proposal()
    good = [bench.notarize(i, proposal) for i in range(7)]
    bad = change(good[0], signature=b"\1" * 96)
    for vote in good[1:5]:
        effects = bench.hear(vote, sender=b"honest")
    effects = bench.hear(bad, sender=b"villain")
    assert find(effects, fx.Refuse) in (
        [],
        [fx.Refuse(b"villain", Reason.BAD_SIGNATURE)],
    )
    effects += bench.hear(good[5], sender=b"honest")
    blamed = [e.sender for e in find(effects, fx.Refuse) if e.reason.is_fault]
    assert set(blamed) <= {b"villain"}
    assert sent(effects, Certificate)


def test_a_forged_vote_does_not_keep_the_real_one_out():
    bench = Bench()
    proposal = bench.proposal()
    signer = bench.others[1]
    forged = change(bench.notarize(signer, proposal), signature=b"\2" * 96)
    bench.hear(forged, sender=b"villain")
    effects = bench.hear(bench.notarize(signer, proposal), sender=b"honest")
    assert find(effects, fx.Refuse) == [fx.Refuse(b"villain", Reason.BAD_SIGNATURE)]
    others = [i for i in bench.others if i != signer]
    assert sent(bench.hear(*(bench.notarize(i, proposal) for i in others)), Certificate)


def test_a_forged_rival_vote_is_no_conflict():
    bench = Bench()
    signer = bench.others[1]
    bench.hear(bench.notarize(signer, bench.proposal()))
    twin = bench.notarize(signer, bench.proposal(name="twin"))
    effects = bench.hear(change(twin, signature=bytes(96)))
    assert reasons(effects) == [Reason.BAD_SIGNATURE]
    assert not find(effects, fx.Conflict)


@pytest.mark.parametrize("is_nullify_first", [True, False])
def test_finalize_and_nullify_of_one_view_are_a_conflict(is_nullify_first):
    bench = Bench()
    signer = bench.others[1]
    votes = [bench.nullify(signer), bench.finalize(signer, bench.proposal())]
    effects = bench.hear(*(votes if is_nullify_first else reversed(votes)))
    [conflict] = find(effects, fx.Conflict)
    assert {conflict.first, conflict.second} == set(votes)


def test_notarize_and_nullify_of_one_view_are_none():
    bench = Bench()
    signer = bench.others[1]
    effects = bench.hear(
        bench.notarize(signer, bench.proposal()), bench.nullify(signer)
    )
    assert not find(effects, fx.Conflict)


@pytest.mark.parametrize("is_first_forged", [True, False])
def test_a_forged_half_of_such_a_pair_is_no_conflict(is_first_forged):
    bench = Bench()
    signer = bench.others[1]
    votes = [bench.nullify(signer), bench.finalize(signer, bench.proposal())]
    forged = 0 if is_first_forged else 1
    votes[forged] = change(votes[forged], signature=b"\3" * 96)
    if signer == bench.leader(1) and is_first_forged:
        assert reasons(bench.hear(votes[0])) == [Reason.BAD_SIGNATURE]
        return
    effects = bench.hear(votes[0], sender=b"one")
    effects += bench.hear(votes[1], sender=b"two")
    assert not find(effects, fx.Conflict)
    blamed = b"one" if is_first_forged else b"two"
    assert find(effects, fx.Refuse) == [fx.Refuse(blamed, Reason.BAD_SIGNATURE)]


def make_final(bench, proposal):
    """Make a proposal final by all others but the first two, who are not counted."""
    signers = bench.others[2:]
    bench.hold(proposal)
    bench.hear(bench.certify(N, proposal, signers), bench.certify(F, proposal, signers))


def test_votes_that_come_too_late_to_count_still_convict():
    bench = Bench(size=10)
    proposal, twin = bench.proposal(), bench.proposal(name="twin")
    honest, cheat = bench.others[:2]
    bench.hear(bench.notarize(cheat, proposal), bench.finalize(cheat, proposal))
    make_final(bench, proposal)
    assert bench.core.book.tip.view == 1
    for vote in (
        bench.notarize(cheat, twin),
        bench.finalize(cheat, twin),
        bench.nullify(cheat, 1),
    ):
        assert find(bench.hear(vote), fx.Conflict)
    assert reasons(bench.hear(bench.nullify(honest, 1))) == [Reason.STALE]


@pytest.mark.parametrize("kind", [Notarize, Nullify, Finalize])
def test_a_late_vote_is_kept_against_the_one_that_comes_after_it(kind):
    """Neither counts any more, and the first one alone proved nothing."""
    bench = Bench(size=10)
    proposal, twin = bench.proposal(), bench.proposal(name="twin")
    cheat = bench.others[1]
    make_final(bench, proposal)
    first, second = {
        Notarize: (bench.notarize(cheat, twin), bench.notarize(cheat, proposal)),
        Nullify: (bench.nullify(cheat, 1), bench.finalize(cheat, proposal)),
        Finalize: (bench.finalize(cheat, twin), bench.nullify(cheat, 1)),
    }[kind]
    effects = bench.hear(first)
    assert reasons(effects) == [Reason.STALE]
    assert not find(effects, fx.Conflict)
    [conflict] = find(bench.hear(second), fx.Conflict)
    assert {conflict.first, conflict.second} == {first, second}


def test_late_votes_are_few():
    bench = Bench()
    proposal = bench.proposal()
    bench.hold(proposal)
    bench.hear(bench.certify(N, proposal), bench.certify(F, proposal))
    before = bench.core.pooled_votes
    for signer in bench.others:
        for number in range(10):
            twin = bench.proposal(1, name=f"twin {number}")
            bench.hear(bench.notarize(signer, twin), bench.finalize(signer, twin))
            bench.hear(bench.nullify(signer, 1))
    assert bench.core.pooled_votes - before <= 3 * 2 * len(bench.others)


def test_a_forged_late_vote_is_nobodys_conflict():
    bench = Bench(size=10)
    proposal, twin = bench.proposal(), bench.proposal(name="twin")
    make_final(bench, proposal)
    forged = change(bench.notarize(bench.others[1], twin), signature=bytes(96))
    bench.hear(forged, sender=b"forger")
    effects = bench.hear(bench.notarize(bench.others[1], proposal), sender=b"honest")
    assert find(effects, fx.Refuse) == [fx.Refuse(b"forger", Reason.BAD_SIGNATURE)]
    assert not find(effects, fx.Conflict)


def make_statements(bench, kind):
    """Return a certificate of view 1, and a vote that excludes it, by one it counts."""
    proposal, twin = bench.proposal(1), bench.proposal(1, name="twin")
    cheat = bench.others[1]
    return {
        "N'": (bench.certify(N, proposal), bench.notarize(cheat, twin)),
        "F'": (bench.certify(F, proposal), bench.finalize(cheat, twin)),
        "FX": (bench.certify(F, proposal), bench.nullify(cheat, 1)),
        "XF": (bench.certify(X, 1), bench.finalize(cheat, proposal)),
    }[kind]


KINDS = ["N'", "F'", "FX", "XF"]


@pytest.mark.parametrize("is_vote_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vote_against_a_certificate_that_counts_its_signer(kind, is_vote_first):
    """Who tells each half another story: one half has the vote, all the certificate."""
    bench = Bench()
    certificate, vote = make_statements(bench, kind)
    pair = (vote, certificate) if is_vote_first else (certificate, vote)
    assert not find(bench.hear(pair[0]), fx.Conflict)
    effects = bench.hear(pair[1])
    assert find(effects, fx.Conflict) == [fx.Conflict(certificate, vote)]
    evidence = build_evidence(certificate, vote)
    validators = bench.config.validators
    guilty = validate_evidence(evidence, validators, CHAIN, bench.scheme)
    assert guilty == (bench.others[1],)
    # Said once.
    assert not find(bench.hear(vote), fx.Conflict)


@pytest.mark.parametrize("is_vote_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_vote_against_a_certificate(kind, is_vote_first):
    bench = Bench()
    certificate, vote = make_statements(bench, kind)
    vote = change(vote, signature=bytes(96))
    pair = (vote, certificate) if is_vote_first else (certificate, vote)
    effects = bench.hear(*pair, sender=b"forger")
    assert not find(effects, fx.Conflict)
    assert fx.Refuse(b"forger", Reason.BAD_SIGNATURE) in effects


@pytest.mark.parametrize("is_vote_first", [True, False])
def test_what_may_stand_beside_a_certificate(is_vote_first):
    bench = Bench(size=10)
    proposal, twin = bench.proposal(), bench.proposal(name="twin")
    counted, other = bench.others[2], bench.others[0]
    signers = bench.others[2:]
    for certificate, vote in [
        (bench.certify(N, proposal, signers), bench.nullify(counted, 1)),
        (bench.certify(N, proposal, signers), bench.notarize(other, twin)),
        (bench.certify(X, 1, signers), bench.notarize(counted, proposal)),
    ]:
        pair = (vote, certificate) if is_vote_first else (certificate, vote)
        assert not find(bench.hear(*pair), fx.Conflict)


def test_a_second_proposal_that_comes_late_convicts_its_leader():
    bench = Bench()
    bench.hear(bench.propose())
    bench.hear(bench.certify(X, 1))
    twin = bench.proposal(1, name="twin")
    effects = bench.hear(bench.propose(twin))
    assert find(effects, fx.Conflict)
    assert reasons(effects) == [Reason.STALE]


def test_late_evidence_has_an_end():
    bench = Bench()
    cheat = bench.others[1]
    bench.hear(bench.notarize(cheat, bench.proposal()))
    for view in range(1, 12):
        bench.hear(bench.certify(X, view))
    effects = bench.hear(bench.notarize(cheat, bench.proposal(1, name="twin")))
    assert reasons(effects) == [Reason.STALE]
    assert not find(effects, fx.Conflict)


def test_a_certificate_of_our_own_making_is_held_against_its_rivals():
    """F by votes while X is known: more than a third cheats."""
    bench = Bench()
    proposal = bench.proposal()
    bench.hear(bench.certify(X, 1))
    effects = bench.hear(*(bench.finalize(i, proposal) for i in bench.others))
    *votes, conflict = find(effects, fx.Conflict)
    assert {conflict.first.kind, conflict.second.kind} == {X, F}
    # And each vote by itself.
    assert [each.second.signer for each in votes] == bench.others
    assert not find(effects, fx.Decide)


def test_a_tampered_certificate_is_not_passed_on_because_it_is_known():
    """Who relays a proposal answers for the certificates beside it."""
    bench = Bench()
    known = bench.certify(X, 1)
    bench.hear(known)
    tampered = change(known, signature=bytes(96))
    effects = bench.hear(bench.propose(bench.proposal(2), [tampered]))
    assert reasons(effects) == [Reason.BAD_JUST]
    assert not sent(effects, Nullify)
    other = bench.certify(X, 1, signers=[0, 1, 2, 3])
    effects = bench.hear(bench.propose(bench.proposal(2), [other]))
    assert find(effects, fx.CheckBlock)


def test_a_certificate_of_another_epoch_justifies_nothing():
    bench = Bench()
    bench.hear(bench.certify(X, 1))
    bench.epoch = 1
    foreign = bench.certify(X, 1)
    bench.epoch = 0
    effects = bench.hear(bench.propose(bench.proposal(2), [foreign]))
    assert reasons(effects) == [Reason.BAD_JUST]


def test_every_flaw_of_a_certificate_has_its_words():
    bench = Bench()
    good = bench.certify(N, bench.proposal(3))
    words = {
        "a subject that does not fit the kind": {"kind": X},
        "a subject of another view": {"view": 4},
        "a bitmap that does not fit the validator set": {"bitmap": b"\xff"},
        "1 signers are no quorum": {"bitmap": b"\x01"},
        "the signature does not verify": {"signature": b"\xc0" + bytes(95)},
    }
    for detail, fields in words.items():
        [refusal] = find(bench.hear(change(good, **fields)), fx.Refuse)
        assert (refusal.reason, refusal.detail) == (Reason.BAD_CERTIFICATE, detail)


def test_third_vote_of_an_equivocator_is_surplus():
    bench = Bench()
    votes = [
        bench.notarize(bench.others[1], bench.proposal(name=name)) for name in "abc"
    ]
    bench.hear(*votes[:2])
    assert reasons(bench.hear(votes[2])) == [Reason.SURPLUS]


@pytest.mark.parametrize("kind", ["notarize", "nullify", "finalize"])
def test_votes_outside_the_window_are_refused_without_fault(kind):
    bench = Bench()
    for view in range(1, 31):
        bench.hear(bench.certify(X, view))
    signer = bench.others[0]
    for view, reason in ((33, Reason.EARLY), (22, Reason.STALE)):
        subject = view if kind == "nullify" else bench.proposal(view)
        effects = bench.hear(getattr(bench, kind)(signer, subject))
        assert reasons(effects) == [reason]
        assert not reason.is_fault


def test_votes_of_strangers_and_other_epochs_are_refused():
    bench = Bench()
    vote = bench.nullify(0)
    assert reasons(bench.hear(change(vote, signer=9))) == [Reason.UNKNOWN_SIGNER]
    assert reasons(bench.hear(change(vote, epoch=1))) == [Reason.OTHER_EPOCH]
    twice = bench.hear(bench.nullify(bench.others[2]), bench.nullify(bench.others[2]))
    assert reasons(twice) == [Reason.DUPLICATE]


# The leader


def test_leader_schedules_builds_and_proposes():
    bench = Bench(leads=True)
    assert find(bench.first, fx.ScheduleProposal)[0].parent_hash == GENESIS
    [build] = find(bench.handle(ev.ProposalDue(1)), fx.BuildBlock)
    assert (build.bitmap, build.signature) == (b"", b"")
    effects = bench.handle(ev.BlockBuilt(1, make_hash("mine"), b"bytes", 1))
    assert_durable(effects)
    [propose] = sent(effects, Propose)
    assert propose.just == ()
    again = bench.handle(ev.BlockBuilt(1, make_hash("other"), b"bytes", 1))
    assert not sent(again)


def test_leader_that_nullified_does_not_propose():
    bench = Bench(leads=True)
    bench.fire(Timer.LEADER)
    assert not find(bench.handle(ev.ProposalDue(1)), fx.BuildBlock)


def find_own_view(bench, start):
    view = start
    while bench.leader(view) != bench.me:
        view += 1
    return view


def test_attendance_counts_every_vote_and_no_forged_one():
    bench = Bench(size=7)
    view = find_own_view(bench, 2)
    parent = bench.proposal(view - 1)
    for skipped in range(1, view - 1):
        bench.hear(bench.certify(X, skipped))
    just = [bench.certify(X, skipped) for skipped in range(1, view - 1)]
    bench.hear(bench.propose(parent, just))
    bench.hold(parent)
    signers = bench.others[:5]
    bench.hear(bench.certify(N, parent, signers))
    late = bench.others[5]
    bench.hear(bench.notarize(late, parent))
    [build] = find(bench.handle(ev.ProposalDue(view)), fx.BuildBlock)
    bits = int.from_bytes(build.bitmap, "little")
    assert bits.bit_count() == 7


def test_leader_that_jumped_fetches_what_it_lacks():
    bench = Bench()
    view = find_own_view(bench, 3)
    effects = bench.hear(bench.certify(X, view - 1))
    assert [e.view for e in find(effects, fx.FetchCertificates)] == [view - 2]
    for missing in range(view - 2, 0, -1):
        effects = bench.hear(bench.certify(X, missing))
    assert find(effects, fx.ScheduleProposal)[0].parent_hash == GENESIS


# Restarts


def test_restart_repeats_the_same_bytes_and_stays_silent():
    bench = Bench()
    bench.hear(bench.propose())
    bench.hold(bench.proposal())
    effects = bench.restart()
    assert sent(effects) == [bench.notarize(bench.me, bench.proposal())]
    assert all(e.is_repeat for e in find(effects, fx.Broadcast))
    twin = bench.proposal(name="twin")
    effects = bench.hear(bench.propose(twin)) + bench.hold(twin)
    assert not sent(effects, Notarize)


def test_restart_in_a_view_entered_by_certificate_does_not_notarize_there():
    bench = Bench()
    bench.hear(bench.certify(X, 1))
    bench.restart()
    assert bench.core.view == 2
    propose = bench.propose(bench.proposal(2), [bench.certify(X, 1)])
    effects = bench.hear(propose) + bench.hold(bench.proposal(2))
    assert not sent(effects, Notarize)
    assert sent(bench.fire(Timer.ADVANCE), Nullify)
    bench.hear(bench.certify(X, 2))
    just = [bench.certify(X, 1), bench.certify(X, 2)]
    bench.hear(bench.propose(bench.proposal(3), just))
    if bench.leader(3) != bench.me:
        assert sent(bench.hold(bench.proposal(3)), Notarize)


def test_restart_on_a_final_tip_goes_on_above_it():
    bench = Bench()
    proposal = make_certified(bench)
    bench.hear(bench.certify(F, proposal))
    bench.restart()
    assert bench.core.view == 2
    assert bench.core.book.notarizations[1].proposal == proposal


def test_shorter_log_binds_as_much():
    bench = Bench()
    make_certified(bench)
    bench.fire(Timer.LEADER)
    full = Core(bench.config, bench.core.book.tip, bench.log)
    short = Core(bench.config, bench.core.book.tip, bench.core.get_retained_records())
    assert full.view == short.view
    assert sent(full.start()) == sent(short.start())


# Golden transcript


def show(effect):
    match effect:
        case fx.Broadcast():
            message = effect.message
            name = type(message).__name__
            kind = getattr(message, "kind", None)
            return f"send {name}" + (f" {kind.name}" if kind else "")
        case fx.Persist():
            return f"log {type(effect.record).__name__}"
        case fx.SetTimer():
            return f"timer {effect.timer.value} {effect.view} {effect.delay_ms}"
    return type(effect).__name__


def test_golden_view():
    """A whole view of a follower, word for word."""
    bench = Bench()
    proposal = bench.proposal()
    voters = [i for i in bench.others if i != bench.leader(1)]
    script = [
        ("propose", lambda: bench.hear(bench.propose())),
        ("held", lambda: bench.hold(proposal)),
        ("notarize", lambda: bench.hear(bench.notarize(voters[0], proposal))),
        ("finalize", lambda: bench.hear(bench.finalize(voters[0], proposal))),
        ("finalize", lambda: bench.hear(bench.finalize(voters[1], proposal))),
    ]
    lines = [f"{name}: {'; '.join(map(show, step()))}" for name, step in script]
    assert lines == [
        "propose: CheckBlock",
        "held: log Notarize; send Notarize",
        "notarize: send Certificate NOTARIZATION; SavePending; log Certificate; "
        "log Finalize; send Finalize; timer leader 2 2500; timer advance 2 3000",
        "finalize: ",
        "finalize: send Certificate FINALIZATION; Decide",
    ]


# Power behind a subject


@given(st.data())
def test_the_running_sum_is_the_sum(data):
    """However votes come, are replaced and turn out to be forged."""
    bench = Bench(size=7)
    pool = VotePool(bench.config.validators)
    subjects = [bench.proposal(name=name) for name in "ab"]
    for _ in range(data.draw(st.integers(1, 30))):
        vote = bench.notarize(
            data.draw(st.integers(0, 6)), data.draw(st.sampled_from(subjects))
        )
        pooled = PooledVote(vote, None, is_verified=True)
        if vote.signer in pool.get_votes(vote.proposal) and data.draw(st.booleans()):
            pool.remove([pool.get_votes(vote.proposal)[vote.signer]])
        else:
            pool.add(pooled)
        for subject in subjects:
            votes = pool.get_votes(subject)
            assert pool.get_power(subject) == bench.config.validators.get_power(votes)


def test_what_a_set_computes_is_no_part_of_it():
    one, two = Bench().config.validators, Bench().config.validators
    assert one.total_power == 40
    assert one == two
    assert encode(one) == encode(two)


def test_a_nullification_is_repeated_where_the_notarized_block_is_lost():
    """All who had the block crashed; some know of no way out but that block."""
    bench = Bench()
    proposal = bench.proposal()
    bench.hear(bench.certify(N, proposal))
    nullification = bench.certify(X, 1)
    bench.hear(nullification)
    assert bench.core.view == 2
    bench.fire(Timer.ADVANCE)
    repeated = sent(bench.fire(Timer.REBROADCAST), Certificate)
    assert repeated == [nullification]
    bench.hold(proposal)
    repeated = sent(bench.fire(Timer.REBROADCAST), Certificate)
    assert [certificate.kind for certificate in repeated] == [N]


def test_a_missing_block_is_asked_for_again_in_every_view():
    """Others leave view after view before we repeat anything."""
    bench = Bench()
    proposal = bench.proposal()
    asked = find(bench.hear(bench.certify(N, proposal)), fx.FetchBlock)
    assert [effect.proposal for effect in asked] == [proposal]
    for view in (1, 2):
        effects = bench.hear(bench.certify(X, view))
        asked = find(effects, fx.FetchBlock)
        assert [effect.proposal for effect in asked] == [proposal]
