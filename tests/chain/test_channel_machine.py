"""
A model of channels, driven at random beside the real rules.

The model keeps four numbers per channel and knows nothing of signatures or hashes;
whatever sequence of calls comes, both must agree on every balance, and no atom may be
made or lost.
"""

from dataclasses import dataclass

from chain_world import ALICE, BOB, CAROL, COIN, SPEC
from channel_helpers import PRICE, build_claim, build_opening, build_work
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mini_chain import MiniChain

from chain.records.channel import (
    ChannelStatus,
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)

PEOPLE = (ALICE, BOB, CAROL)
GRACE = SPEC.params.grace_blocks
people = st.sampled_from(PEOPLE)


@dataclass
class Model:
    """What a channel should be."""

    payer: object
    payee: object
    deposit: int
    settled: int = 0
    close_height: int | None = None


class ChannelMachine(RuleBasedStateMachine):
    """Random calls by random people, in one shard."""

    def __init__(self):
        super().__init__()
        self.chain = MiniChain()
        self.open: dict[bytes, Model] = {}
        self.ended: dict[bytes, Model] = {}
        self.balances = {p.public_key: self.chain.balance(1, p) for p in PEOPLE}

    def do(self, sender, payload) -> bool:
        outcome = self.chain.call(sender, payload)
        self.balances[sender.public_key] -= outcome.fee
        return outcome.ok

    def pick(self, index: int) -> bytes:
        names = sorted(self.open)
        return names[index % len(names)]

    def end(self, name: bytes) -> None:
        model = self.open.pop(name)
        self.balances[model.payer.public_key] += model.deposit - model.settled
        self.ended[name] = model

    @rule(payer=people, payee=people, deposit=st.integers(0, 3 * COIN))
    def open_channel(self, payer, payee, deposit):
        before = {c.channel_id for c in self.chain.channels()}
        opening = OpenChannels((build_opening(payee, deposit=deposit),))
        ok = self.do(payer, opening)
        taken = any((m.payer, m.payee) == (payer, payee) for m in self.open.values())
        assert ok == (deposit > 0 and payer is not payee and not taken)
        if ok:
            (name,) = {c.channel_id for c in self.chain.channels()} - before
            assert name not in self.ended
            self.open[name] = Model(payer, payee, deposit)
            self.balances[payer.public_key] -= deposit

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 9), sender=people, amount=st.integers(0, COIN))
    def top_up(self, index, sender, amount):
        name = self.pick(index)
        model = self.open[name]
        ok = self.do(sender, TopUp(name, amount))
        assert ok == (sender is model.payer and amount > 0)
        if ok:
            model.deposit += amount
            model.close_height = None
            self.balances[sender.public_key] -= amount

    @precondition(lambda self: self.open)
    @rule(
        index=st.integers(0, 9),
        sender=people,
        base=st.integers(0, 4 * COIN),
        used=st.integers(0, 20),
        is_close=st.booleans(),
        work=st.sampled_from([COIN // 2, 10 * COIN]),
    )
    def settle_or_close(self, index, sender, base, used, is_close, work):
        name = self.pick(index)
        model = self.open[name]
        claim = build_claim(name, used, cumulative=base, units=20)
        kind = Close if is_close else Settle
        ok = self.do(sender, kind(name, claim, build_work(price_sum=work)))
        total = base + used * PRICE
        delta = total - model.settled
        fits = 0 <= delta <= work and total <= model.deposit
        fits = fits or (is_close and delta == 0 and total <= model.deposit)
        assert ok == (sender is model.payee and fits and (is_close or delta > 0))
        if ok:
            model.settled += delta
            self.balances[model.payee.public_key] += delta
            if is_close:
                self.end(name)

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 9), sender=people)
    def request_close(self, index, sender):
        name = self.pick(index)
        model = self.open[name]
        ok = self.do(sender, RequestClose(name))
        assert ok == (sender is model.payer and model.close_height is None)
        if ok:
            model.close_height = self.chain.height + GRACE

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 9), sender=people)
    def withdraw(self, index, sender):
        name = self.pick(index)
        model = self.open[name]
        ok = self.do(sender, Withdraw(name))
        is_due = (
            model.close_height is not None and self.chain.height >= model.close_height
        )
        assert ok == (sender is model.payer and is_due)
        if ok:
            self.end(name)

    @precondition(lambda self: self.ended)
    @rule(sender=people)
    def use_an_ended_channel(self, sender):
        name = next(iter(self.ended))
        assert not self.do(sender, TopUp(name, 1))
        claim = build_claim(name, 1)
        assert not self.do(sender, Settle(name, claim, build_work()))

    @rule(blocks=st.sampled_from([1, GRACE - 1, GRACE]))
    def wait(self, blocks):
        self.chain.step(blocks)

    @invariant()
    def agrees_with_the_model(self):
        assert {c.channel_id for c in self.chain.channels()} == self.open.keys()
        for name, model in self.open.items():
            channel = self.chain.channel(name)
            assert (channel.deposit, channel.settled) == (model.deposit, model.settled)
            assert 0 <= channel.settled <= channel.deposit
            is_closing = channel.status == ChannelStatus.CLOSING
            assert is_closing == (model.close_height is not None)
        for person in PEOPLE:
            balance = self.chain.balance(1, person)
            assert balance == self.balances[person.public_key]

    @invariant()
    def conserves(self):
        assert self.chain.compute_held() == self.chain.supply


TestChannels = ChannelMachine.TestCase
TestChannels.settings = settings(max_examples=30, stateful_step_count=40)
