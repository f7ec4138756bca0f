"""Two signatures in each other's places: their sum verifies, and neither of them does.

Votes are verified in sums, so a villain that holds somebody's true vote can make both
pass.  The certificate is as good as any; what must not follow is that the two signers
are taken to have signed what stands in their names.
"""

from consensus_bench import CHAIN, Bench, find, reasons, sent

from consensus import effects as fx
from consensus import events as ev
from consensus.certificates import validate_certificate
from consensus.effects import Reason
from consensus.events import Timer
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Nullify,
    compute_notarize_bytes,
)
from consensus.validators import decode_bitmap


def swap(bench, proposal, one, two):
    """Return the votes of two signers, each with the other's signature."""
    first, second = (bench.notarize(signer, proposal) for signer in (one, two))
    return (
        Notarize(proposal, one, second.signature),
        Notarize(proposal, two, first.signature),
    )


def test_a_leader_whose_vote_was_swapped_is_no_equivocator():
    bench = Bench(size=7)
    proposal, leader = bench.proposal(), bench.leader(1)
    villain, *honest = [index for index in bench.others if index != leader]
    votes = [bench.notarize(signer, proposal) for signer in honest[:3]]
    effects = bench.hear(*votes, *swap(bench, proposal, leader, villain))
    assert len(sent(effects, Certificate)) == 1
    effects = bench.hear(bench.propose(proposal)) + bench.hold(proposal)
    assert find(effects, fx.Conflict) == []
    assert [vote.proposal for vote in sent(effects, Finalize)] == [proposal]


def test_who_swapped_is_found_when_the_true_vote_comes():
    bench = Bench(size=7)
    proposal, leader = bench.proposal(), bench.leader(1)
    bench.hear(bench.propose(proposal))
    bench.hold(proposal)
    villain, victim, other, *_ = [i for i in bench.others if i != leader]
    bench.hear(bench.notarize(other, proposal))
    effects = bench.hear(*swap(bench, proposal, villain, victim))
    assert len(sent(effects, Certificate)) == 1
    effects = bench.hear(bench.notarize(victim, proposal))
    assert find(effects, fx.Conflict) == []
    assert reasons(effects) == [Reason.BAD_SIGNATURE]


def test_an_attendance_holds_though_votes_were_swapped():
    """The certificate counts one of the two seats; the other must not be added."""
    bench = Bench(size=7)
    just = []
    while bench.leader(bench.core.view + 1) != bench.me:
        just.append(bench.certify(Kind.NULLIFICATION, bench.core.view))
        bench.hear(just[-1])
    view = bench.core.view
    proposal = bench.proposal()
    bench.hear(bench.propose(proposal, just))
    bench.hold(proposal)
    victim, villain, *rest = [i for i in bench.others if i != bench.leader(view)]
    signers = [victim, bench.leader(view), *rest]
    bench.hear(bench.certify(Kind.NOTARIZATION, proposal, signers))
    bench.hear(*swap(bench, proposal, victim, villain))
    (build,) = find(bench.handle(ev.ProposalDue(view + 1)), fx.BuildBlock)
    validators = bench.config.validators
    signed = decode_bitmap(build.bitmap, len(validators))
    assert {*signers, bench.me} <= set(signed)
    keys = validators.get_public_keys(signed)
    message = compute_notarize_bytes(CHAIN, proposal)
    assert bench.scheme.fast_aggregate_verify(keys, message, build.signature)


def test_a_sum_is_verified_again_without_one_of_its_votes():
    """Too few are left once a forged vote is out; then one of the swapped ones goes."""
    bench = Bench(size=7)
    view = bench.core.view
    bench.fire(Timer.LEADER)
    victim, villain, other, forger, *rest = [
        i for i in bench.others if i != bench.leader(view)
    ]
    true = {i: bench.nullify(i, view) for i in (victim, villain)}
    bench.hear(
        Nullify(0, view, victim, true[villain].signature),
        Nullify(0, view, villain, true[victim].signature),
        bench.nullify(other, view),
        Nullify(0, view, forger, bytes(96)),
    )
    bench.hear(true[victim])
    effects = bench.hear(*(bench.nullify(i, view) for i in rest))
    effects += bench.hear(bench.nullify(bench.leader(view), view))
    for certificate in sent(effects, Certificate):
        validate_certificate(certificate, bench.config.validators, CHAIN, bench.scheme)
    assert sent(effects, Certificate)
