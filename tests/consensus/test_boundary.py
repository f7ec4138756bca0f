"""The end of an epoch: its last block is repeated until it is final."""

import msgspec
import pytest
from consensus_bench import (
    GENESIS,
    Bench,
    assert_durable,
    find,
    make_hash,
    reasons,
    sent,
)

from consensus import effects as fx
from consensus import events as ev
from consensus.effects import Reason
from consensus.events import Timer
from consensus.messages import Certificate, Finalize, Kind, Notarize, Nullify, Propose

N, X, F = Kind.NOTARIZATION, Kind.NULLIFICATION, Kind.FINALIZATION


def change(record, **fields):
    return msgspec.structs.replace(record, **fields)


def make_boundary(**options):
    """Return a bench whose epoch has one block, and that block, certified in view 1."""
    bench = Bench(last_height=1, **options)
    block = bench.proposal(1)
    bench.hear(bench.propose(block))
    bench.hold(block)
    bench.hear(bench.certify(N, block))
    assert bench.core.view == 2
    return bench, block


def find_own_view(bench, start):
    view = start
    while bench.leader(view) != bench.me:
        view += 1
    return view


def skip_to(bench, view):
    """Nullify views until `view` is the present one; return the nullifications."""
    skipped = [bench.certify(X, v) for v in range(bench.core.view, view)]
    bench.hear(*skipped)
    assert bench.core.view == view
    return skipped


# Followers


def test_a_held_boundary_is_notarized_again_at_once():
    bench, block = make_boundary()
    repeat = bench.repeat(block, 2)
    effects = bench.hear(bench.propose(repeat, [bench.certify(N, block)]))
    assert_durable(effects)
    assert not find(effects, fx.CheckBlock)
    assert sent(effects, Notarize) == [bench.notarize(bench.me, repeat)]


def test_a_repetition_brings_bytes_that_were_missing():
    bench = Bench(last_height=1)
    block = bench.proposal(1)
    bench.hear(bench.certify(X, 1))
    repeat = bench.repeat(block, 2)
    effects = bench.hear(bench.propose(repeat, [bench.certify(N, block)]))
    assert find(effects, fx.FetchBlock)
    [check] = find(effects, fx.CheckBlock)
    assert check.proposal == repeat
    # The shell judges the block as what its header says, and answers with that.
    effects = bench.hold(block)
    assert sent(effects, Notarize) == [bench.notarize(bench.me, repeat)]


def test_a_repetition_of_a_repetition():
    bench, block = make_boundary()
    once = bench.repeat(block, 2)
    bench.hear(bench.certify(N, once))
    assert bench.core.view == 3
    twice = bench.repeat(once, 3)
    effects = bench.hear(bench.propose(twice, [bench.certify(N, once)]))
    if bench.leader(3) != bench.me:
        assert sent(effects, Notarize)


def test_a_repetition_over_nullified_views():
    bench, block = make_boundary()
    repeat = bench.repeat(block, 4)
    just = [bench.certify(N, block), bench.certify(X, 2), bench.certify(X, 3)]
    effects = bench.hear(bench.propose(repeat, just))
    assert bench.core.view == 4
    if bench.leader(4) != bench.me:
        assert sent(effects, Notarize)


def test_a_finalization_of_any_view_makes_the_block_final():
    bench, block = make_boundary()
    repeat = bench.repeat(block, 2)
    bench.hear(bench.propose(repeat, [bench.certify(N, block)]))
    effects = bench.hear(*(bench.notarize(i, repeat) for i in bench.others[:2]))
    assert sent(effects, Finalize) == [bench.finalize(bench.me, repeat)]
    effects = bench.hear(*(bench.finalize(i, repeat) for i in bench.others[:2]))
    [decision] = find(effects, fx.Decide)
    assert decision.certificate.proposal == repeat
    assert bench.core.is_over


def test_certificates_of_several_views_wait_for_one_block():
    bench = Bench(last_height=1)
    block = bench.proposal(1)
    repeat = bench.repeat(block, 2)
    bench.hear(bench.certify(N, block), bench.certify(N, repeat))
    assert bench.core.view == 1
    effects = bench.hold(block)
    assert bench.core.view == 3
    assert {vote.proposal for vote in sent(effects, Finalize)} == {block, repeat}


BAD = {
    "a child of the boundary": lambda b, p, r: b.proposal(2, p),
    "another block as the boundary": lambda b, p, r: change(
        r, block_hash=make_hash("other")
    ),
    "a repetition of another block": lambda b, p, r: change(
        r, block_hash=make_hash("other"), parent_hash=make_hash("other")
    ),
    "a higher place": lambda b, p, r: change(r, height=2),
    "a lower place": lambda b, p, r: change(r, height=0),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_repetition_costs_the_leader_its_view(name):
    bench, block = make_boundary()
    bad = BAD[name](bench, block, bench.repeat(block, 2))
    effects = bench.hear(bench.propose(bad, [bench.certify(N, block)]))
    assert reasons(effects) == [Reason.BAD_PROPOSAL]
    if bench.leader(2) != bench.me:
        assert sent(effects, Nullify)
    assert not sent(effects, Notarize)


def test_below_the_boundary_nothing_is_repeated():
    bench = Bench(last_height=2)
    block = bench.proposal(1)
    bench.hear(bench.propose(block))
    bench.hold(block)
    bench.hear(bench.certify(N, block))
    repeat = bench.repeat(block, 2)
    effects = bench.hear(bench.propose(repeat, [bench.certify(N, block)]))
    assert reasons(effects) == [Reason.BAD_PROPOSAL]


def test_the_root_is_not_repeated():
    bench = Bench(last_height=2)
    repeat = change(bench.proposal(1), block_hash=GENESIS, height=0)
    assert reasons(bench.hear(bench.propose(repeat))) == [Reason.BAD_PROPOSAL]


@pytest.mark.parametrize("views", [(), (2,), (3,), (2, 2), (3, 2)])
def test_a_repetition_over_a_gap_is_refused(views):
    bench, block = make_boundary()
    just = [bench.certify(N, block), *(bench.certify(X, view) for view in views)]
    effects = bench.hear(bench.propose(bench.repeat(block, 4), just))
    assert reasons(effects) == [Reason.BAD_JUST]


def test_a_repetition_without_the_certificate_is_refused():
    bench, block = make_boundary()
    false = change(bench.certify(N, block), signature=bytes(96))
    for just in ((), (bench.certify(X, 1),), (false,)):
        effects = bench.hear(bench.propose(bench.repeat(block, 2), just))
        assert reasons(effects) == [Reason.BAD_JUST]


def test_mismatched_bytes_of_a_repetition_leave_room_for_a_copy():
    bench = Bench(last_height=1)
    block = bench.proposal(1)
    bench.hear(bench.certify(X, 1))
    propose = bench.propose(bench.repeat(block, 2), [bench.certify(N, block)])
    bench.hear(propose)
    bench.handle(ev.BlockMismatched(propose.notarize.proposal))
    assert find(bench.hear(propose), fx.CheckBlock)
    assert sent(bench.hold(block), Notarize)


def test_held_bytes_are_judged_again_as_another_proposal():
    """Only a repetition makes a block nothing new; a leader's lie does."""
    bench = Bench(last_height=5)
    block = bench.proposal(1)
    bench.hear(bench.propose(block))
    bench.hold(block)
    bench.hear(bench.certify(X, 1))
    again = change(block, view=2)
    effects = bench.hear(bench.propose(again, [bench.certify(X, 1)]))
    assert not sent(effects, Notarize)
    assert find(effects, fx.CheckBlock)[0].proposal == again
    effects = bench.handle(ev.BlockRefused(again))
    if bench.leader(2) != bench.me:
        assert sent(effects, Nullify)


# The leader


def test_the_leader_loads_the_boundary_and_repeats_it():
    bench, block = make_boundary()
    view = find_own_view(bench, 2)
    skipped = skip_to(bench, view)
    [load] = find(bench.handle(ev.ProposalDue(view)), fx.LoadBlock)
    assert load == fx.LoadBlock(view, block.block_hash)
    effects = bench.handle(ev.BlockBuilt(view, block.block_hash, b"bytes", 1))
    assert_durable(effects)
    [propose] = sent(effects, Propose)
    assert propose.notarize.proposal == bench.repeat(block, view)
    assert propose.just == (bench.certify(N, block), *skipped)
    assert propose.block == b"bytes"


def test_the_leader_waits_for_the_boundarys_time_before_it_repeats():
    """In the normal course it is final by then."""
    bench, block = make_boundary()
    view = find_own_view(bench, 2)
    effects = []
    for skipped in range(2, view):
        effects += bench.hear(bench.certify(X, skipped))
    planned = find(bench.first + effects, fx.ScheduleProposal)
    if view > 2:
        assert planned[-1] == fx.ScheduleProposal(view, block.block_hash)
    bench.hear(bench.certify(F, block))
    assert bench.handle(ev.ProposalDue(view)) == []


def test_the_leader_ignores_a_block_that_repeats_nothing():
    bench, block = make_boundary()
    view = find_own_view(bench, 2)
    skip_to(bench, view)
    bench.handle(ev.ProposalDue(view))
    for block_hash, height in ((make_hash("new"), 2), (block.block_hash, 2)):
        effects = bench.handle(ev.BlockBuilt(view, block_hash, b"bytes", height))
        assert not sent(effects)


# The end


def test_after_the_end_nothing_more_is_said():
    bench, block = make_boundary()
    bench.hear(bench.certify(F, block))
    assert bench.core.is_over
    repeat = bench.repeat(block, 2)
    messages = [
        bench.propose(repeat, [bench.certify(N, block)]),
        bench.certify(N, repeat),
        bench.certify(X, 2),
        bench.notarize(0, repeat),
        bench.nullify(bench.leader(2), 2),
    ]
    for message in messages:
        assert reasons(bench.hear(message)) == [Reason.OTHER_EPOCH]
    silent = [bench.fire(timer) for timer in Timer]
    silent += [bench.hold(block), bench.handle(ev.ProposalDue(2))]
    silent.append(bench.handle(ev.BlockBuilt(2, block.block_hash, b"bytes", 1)))
    assert silent == [[]] * len(silent)


def test_the_end_stops_what_the_same_message_would_have_caused():
    """A proposal whose `just` ends the epoch gets no vote."""
    bench, block = make_boundary()
    repeat = bench.repeat(block, 2)
    effects = bench.hear(bench.propose(repeat, [bench.certify(F, block)]))
    assert bench.core.is_over
    assert not sent(effects, Notarize | Nullify | Finalize)
    assert not find(effects, fx.SetTimer)


def test_restart_before_the_end_repeats_the_boundary():
    """All crash after the boundary was certified and before it was final."""
    bench, block = make_boundary()
    bench.restart(held={block.block_hash})
    assert bench.core.view == 2
    bench.hear(bench.certify(X, 2))
    repeat = bench.repeat(block, 3)
    just = [bench.certify(N, block), bench.certify(X, 2)]
    effects = bench.hear(bench.propose(repeat, just))
    if bench.leader(3) != bench.me:
        assert sent(effects, Notarize)
    effects = bench.hear(bench.certify(N, repeat))
    assert sent(effects, Certificate | Finalize)
