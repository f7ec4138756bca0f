"""
Every event of the participant, in any order, among colleagues who all lie.

Three of four validators sign whatever luck draws, the shell answers late, twice
or not at all, and the process is restarted from its log in between.  Agreement cannot
survive that; our own promises have to, and so has memory.
"""

import random

import pytest
from consensus_bench import Lifebench, assert_durable, find, make_hash
from msgspec.structs import replace

from consensus import effects as fx
from consensus import events as ev
from consensus.messages import (
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Propose,
    get_view,
)

SIZE = 4
OFFSETS = (0, 0, 0, 0, 1, 1, -1, 2, -2)
"""Of views from the present one."""
MAX_POOLED = 10 * 3 * 2 * SIZE


class Court:
    """The participant, what it promised, and what it still waits for."""

    def __init__(self, seed):
        self.luck = random.Random(seed)
        self.choose = self.luck.choice
        self.bench = Lifebench(size=SIZE, epoch_blocks=self.luck.randint(1, 4))
        self.asked = []
        self.proposals = []
        self.votes = {}
        self.place = (0, 0)
        self.judge(self.bench.first)

    # What it does

    def judge(self, effects):
        """Check the promises in the effects of one event."""
        assert_durable(effects)
        self.asked += [
            e for e in effects if isinstance(e, fx.BuildBlock | fx.LoadBlock)
        ]
        self.proposals += [e.proposal for e in find(effects, fx.CheckBlock)]
        for effect in find(effects, fx.Broadcast):
            message = effect.message
            vote = message.notarize if isinstance(message, Propose) else message
            if isinstance(vote, Notarize | Nullify | Finalize):
                self.promise(vote)
        core = self.bench.core
        place = core.epoch.epoch, core.view
        assert place >= self.place, "views never go back"
        self.place = place
        assert core.core.pooled_votes <= MAX_POOLED
        for refusal in find(effects, fx.Refuse):
            assert refusal.sender in (b"peer", None)

    def promise(self, vote):
        """Note a vote that went out; it must go with all before."""
        if vote.signer != self.bench.me:
            return
        place = get_view(vote)
        said = self.votes.setdefault(place, {})
        assert said.setdefault(type(vote), vote) == vote
        assert not (Nullify in said and Finalize in said)

    # What happens to it

    def step(self):
        """Let one thing happen."""
        kinds = [self.hear] * 6 + [self.hold, self.fire] * 2
        kinds += [self.answer, self.due, self.restart, self.go_on]
        self.choose(kinds)()

    def hear(self):
        message = self.draw_message()
        self.judge(self.bench.hear(message))

    def answer(self):
        """Answer what was asked, perhaps long ago, perhaps again."""
        if not self.asked:
            return
        asked = self.choose(self.asked)
        if isinstance(asked, fx.BuildBlock):
            block_hash = make_hash(f"ours {asked.view} {asked.parent_hash.hex()}")
            height = self.bench.core.book.tip.height + self.luck.randint(1, 2)
        else:
            block_hash = asked.block_hash
            height = self.bench.epoch_config.last_height
        event = ev.BlockBuilt(asked.view, block_hash, b"block", height)
        self.judge(self.bench.handle(event))

    def hold(self):
        proposal = self.draw_proposal()
        kinds = [ev.BlockAdded] * 4 + [ev.BlockRefused, ev.BlockMismatched]
        self.judge(self.bench.handle(self.choose(kinds)(proposal)))

    def fire(self):
        view = self.bench.core.view + self.choose([0, 0, 0, -1, 1])
        timer = self.choose(list(ev.Timer))
        self.judge(self.bench.handle(ev.TimerFired(timer, view)))

    def due(self):
        view = self.bench.core.view + self.choose([0, 0, -1])
        self.judge(self.bench.handle(ev.ProposalDue(view)))

    def restart(self):
        """Lose all memory but the log, the final blocks and some others."""
        held = {p.block_hash for p in self.proposals if self.luck.random() < 0.5}
        self.asked.clear()
        core = self.bench.core
        self.place = core.epoch.epoch, 0
        self.judge(self.bench.restart(held, core.book.tip))

    def go_on(self):
        """Begin the next epoch when this one is over, or claim that an old one did."""
        bench = self.bench
        if bench.core.is_over:
            self.judge(bench.begin_epoch(bench.core.book.tip.block_hash))
        else:
            self.judge(bench.handle(ev.EpochBegun(bench.epoch_config, bench.root)))

    # What the others say

    def draw_proposal(self):
        bench = self.bench
        if self.proposals and self.luck.random() < 0.5:
            return self.choose(self.proposals[-3:])
        view = max(1, bench.core.view + self.choose(OFFSETS))
        older = [p for p in self.proposals if p.epoch == bench.epoch and p.view < view]
        parent = self.choose([None, *older[-2:]])
        if parent is not None and self.luck.random() < 0.5:
            proposal = bench.repeat(parent, view)
        else:
            proposal = bench.proposal(view, parent, self.choose("aaab"))
        self.proposals.append(proposal)
        return proposal

    def draw_certificate(self):
        kind = self.choose(list(Kind))
        subject = self.draw_proposal()
        if kind is Kind.NULLIFICATION:
            subject = subject.view
        others = self.bench.others
        groups = [others, others, others, others[:2], range(SIZE)]
        signers = self.choose(groups)
        return self.bench.certify(kind, subject, signers)

    def draw_message(self):
        bench = self.bench
        match self.luck.randint(0, 5):
            case 0:
                message = bench.notarize(
                    self.choose(bench.others), self.draw_proposal()
                )
            case 1:
                message = bench.finalize(
                    self.choose(bench.others), self.draw_proposal()
                )
            case 2:
                message = bench.nullify(
                    self.choose(bench.others), self.draw_proposal().view
                )
            case 3:
                message = self.draw_certificate()
            case _:
                count = self.luck.randint(0, 3)
                just = [self.draw_certificate() for _ in range(count)]
                proposal = self.draw_proposal()
                signer = self.choose([None, None, *bench.others])
                if signer is None and bench.leader(proposal.view) == bench.me:
                    signer = bench.others[0]
                message = bench.propose(proposal, just, signer)
        if self.luck.randint(0, 9) == 0:
            message = self.spoil(message)
        return message

    def spoil(self, message):
        """Change one field, after signing."""
        name = self.choose(message.__struct_fields__)
        value = getattr(message, name)
        match value:
            case Kind():
                value = self.choose(list(Kind))
            case int():
                value = max(0, value + self.choose([-1, 1, 3, 2**15]))
            case bytes():
                value = self.luck.randbytes(len(value))
            case tuple():
                value = value[1:] if value else (self.draw_certificate(),)
            case _:
                value = self.draw_proposal() if name == "proposal" else value
        return replace(message, **{name: value})


@pytest.mark.parametrize("seed", range(120))
def test_promises_hold_whatever_happens(seed):
    court = Court(seed)
    for _ in range(400):
        court.step()


def test_spam_is_bounded():
    """Thousands of votes and certificates of every view leave a handful behind."""
    court = Court(0)
    bench = court.bench
    messages = [court.draw_message() for _ in range(20)]
    for far in range(0, 4000, 7):
        view = bench.core.view + far
        court.judge(bench.hear(bench.nullify(bench.others[far % 3], view)))
        court.judge(bench.hear(bench.notarize(bench.others[1], bench.proposal(view))))
        if far % 50 == 0:
            court.judge(bench.hear(*messages))
    core = bench.core.core
    assert core.pooled_votes <= MAX_POOLED
    assert len(core._state.rounds) <= 12
