"""
The whole ledger at random: transfers over shards, registrations, channels, packets.

Whatever happens, atoms are conserved, packets arrive once and in order, and after the
last packet every registration has its answer.
"""

import msgspec
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, MODEL, build_genesis
from channel_helpers import build_opening
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from mini_chain import MiniChain

from chain.errors import CannotPay
from chain.records.channel import OpenChannels
from chain.records.registration import Register, RegistrationStatus
from chain.records.transfer import Transfer
from genesis.state import build_chain_spec

PEOPLE = (ALICE, BOB, CAROL, DAVE)
people = st.sampled_from(PEOPLE)
shards = st.integers(0, 3)
SPEC = build_chain_spec(build_genesis(shard_mirrors=1, backlog_limit=3))

OFFER = Register(
    model_id=MODEL.model_id,
    profile=bytes(32),
    start=0,
    end=4,
    input_price=1,
    output_price=2,
    measured_us=1000,
    collateral=COIN,
    payout=ALICE.public_key,
    node_key=bytes(32),
    addresses=("p2p://00@127.0.0.1:9000",),
)


class LedgerMachine(RuleBasedStateMachine):
    """Random transactions and random waits."""

    def __init__(self):
        super().__init__()
        self.chain = MiniChain(SPEC)

    def call(self, sender, payload, shard):
        nonce = self.chain.account(shard, sender).nonce
        balance = self.chain.balance(shard, sender)
        try:
            outcome = self.chain.call(sender, payload, shard)
        except CannotPay:
            assert self.chain.account(shard, sender).nonce == nonce
            return
        assert self.chain.account(shard, sender).nonce == nonce + 1
        if not outcome.ok:
            assert self.chain.balance(shard, sender) == balance - outcome.fee

    @rule(
        sender=people,
        recipient=people,
        src=st.integers(0, 2),
        dst=shards,
        amount=st.one_of(st.integers(0, 100 * COIN), st.just(2**63 - 1)),
    )
    def transfer(self, sender, recipient, src, dst, amount):
        self.call(sender, Transfer(recipient.public_key, dst, amount), src)

    @rule(
        sender=people,
        start=st.integers(0, 8),
        length=st.integers(0, 8),
        collateral=st.integers(0, 3 * COIN),
        shard=st.integers(0, 2),
    )
    def register(self, sender, start, length, collateral, shard):
        offer = msgspec.structs.replace(
            OFFER, start=start, end=start + length, collateral=collateral
        )
        self.call(sender, offer, shard)

    @rule(sender=people, payee=people, deposit=st.integers(0, 3 * COIN))
    def open_channel(self, sender, payee, deposit):
        opening = build_opening(payee, deposit=deposit)
        self.call(sender, OpenChannels((opening,)), 1)

    @rule()
    def wait(self):
        self.chain.step()

    @invariant()
    def conserves(self):
        assert self.chain.compute_held() == self.chain.supply

    def teardown(self):
        while any(self.chain.inbox.values()):
            self.chain.step()
        assert self.chain.compute_held() == self.chain.supply
        for shard in (1, 2):
            for person in PEOPLE:
                registration = self.chain.registration(person, shard)
                if registration is not None:
                    assert registration.status != RegistrationStatus.PENDING
                    is_refused = registration.status == RegistrationStatus.REFUSED
                    assert is_refused == (registration.collateral == 0)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=40)
