"""One key from epoch to epoch: what it may sign follows from its log."""

import pytest
from consensus_bench import (
    FAR,
    PEER,
    Bench,
    Lifebench,
    assert_durable,
    find,
    make_hash,
    reasons,
    sent,
)

from consensus import effects as fx
from consensus import events as ev
from consensus.early import MAX_PER_SENDER, MAX_PROPOSES, EarlyMessages
from consensus.effects import Reason
from consensus.events import Timer
from consensus.messages import Finalize, Kind, Notarize, Nullify, Propose, get_view
from consensus.participant import LOST_LOG_WAIT_MS, Mute
from consensus.records import Floor, get_place

N, X, F = Kind.NOTARIZATION, Kind.NULLIFICATION, Kind.FINALIZATION
VOTE = Notarize | Nullify | Finalize


def vote_in(bench, view=None):
    """Let the present view pass until we nullify it; return what was signed."""
    return sent(bench.fire(Timer.ADVANCE, view), Nullify)


# From epoch to epoch


def test_an_epoch_begins_in_view_1():
    bench = Lifebench()
    boundary = bench.finish_epoch()
    assert not sent(bench.fire(Timer.ADVANCE))
    effects = bench.begin_epoch(boundary.block_hash)
    assert (bench.core.epoch.epoch, bench.core.view) == (1, 1)
    assert not bench.core.is_over
    timers = {effect.timer: effect.view for effect in find(effects, fx.SetTimer)}
    assert timers == {Timer.LEADER: 1, Timer.ADVANCE: 1}
    effects = bench.hear(bench.propose())
    effects += bench.hold(bench.proposal())
    if bench.leader(1) != bench.me:
        assert sent(effects, Notarize)[0].proposal.parent_view == 0


def test_an_epoch_does_not_begin_twice_nor_go_back():
    bench = Lifebench()
    bench.finish_epoch()
    bench.begin_epoch()
    bench.hear(bench.certify(X, 1))
    event = ev.EpochBegun(bench.epoch_config, bench.root)
    assert bench.handle(event) == []
    assert bench.core.view == 2


def test_timers_of_the_epoch_before_do_nothing():
    bench = Lifebench()
    for view in (1, 2, 3):
        bench.hear(bench.certify(X, view))
    bench.fire(Timer.ADVANCE)
    bench.begin_epoch()
    for view in (1, 2, 3):
        bench.hear(bench.certify(X, view))
    assert bench.fire(Timer.REBROADCAST) == []


def test_late_answers_of_the_epoch_before_do_nothing():
    bench = Lifebench()
    old = bench.proposal(1)
    bench.hear(bench.propose(old))
    bench.begin_epoch()
    for event in (ev.BlockAdded, ev.BlockRefused, ev.BlockMismatched):
        assert bench.handle(event(old)) == []


def test_signatures_of_one_epoch_are_none_in_another():
    bench = Lifebench()
    signature = bench.nullify(bench.leader(1), 1).signature
    bench.begin_epoch()
    replayed = Nullify(1, 1, bench.leader(1), signature)
    assert reasons(bench.hear(replayed)) == [Reason.BAD_SIGNATURE]


def test_who_is_ahead_tells_a_straggler():
    bench = Lifebench()
    old = [bench.nullify(0, 3), bench.certify(X, 3), bench.propose()]
    end = bench.certify(F, bench.finish_epoch())
    bench.begin_epoch(end.proposal.block_hash)
    for message in old:
        effects = bench.hear(message)
        assert reasons(effects) == [Reason.OTHER_EPOCH]
        assert find(effects, fx.TellEpochEnd) == [fx.TellEpochEnd(PEER, 0)]
    # The very answer is no question.
    assert not find(bench.hear(end), fx.TellEpochEnd)


def test_who_is_behind_asks():
    bench = Lifebench()
    bench.epoch = 3
    message = bench.nullify(0, 1)
    effects = bench.hear(message)
    assert reasons(effects) == [Reason.OTHER_EPOCH]
    assert find(effects, fx.CatchUp) == [fx.CatchUp(PEER, 3)]


def test_messages_of_the_next_epoch_are_not_lost():
    """A leader that is an instant ahead proposes before we are there."""
    bench = Lifebench()
    boundary = bench.finish_epoch()
    ahead = Lifebench(listens=True)
    ahead.begin_epoch(boundary.block_hash)
    propose, late = ahead.propose(), ahead.nullify(0, 5)
    effects = bench.hear(propose, late)
    assert reasons(effects) == [Reason.OTHER_EPOCH] * 2
    assert not find(effects, fx.CatchUp)
    effects = bench.begin_epoch(boundary.block_hash)
    assert find(effects, fx.CheckBlock)[0].proposal == propose.notarize.proposal
    assert reasons(effects) == [Reason.EARLY]
    if bench.leader(1) != bench.me:
        assert sent(bench.hold(propose.notarize.proposal), Notarize)


def test_early_messages_are_few():
    bench = Bench()
    early = EarlyMessages()
    for view in range(1, 20):
        early.add(bench.nullify(0, view), b"one")
        early.add(bench.propose(bench.proposal(view)), b"one")
        early.add(bench.nullify(0, 1), b"one")
    taken = early.take()
    kinds = [isinstance(received.message, Propose) for received in taken]
    assert (kinds.count(True), kinds.count(False)) == (1, MAX_PER_SENDER - 1)
    assert early.take() == []
    for number in range(9):
        early.add(bench.propose(), b"%d" % number)
    assert len(early.take()) == MAX_PROPOSES


def test_without_a_seat_one_listens_and_with_one_votes_again():
    bench = Lifebench()
    everybody = bench.config.validators
    others = type(everybody)(
        tuple(v for i, v in enumerate(everybody.validators) if i != bench.me)
    )
    bench.config = type(bench.config)(
        **{f: getattr(bench.config, f) for f in bench.config.__slots__}
        | {"validators": others}
    )
    bench.begin_epoch()
    assert bench.core.index is None
    assert not bench.core.is_voting
    assert not vote_in(bench)


# The log reaches further than the chain


def make_log():
    """Return a bench that voted in epochs 0 and 1."""
    bench = Lifebench()
    vote_in(bench)
    bench.finish_epoch()
    bench.begin_epoch()
    bench.hear(bench.certify(X, 1), bench.certify(X, 2))
    assert vote_in(bench)
    return bench


def test_a_replayed_chain_is_followed_in_silence():
    before = make_log()
    bench = Lifebench(log=before.log)
    assert bench.core.mute is Mute.REPLAY
    assert not bench.core.is_voting
    # What it said before it may say again, and nothing else.
    assert set(sent(bench.first, VOTE)) <= set(before.log)
    assert not vote_in(bench)
    bench.finish_epoch()
    effects = bench.begin_epoch()
    assert bench.core.mute is None
    assert bench.core.view == 3
    # It says again what it said, with the same bytes, and nothing else in that view.
    [vote] = sent(effects, VOTE)
    assert vote == before.nullify(before.me, 3)
    assert not vote_in(bench)
    bench.hear(bench.certify(X, 3))
    assert vote_in(bench)


def test_a_shorter_log_forgets_earlier_epochs_and_binds_as_much():
    bench = make_log()
    retained = bench.core.get_retained_records()
    assert retained[0] == Floor(1, 0)
    assert all(get_place(record)[0] == 1 for record in retained)
    again = Lifebench(log=retained)
    assert again.core.mute is Mute.REPLAY
    again.finish_epoch()
    effects = again.begin_epoch()
    assert sent(effects, VOTE) == [bench.nullify(bench.me, 3)]


def test_a_replaying_log_is_shortened_by_nothing():
    before = make_log()
    bench = Lifebench(log=before.log)
    assert bench.core.get_retained_records() == before.log


def test_nothing_is_signed_at_or_below_the_floor():
    bench = Lifebench(log=[Floor(0, 3)])
    for view in (1, 2, 3):
        assert bench.core.view == view
        assert not vote_in(bench)
        effects = bench.hear(bench.propose())
        effects += bench.hold(bench.proposal())
        bench.hear(bench.certify(X, view))
        assert not sent(effects, VOTE)
    assert vote_in(bench)


def test_a_floor_of_an_earlier_epoch_binds_no_later_one():
    bench = Lifebench(log=[Floor(0, 9)])
    bench.finish_epoch()
    bench.begin_epoch()
    assert vote_in(bench)


def test_compaction_raises_the_floor_to_the_tip():
    """Votes below the tip may be gone, and the chain may be wiped after that."""
    bench = Lifebench(epoch_blocks=40)
    parent = None
    for view in range(1, 15):
        proposal = bench.proposal(view, parent)
        bench.hear(bench.certify(N, proposal))
        bench.hold(proposal)
        bench.hear(bench.certify(F, proposal))
        parent = proposal
    retained = bench.core.get_retained_records()
    assert retained[0] == Floor(0, 14)
    signed = {get_view(record)[1] for record in bench.log if isinstance(record, VOTE)}
    kept = {get_view(record)[1] for record in retained if isinstance(record, VOTE)}
    assert 2 in signed - kept
    wiped = Lifebench(epoch_blocks=40, log=retained)
    assert not vote_in(wiped)
    wiped.hear(bench.certify(N, bench.proposal(2)))
    effects = wiped.hold(bench.proposal(2))
    assert not sent(effects, Finalize)


# A lost log


def test_a_lost_log_is_silent_until_an_epoch_is_young_enough():
    bench = Lifebench(lost_at_ms=50_000)
    assert bench.core.mute is Mute.LOST_LOG
    assert not vote_in(bench)
    limit = 50_000 + LOST_LOG_WAIT_MS
    assert bench.handle(ev.FirstBlockFinal(0, limit)) == []
    bench.finish_epoch()
    bench.begin_epoch()
    assert bench.handle(ev.FirstBlockFinal(0, limit + 99)) == []
    assert bench.handle(ev.FirstBlockFinal(1, limit)) == []
    bench.hear(bench.certify(X, 1))
    assert bench.handle(ev.FirstBlockFinal(1, limit + 1)) == [fx.BeginLog(Floor(1, 2))]
    assert bench.core.mute is None
    assert not vote_in(bench)
    effects = bench.hear(bench.certify(X, 2))
    assert bench.core.view == 3
    assert vote_in(bench)
    assert bench.handle(ev.FirstBlockFinal(1, limit + 2)) == []
    assert_durable(effects)


def test_a_lost_log_begins_below_nothing_that_it_holds():
    bench = Lifebench(lost_at_ms=0)
    bench.finish_epoch()
    bench.begin_epoch()
    bench.hear(bench.certify(X, 1))
    [begin] = bench.handle(ev.FirstBlockFinal(1, LOST_LOG_WAIT_MS + 1))
    bench.hear(bench.certify(X, 2))
    assert vote_in(bench)
    again = Lifebench(log=[begin.floor, *bench.log])
    again.finish_epoch()
    effects = again.begin_epoch(bench.root.block_hash)
    assert again.core.view == 3
    assert sent(effects, Nullify) == [bench.nullify(bench.me, 3)]


def test_a_lost_log_begins_in_no_epoch_that_it_may_have_voted_in():
    """However far our clock was behind at the start: the chain knows better."""
    bench = Lifebench(lost_at_ms=0)
    bench.hear(bench.certify(X, 1))
    assert bench.handle(ev.FirstBlockFinal(0, FAR)) == []
    assert bench.core.mute is Mute.LOST_LOG
    bench.finish_epoch()
    bench.begin_epoch()
    assert bench.handle(ev.FirstBlockFinal(1, FAR)) == [fx.BeginLog(Floor(1, 1))]


def test_a_listener_has_no_log_to_lose():
    bench = Lifebench(lost_at_ms=0, listens=True)
    assert bench.core.mute is None
    assert bench.handle(ev.FirstBlockFinal(0, FAR)) == []


def test_no_log_begins_while_an_epoch_ends():
    bench = Lifebench(lost_at_ms=0)
    bench.finish_epoch()
    assert bench.handle(ev.FirstBlockFinal(0, FAR)) == []
    bench.begin_epoch()
    assert bench.core.mute is Mute.LOST_LOG


@pytest.mark.parametrize("size", [1, 4])
def test_a_whole_epoch_of_votes_reaches_the_next(size):
    """With real votes of everybody, not with ready certificates."""
    bench = Lifebench(size=size)
    for epoch in range(3):
        parent = None
        while not bench.core.is_over:
            view = bench.core.view
            proposal = bench.proposal(view, parent)
            if bench.leader(view) == bench.me:
                bench.handle(ev.ProposalDue(view))
                height = proposal.height
                bench.handle(ev.BlockBuilt(view, proposal.block_hash, b"block", height))
            else:
                just = [bench.certify(N, parent)] if parent else []
                bench.hear(bench.propose(proposal, just))
                bench.hold(proposal)
            bench.hear(*(bench.notarize(i, proposal) for i in bench.others))
            bench.hear(*(bench.finalize(i, proposal) for i in bench.others))
            parent = proposal
        assert parent.height == 2 * (epoch + 1)
        bench.begin_epoch(parent.block_hash)
    assert make_hash("root 1") != bench.root.block_hash
