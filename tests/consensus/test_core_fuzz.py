"""Any sequence of events, true and false: no exception, no lie, bounded memory."""

import msgspec
from consensus_bench import Lifebench, assert_durable, find
from hypothesis import given
from hypothesis import strategies as st

from consensus import effects as fx
from consensus import events as ev
from consensus.early import MAX_MESSAGES
from consensus.events import Timer
from consensus.messages import Finalize, Kind, Notarize, Nullify, get_view

N, X, F = Kind.NOTARIZATION, Kind.NULLIFICATION, Kind.FINALIZATION
SIZE = 4
MAX_POOLED = 10 * 3 * 2 * SIZE
EPOCH_BLOCKS = 2

STEPS = (
    *("propose", "repeat", "N", "X", "F", "notarize", "nullify", "finalize"),
    *("hold", "refuse", "mismatch", "leader", "advance", "rebroadcast", "due"),
    *("built", "loaded", "restart", "epoch", "first", "foreign", "foreign propose"),
)

steps = st.lists(
    st.tuples(
        st.sampled_from(STEPS),
        st.integers(0, SIZE),
        st.integers(1, 6),
        st.integers(0, 4),
        st.sampled_from(["a", "b"]),
        st.booleans(),
    ),
    max_size=40,
)


@given(steps, st.none() | st.just(0))
def test_any_sequence_keeps_the_promises(sequence, lost_at_ms):
    bench = Lifebench(epoch_blocks=EPOCH_BLOCKS, lost_at_ms=lost_at_ms)
    place, signed = (0, 1), {}
    for what, signer, view, back, name, is_true in sequence:
        parent = bench.proposal(back, name="a") if 0 < back < view else None
        proposal = bench.proposal(view, parent, name)
        effects = perform(bench, what, signer, proposal, is_true)
        assert_durable(effects)
        for begun in find(effects, fx.BeginLog):
            assert not [r for r in bench.log if isinstance(r, Notarize | Nullify)]
            bench.given_log, bench.lost_at_ms = [begun.floor], None
        now = bench.core.epoch.epoch, bench.core.view
        if what != "restart":
            assert now >= place
        place = now
        judge(bench, signed)
    assert bench.core.core.pooled_votes <= MAX_POOLED


def judge(bench, signed):
    """Hold what the log got against what it has; check that memory is bounded."""
    for vote in bench.log:
        if isinstance(vote, Notarize | Nullify | Finalize):
            assert vote.signer == bench.core.index
            key = type(vote), get_view(vote)
            assert signed.setdefault(key, vote) == vote
    for kind, where in signed:
        assert kind is not Nullify or (Finalize, where) not in signed
    core = bench.core.core
    assert core.pooled_votes <= MAX_POOLED
    assert len(bench.core._early._messages) <= MAX_MESSAGES
    assert len(core._activity._voters) <= 20


def perform(bench, what, signer, proposal, is_true):
    view, just = proposal.view, []
    if proposal.parent_view:
        parent = bench.proposal(proposal.parent_view, name="a")
        just.append(bench.certify(N, parent))
    just += [bench.certify(X, v) for v in range(proposal.parent_view + 1, view)]
    # Certificates come only of honest quorums: of "a" and, beside it, of X.
    real = bench.proposal(view, name="a") if not proposal.parent_view else proposal
    match what:
        case "restart":
            return bench.restart(held={proposal.block_hash})
        case "epoch":
            if bench.core.is_over:
                return bench.begin_epoch(bench.core.book.tip.block_hash)
            return bench.handle(ev.EpochBegun(bench.core.epoch, bench.root))
        case "first":
            time_ms = 20_000 if is_true else 9_000
            return bench.handle(ev.FirstBlockFinal(bench.epoch, time_ms))
        case "leader" | "advance" | "rebroadcast":
            return bench.fire(Timer(what))
        case "due":
            return bench.handle(ev.ProposalDue(view))
        case "built":
            event = ev.BlockBuilt(view, proposal.block_hash, b"block", proposal.height)
            return bench.handle(event)
        case "loaded":
            block_hash = proposal.parent_hash
            event = ev.BlockBuilt(view, block_hash, b"block", proposal.height - 1)
            return bench.handle(event)
        case "hold":
            return bench.hold(proposal)
        case "refuse":
            return bench.handle(ev.BlockRefused(proposal))
        case "mismatch":
            return bench.handle(ev.BlockMismatched(proposal))
    message = make_message(bench, what, min(signer, SIZE - 1), proposal, real, just)
    if signer == SIZE and hasattr(message, "signer"):
        message = msgspec.structs.replace(message, signer=SIZE)
    if not is_true and hasattr(message, "signature"):
        message = msgspec.structs.replace(message, signature=bytes(96))
    return bench.hear(message, sender=b"%d" % signer)


def make_message(bench, what, signer, proposal, real, just):
    view = proposal.view
    match what:
        case "propose":
            return bench.propose(proposal, just)
        case "repeat":
            certified = bench.proposal(1, name="a")
            skipped = [bench.certify(X, v) for v in range(2, view + 1)]
            repeat = bench.repeat(certified, view + 1)
            return bench.propose(repeat, [bench.certify(N, certified), *skipped])
        case "N":
            return bench.certify(N, real)
        case "X":
            return bench.certify(X, view)
        case "F":
            return bench.certify(F, real)
        case "notarize":
            return bench.notarize(signer, proposal)
        case "nullify":
            return bench.nullify(signer, view)
        case "finalize":
            return bench.finalize(signer, proposal)
    epoch = bench.epoch
    bench.epoch = (epoch + 1 + view) % 5
    foreign = bench.nullify(signer, view) if what == "foreign" else bench.propose()
    bench.epoch = epoch
    return foreign


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=60))
def test_spam_of_true_votes_fills_nothing(votes):
    """One validator votes for everything, everywhere, in two ways."""
    bench = Lifebench(epoch_blocks=2**40)
    cheat = bench.others[0]
    for kind, number in votes:
        view = number // 3 + 1
        proposal = bench.proposal(view, name="abc"[number % 3])
        vote = (
            bench.notarize(cheat, proposal),
            bench.nullify(cheat, view),
            bench.finalize(cheat, proposal),
            bench.propose(proposal, signer=cheat),
        )[kind]
        bench.hear(vote)
        assert bench.core.core.pooled_votes <= MAX_POOLED
    assert len(bench.core.core._state.rounds) <= 10
