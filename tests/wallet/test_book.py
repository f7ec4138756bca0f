"""Books over a store that loses power, and processes that are killed at any point."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from wallet_helpers import SESSION, build_channel, open_both

from chain.records.channel import Payment, verify_preimage
from primitives.kv import MemoryStore
from wallet.book import PAYEE_PREFIX, CorruptBook, PayeeBook, PayerBook
from wallet.errors import (
    DepositExhausted,
    InvalidPayment,
    InvalidPreimage,
    MissingVoucher,
    ReplayedPreimage,
    SmallerVoucher,
    UnknownChannel,
)


class FragileStore(MemoryStore):
    """A store whose unsynced writes a power cut takes back, newest first."""

    def __init__(self):
        super().__init__()
        self.unsynced = []
        self.syncs = 0

    def write(self, changes, *, sync):
        undo = {key: self.get(key) for key in changes}
        super().write(changes)
        if sync:
            self.syncs += 1
            self.unsynced.clear()
        else:
            self.unsynced.append(undo)

    def cut_power(self, lost):
        for undo in reversed(self.unsynced[len(self.unsynced) - lost :]):
            super().write(undo)
        self.unsynced.clear()


class FullStore(MemoryStore):
    """A store on a disk that is full from a moment on."""

    full = False

    def write(self, changes, *, sync):
        if self.full:
            raise OSError("disk full")
        super().write(changes)


def build_books(payer_store=None, payee_store=None, **changes):
    payer, payee = open_both(**changes)
    payer_book = PayerBook(payer_store or MemoryStore(), SESSION)
    payee_book = PayeeBook(payee_store or MemoryStore())
    payer_book.add(payer)
    payee_book.add(payee)
    return payer_book, payee_book, payee.channel_id


def test_books_pay_and_reload():
    payer_store, payee_store = MemoryStore(), MemoryStore()
    payer, payee, channel_id = build_books(payer_store, payee_store)
    assert payee.accept(channel_id, payer.pay(channel_id, 3)) == 3
    assert payee.accept(channel_id, payer.pay(channel_id, 2)) == 2
    payer, payee = PayerBook(payer_store, SESSION), PayeeBook(payee_store)
    assert payee.accept(channel_id, payer.pay(channel_id, 4)) == 4
    assert payee.get(channel_id).total == payer.get(channel_id).paid_total == 63
    assert [channel.channel_id for channel in payee] == [channel_id]
    assert [channel.paid_total for channel in payer] == [63]
    assert payer.session_key == SESSION.public_key


def test_new_vouchers_are_synced_and_steps_are_not():
    payer_store, payee_store = FragileStore(), FragileStore()
    payer, payee, channel_id = build_books(payer_store, payee_store)
    before = payer_store.syncs, payee_store.syncs
    payee.accept(channel_id, payer.pay(channel_id, 1))
    assert (payer_store.syncs, payee_store.syncs) == (before[0] + 1, before[1] + 1)
    payee.accept(channel_id, payer.pay(channel_id, 1))
    assert (payer_store.syncs, payee_store.syncs) == (before[0] + 1, before[1] + 1)
    payer.flush()
    payee.flush()
    assert not payer_store.unsynced
    assert not payee_store.unsynced
    syncs = payee_store.syncs
    payee.flush()
    assert payee_store.syncs == syncs


def test_what_is_not_stored_is_not_counted():
    store = FullStore()
    payer, payee, channel_id = build_books(payee_store=store)
    payment = payer.pay(channel_id, 1)
    store.full = True
    with pytest.raises(OSError, match="disk full"):
        payee.accept(channel_id, payment)
    assert payee.get(channel_id).total == 0
    store.full = False
    assert payee.accept(channel_id, payment) == 1


def test_what_is_not_stored_is_not_sent():
    store = FullStore()
    payer, _, channel_id = build_books(store)
    store.full = True
    with pytest.raises(OSError, match="disk full"):
        payer.pay(channel_id, 1)
    assert payer.get(channel_id).paid_total == 0


def test_an_invalid_payment_changes_nothing():
    payer, payee, channel_id = build_books()
    payee.accept(channel_id, payer.pay(channel_id, 1))
    before = payee.get(channel_id)
    with pytest.raises(InvalidPayment):
        payee.accept(channel_id, Payment(None, 5, b"w" * 32))
    assert payee.get(channel_id) is before


def test_unknown_and_removed_channels():
    payer, payee, channel_id = build_books()
    with pytest.raises(UnknownChannel, match="no channel 0x7a7a"):
        payer.pay(b"z" * 32, 1)
    with pytest.raises(UnknownChannel):
        payee.accept(b"z" * 32, payer.pay(channel_id, 1))
    payer.remove(channel_id)
    payee.remove(channel_id)
    assert channel_id not in payer
    assert channel_id not in payee
    with pytest.raises(UnknownChannel):
        payer.advance_to(channel_id, None)


def test_adding_again_keeps_what_was_paid_and_takes_the_deposit():
    payer, payee, channel_id = build_books(deposit=70)
    payee.accept(channel_id, payer.pay(channel_id, 10))
    with pytest.raises(DepositExhausted):
        payer.pay(channel_id, 1)
    bigger_payer, bigger_payee = open_both(deposit=140)
    payer.add(bigger_payer)
    payee.add(bigger_payee)
    assert payee.accept(channel_id, payer.pay(channel_id, 10)) == 10
    assert payee.get(channel_id).total == 140


def test_several_channels_do_not_touch():
    payer, payee, first = build_books()
    other_payer, other_payee = open_both(nonce=1)
    second = other_payee.channel_id
    payer.add(other_payer)
    payee.add(other_payee)
    payee.accept(first, payer.pay(first, 3))
    payee.accept(second, payer.pay(second, 5))
    with pytest.raises(InvalidPayment):
        payee.accept(second, payer.pay(first, 1))
    totals = {channel.channel_id: channel.total for channel in payee}
    assert totals == {first: 21, second: 35}


def test_a_damaged_entry_is_said():
    store = MemoryStore()
    store.write({PAYEE_PREFIX + b"c" * 32: b"\x90"}, sync=True)
    with pytest.raises(CorruptBook, match="entry"):
        PayeeBook(store)


def test_a_voucher_that_was_lost_is_repeated_after_a_restart():
    store = MemoryStore()
    payer, payee, channel_id = build_books(store)
    payer.pay(channel_id, 3)
    payer = PayerBook(store, SESSION)
    assert payee.accept(channel_id, payer.pay(channel_id, 2)) == 5
    assert payer.pay(channel_id, 1).voucher is None


def test_a_voucher_is_repeated_when_asked():
    payer, payee, channel_id = build_books()
    payee.accept(channel_id, payer.pay(channel_id, 3))
    payer.repeat_voucher(channel_id)
    payment = payer.pay(channel_id, 2)
    assert payment.voucher == payee.get(channel_id).claim.voucher
    assert payee.accept(channel_id, payment) == 2


class ChannelLife(RuleBasedStateMachine):
    """Any order of payments, losses, kills and power cuts."""

    def __init__(self):
        super().__init__()
        self.payer_store, self.payee_store = FragileStore(), FragileStore()
        books = build_books(
            self.payer_store, self.payee_store, deposit=20_000, unit_price=3
        )
        self.payer, self.payee, self.channel_id = books
        self.in_flight = []
        self.most_paid = 0
        """Atoms that ever left the payer: what a perfect memory would hold."""
        self.deposit = 20_000
        self.lost = False

    @property
    def paid_total(self):
        return self.payer.get(self.channel_id).paid_total

    @property
    def total(self):
        return self.payee.get(self.channel_id).total

    @rule(units=st.integers(1, 1200))
    def pay(self, units):
        channel = self.payer.get(self.channel_id)
        if units > channel.remaining_units:
            with pytest.raises(DepositExhausted):
                self.payer.pay(self.channel_id, units)
            return
        self.in_flight.append(self.payer.pay(self.channel_id, units))
        self.most_paid = max(self.most_paid, self.paid_total)

    @precondition(lambda self: self.in_flight)
    @rule()
    def deliver(self):
        before = self.total
        try:
            units = self.payee.accept(self.channel_id, self.in_flight.pop(0))
        except (ReplayedPreimage, SmallerVoucher):
            # Only a payer that a power cut threw back sends what pays nothing.
            assert self.total == before
            self.payer.advance_to(
                self.channel_id, self.payee.get(self.channel_id).claim
            )
            self.in_flight.clear()
        except (InvalidPreimage, MissingVoucher):
            # The voucher was lost on the way; its words alone mean nothing.
            assert self.total == before
            assert self.lost
            self.payer.repeat_voucher(self.channel_id)
            self.in_flight.clear()
        else:
            assert self.total == before + 3 * units

    @precondition(lambda self: self.in_flight)
    @rule()
    def lose(self):
        self.in_flight.pop(0)
        self.lost = True

    @rule()
    def kill_payer(self):
        before = self.paid_total
        self.payer = PayerBook(self.payer_store, SESSION)
        self.in_flight.clear()
        assert self.paid_total == before

    @rule()
    def kill_payee(self):
        before = self.total
        self.payee = PayeeBook(self.payee_store)
        assert self.total == before

    @rule(lost=st.integers(0, 5))
    def cut_payers_power(self, lost):
        self.payer_store.cut_power(min(lost, len(self.payer_store.unsynced)))
        self.payer = PayerBook(self.payer_store, SESSION)
        self.in_flight.clear()

    @rule(lost=st.integers(0, 5))
    def cut_payees_power(self, lost):
        self.payee_store.cut_power(min(lost, len(self.payee_store.unsynced)))
        self.payee = PayeeBook(self.payee_store)

    @rule()
    def flush(self):
        self.payer.flush()
        self.payee.flush()

    @rule(more=st.integers(1, 2000))
    def top_up(self, more):
        self.deposit += more
        self.payee.set_deposit(self.channel_id, self.deposit)
        self.payer.set_deposit(self.channel_id, self.deposit)

    @invariant()
    def the_chain_will_honour_the_claim(self):
        channel = self.payee.get(self.channel_id)
        assert channel.total <= self.deposit
        assert channel.total <= self.most_paid
        assert self.paid_total <= self.deposit
        assert channel.claim is None or verify_preimage(channel.claim)

    def teardown(self):
        """After everything, one catch-up and one payment make both sides agree."""
        claim = self.payee.get(self.channel_id).claim
        if claim is not None:
            self.payer.advance_to(self.channel_id, claim)
        self.payer.repeat_voucher(self.channel_id)
        if self.payer.get(self.channel_id).remaining_units:
            self.payee.accept(self.channel_id, self.payer.pay(self.channel_id, 1))
            assert self.total == self.paid_total


TestChannelLife = ChannelLife.TestCase
TestChannelLife.settings = settings(max_examples=60, stateful_step_count=40)


def test_channels_of_the_chain_enter_the_books():
    assert build_channel().channel_id in build_books()[1]
