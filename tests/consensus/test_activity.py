"""R8: waiting longer after nullified views, and not at all for the silent."""

import pytest
from consensus_bench import PARAMS, Bench, find, sent

from consensus import effects as fx
from consensus.activity import MAX_NAMED_VIEWS, SILENT_VIEWS, VIEWS_BEHIND, Activity
from consensus.events import Timer
from consensus.messages import Kind, Notarize, Nullify
from consensus.params import MAX_BACKOFF, compute_backoff

N, X, F = Kind.NOTARIZATION, Kind.NULLIFICATION, Kind.FINALIZATION


# Back-off


@pytest.mark.parametrize(
    ("nullified", "factor"),
    [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 16), (100, 16), (10**9, 16)],
)
def test_factor_doubles_up_to_a_cap(nullified, factor):
    assert compute_backoff(nullified) == factor


def get_delays(effects):
    return {effect.timer: effect.delay_ms for effect in find(effects, fx.SetTimer)}


def test_delta_doubles_and_the_interval_does_not():
    bench = Bench()
    for view in range(1, 8):
        delays = get_delays(bench.hear(bench.certify(X, view)))
        delta = min(2**view, MAX_BACKOFF) * PARAMS.delta_ms
        rest = PARAMS.interval_ms + PARAMS.build_ms
        assert delays[Timer.LEADER] == rest + 2 * delta
        assert delays[Timer.ADVANCE] == rest + 3 * delta


def test_a_notarized_view_ends_the_back_off():
    bench = Bench()
    bench.hear(bench.certify(X, 1), bench.certify(X, 2))
    block = bench.proposal(3)
    bench.hear(bench.certify(N, block))
    assert get_delays(bench.hold(block))[Timer.LEADER] == 2_500
    # Nullified as well, as it may be; it brought a block.
    bench.hear(bench.certify(X, 3))
    assert get_delays(bench.hear(bench.certify(X, 4)))[Timer.LEADER] == 3_500


def test_views_that_were_jumped_over_do_not_count():
    bench = Bench()
    assert get_delays(bench.hear(bench.certify(X, 40)))[Timer.LEADER] == 3_500


def test_back_off_outlives_a_restart():
    bench = Bench()
    for view in (1, 2, 3):
        bench.hear(bench.certify(X, view))
    assert get_delays(bench.restart())[Timer.LEADER] == 9_500


# The silent


def pass_views(bench, silent, count, start=1):
    """Let views pass by everybody's Nullify votes, but for one; return the effects."""
    by_view = {}
    for view in range(start, start + count):
        assert bench.core.view == view
        voters = [i for i in bench.others if i not in silent]
        effects = bench.hear(*(bench.nullify(i, view) for i in voters))
        if bench.core.view == view:
            effects += bench.fire(Timer.ADVANCE)
        if bench.core.view == view:
            effects += bench.hear(bench.certify(X, view))
        by_view[view] = effects
    return by_view


def get_nullified_on_entering(bench, silent):
    """Return the views of `silent` that were nullified when they were entered."""
    skipped = []
    for view in range(1, 60):
        if bench.core.view > view:
            continue
        effects = pass_views(bench, {silent}, 1, view)[view]
        entered = bench.core.view
        if any(vote.view == entered for vote in sent(effects, Nullify)):
            skipped.append(entered)
    return skipped


def test_a_silent_leader_is_skipped_after_ten_views_and_nobody_else():
    bench = Bench(size=5)
    silent = bench.others[0]
    skipped = get_nullified_on_entering(bench, silent)
    led = [view for view in range(1, 60) if bench.leader(view) == silent]
    assert skipped
    assert skipped == [view for view in led if view > SILENT_VIEWS]


def test_a_word_of_any_kind_ends_the_silence():
    bench = Bench(size=5)
    silent = bench.others[0]
    view = next(v for v in range(12, 99) if bench.leader(v) == silent)
    pass_views(bench, {silent}, view - 2)
    bench.hear(bench.notarize(silent, bench.proposal(view - 1)))
    effects = pass_views(bench, {silent}, 1, view - 1)[view - 1]
    assert bench.core.view == view
    assert not [vote for vote in sent(effects, Nullify) if vote.view == view]


def test_a_signature_in_a_certificate_is_a_word():
    bench = Bench(size=5)
    silent = bench.others[0]
    view = next(v for v in range(12, 99) if bench.leader(v) == silent)
    pass_views(bench, {silent}, view - 2)
    signers = [silent, *bench.others[1:]]
    effects = bench.hear(bench.certify(X, view - 1, signers))
    assert bench.core.view == view
    assert not sent(effects, Nullify)


def test_our_own_view_is_never_skipped():
    bench = Bench()
    for view in range(1, 40):
        effects = bench.hear(*(bench.nullify(i, view) for i in bench.others))
        if bench.core.view != view + 1:
            effects += bench.hear(bench.certify(X, view))
        if bench.leader(view + 1) == bench.me:
            assert not [v for v in sent(effects, Nullify) if v.view == view + 1]


def test_a_leader_whose_proposal_is_here_already_is_not_silent():
    bench = Bench(size=5)
    silent = bench.others[0]
    view = next(v for v in range(12, 99) if bench.leader(v) == silent)
    pass_views(bench, {silent}, view - 2)
    # It comes with all that is needed to enter the view.
    just = [bench.certify(X, v) for v in range(1, view)]
    proposal = bench.proposal(view)
    effects = bench.hear(bench.propose(proposal, just))
    if bench.core.view == view:
        effects += bench.hold(proposal)
    nullified = [vote for vote in sent(effects, Nullify) if vote.view == view]
    assert bool(nullified) != bool(sent(effects, Notarize))


def test_views_without_a_quorum_do_not_count():
    bench = Bench()
    activity = Activity(bench.config.validators)
    for view in range(1, 30):
        activity.advance(view)
        activity.note_vote(view, 0)
        activity.note_vote(view, 1)
        assert not activity.is_silent(3, view + 1)
    for view in range(30, 40):
        activity.advance(view)
        for signer in (0, 1, 2):
            activity.note_vote(view, signer)
        assert not activity.is_silent(3, view)
    assert activity.is_silent(3, 40)
    assert not activity.is_silent(2, 40)
    activity.note_vote(33, 3)
    assert not activity.is_silent(3, 40)


def test_memory_is_bounded():
    bench = Bench()
    activity = Activity(bench.config.validators)
    for view in range(1, 2000):
        activity.advance(view)
        for signer in range(1 + view % 4):
            activity.note_vote(view, signer)
        activity.note_certificate(3 * view, [0, 1, 2])
        assert len(activity._voters) <= SILENT_VIEWS + VIEWS_BEHIND + 2
        assert len(activity._named) <= MAX_NAMED_VIEWS
