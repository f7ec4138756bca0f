"""A crash at every byte of the log: what comes back never contradicts what was sent."""

import pytest
from consensus_bench import CHAIN, GENESIS, Bench, assert_durable, sent
from hypothesis import given
from hypothesis import strategies as st

from consensus import effects as fx
from consensus import events as ev
from consensus.book import Tip
from consensus.events import Timer
from consensus.messages import (
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Proposal,
    Propose,
    get_view,
)
from consensus.wal import encode_header, encode_records, scan_wal

N, X, F = Kind.NOTARIZATION, Kind.NULLIFICATION, Kind.FINALIZATION
KEY = b"k" * 48
LAST_HEIGHT = 5


class Life(Bench):
    """A bench with a log of bytes, that knows what left and what was durable then."""

    def __init__(self, data=None, held=(), tip=None, **options):
        self.data = data or encode_header(KEY, CHAIN)
        self.sent = []
        """(length of the log, vote), in order."""
        self.saved = {}
        """Length of the log at which each block was durable."""
        self.final = {}
        self.start_held, self.start_tip = held, tip
        super().__init__(last_height=LAST_HEIGHT, **options)

    def make_core(self, tip, held):
        self.log = list(scan_wal(self.data, KEY, CHAIN)[0])
        return super().make_core(self.start_tip or tip, self.start_held)

    def note(self, effects):
        assert_durable(effects)
        turn = [e.record for e in effects if isinstance(e, fx.Persist)]
        for effect in effects:
            if isinstance(effect, fx.SavePending):
                self.saved.setdefault(effect.block_hash, len(self.data))
        if turn:
            self.data += encode_records(turn)
        for message in sent(effects):
            vote = message.notarize if isinstance(message, Propose) else message
            if isinstance(vote, Notarize | Nullify | Finalize):
                self.sent.append((len(self.data), vote))
        for effect in effects:
            if isinstance(effect, fx.Decide):
                self.final[len(self.data)] = effect.certificate
        return super().note(effects)


def live_ten_views():
    """Let blocks, nullifications and a repeated boundary pass; return the bench."""
    life = Life()
    parent, pending = None, []
    for view in range(1, 11):
        assert life.core.view == view
        if view in (2, 5):
            life.fire(Timer.LEADER)
            pending.append(life.certify(X, view))
            life.hear(pending[-1])
            continue
        is_repeat = parent is not None and parent.height == LAST_HEIGHT
        proposal = (
            life.repeat(parent, view) if is_repeat else life.proposal(view, parent)
        )
        just = ([life.certify(N, parent)] if parent else []) + pending
        if life.leader(view) == life.me:
            life.handle(ev.ProposalDue(view))
            life.handle(
                ev.BlockBuilt(view, proposal.block_hash, b"block", proposal.height)
            )
        else:
            life.hear(life.propose(proposal, just))
            life.hold(proposal)
        if view == 7:
            # Too slow: nullified after all, and certified all the same.
            life.fire(Timer.ADVANCE)
        life.hear(life.certify(N, proposal))
        life.hold(proposal)
        if view in (3, 4):
            life.hear(life.certify(F, proposal))
        parent, pending = proposal, []
    assert parent.height == LAST_HEIGHT
    assert parent.is_repeat
    return life


LIFE = live_ten_views()
ENDS = sorted({end for end, _ in LIFE.sent})


def contradicts(one: object, two: object) -> bool:
    """Tell whether two votes of one signer convict it."""
    if get_view(one) != get_view(two) or one == two:
        return False
    kinds = {type(one), type(two)}
    return len(kinds) == 1 or kinds == {Finalize, Nullify}


def provoke(life):
    """Tempt a core to vote otherwise: in every view, for other blocks, by timers."""
    for view in range(1, 14):
        for name in ("twin", "block"):
            proposal = life.proposal(view, name=name)
            just = [life.certify(X, v) for v in range(1, view)]
            life.hear(life.propose(proposal, just))
            life.hold(proposal)
        for timer in Timer:
            life.fire(timer)
        twin = life.proposal(view, name="twin")
        if view not in life.core.book.notarizations:
            life.hear(life.certify(N, twin))
            life.hold(twin)
        life.hear(life.nullify(life.leader(view), view))
        for timer in Timer:
            life.fire(timer)
        life.hear(life.certify(X, view))


def restart_at(length, is_final_kept):
    """Return the life after a crash that left `length` bytes of the log."""
    data = LIFE.data[:length]
    held = {block for block, size in LIFE.saved.items() if size <= length}
    tip = Tip(0, 0, GENESIS, None)
    if is_final_kept:
        for size, certificate in LIFE.final.items():
            if size <= length:
                proposal = certificate.proposal
                tip = Tip(
                    proposal.height, proposal.view, proposal.block_hash, certificate
                )
    return Life(data=data, held=held, tip=tip)


@pytest.mark.parametrize("is_final_kept", [True, False], ids=["kept", "wiped"])
def test_every_prefix_of_the_log_keeps_every_promise(is_final_kept):
    """Also with the chain wiped: the log alone binds."""
    header = len(encode_header(KEY, CHAIN))
    known = {}
    for length in range(header, len(LIFE.data) + 1):
        records, sound = scan_wal(LIFE.data[:length], KEY, CHAIN)
        if sound in known:
            # Between two frames every length comes back as the same log.
            assert known[sound] == records
            continue
        known[sound] = records
        before = [vote for end, vote in LIFE.sent if end <= sound]
        life = restart_at(sound, is_final_kept)
        provoke(life)
        for _, vote in life.sent:
            rivals = [old for old in before if contradicts(old, vote)]
            assert rivals == [], (length, vote)
    assert len(known) > 20


def test_nothing_leaves_before_the_log_holds_it():
    for end, vote in LIFE.sent:
        records, _ = scan_wal(LIFE.data[:end], KEY, CHAIN)
        assert vote in records


def test_a_restart_repeats_the_bytes_of_its_view():
    for end in ENDS:
        life = restart_at(end, is_final_kept=False)
        repeated = [vote for _, vote in life.sent]
        assert set(repeated) <= {vote for _, vote in LIFE.sent}


@given(st.integers(0, len(LIFE.data)), st.integers(0, len(LIFE.data)), st.booleans())
def test_two_crashes_in_a_row(first, second, is_shortened):
    """Tempt after the first, crash again, tempt again; compaction in between."""
    header = len(encode_header(KEY, CHAIN))
    _, sound = scan_wal(LIFE.data[: max(first, header)], KEY, CHAIN)
    before = [vote for end, vote in LIFE.sent if end <= sound]
    life = restart_at(sound, is_final_kept=False)
    provoke(life)
    data = life.data
    if is_shortened:
        retained = life.core.get_retained_records()
        data = encode_header(KEY, CHAIN) + encode_records(retained)
        cut = len(data)
    else:
        cut = max(sound, min(second, len(data)))
        _, cut = scan_wal(data[:cut], KEY, CHAIN)
    said = before + [v for end, v in life.sent if is_shortened or end <= cut]
    again = Life(data=data[:cut], held=set(LIFE.saved))
    provoke(again)
    for _, vote in again.sent:
        assert not [old for old in said if contradicts(old, vote)]


def test_the_story_has_everything():
    kinds = {type(vote) for _, vote in LIFE.sent}
    assert kinds == {Notarize, Nullify, Finalize}
    repeats = [
        vote
        for _, vote in LIFE.sent
        if isinstance(vote, Notarize) and vote.proposal.is_repeat
    ]
    assert repeats
    assert isinstance(repeats[0].proposal, Proposal)
    assert len(LIFE.final) == 2


def test_a_restart_repeats_no_finalize_of_a_final_view():
    bench = Bench()
    proposal = bench.proposal()
    bench.hear(bench.propose(proposal))
    bench.hold(proposal)
    bench.hear(bench.certify(N, proposal))
    before = bench.restart(held={proposal.block_hash})
    assert [vote.proposal for vote in sent(before, Finalize)] == [proposal]
    certificate = bench.certify(F, proposal)
    bench.hear(certificate)
    after = bench.restart(held={proposal.block_hash})
    assert bench.core.book.tip.certificate == certificate
    assert sent(after, Finalize) == []
    assert sent(bench.fire(Timer.REBROADCAST), Finalize) == []
