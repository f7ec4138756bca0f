"""Payer and payee over one channel: what pays, and everything that must not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wallet_helpers import CHAIN_ID, PAYER, SESSION, build_channel, open_both

from chain.records.channel import (
    MAX_UNITS,
    Claim,
    Payment,
    compute_payword,
    compute_total,
    compute_voucher_message,
    verify_preimage,
    verify_voucher,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.keys import SecretKey
from wallet.errors import (
    AboveDeposit,
    BadVoucherSignature,
    DepositExhausted,
    InvalidClaim,
    InvalidPayment,
    InvalidPreimage,
    MissingVoucher,
    OtherChannel,
    ReplayedPreimage,
    SmallerVoucher,
    TooManyUnits,
    UnevenVoucher,
    WalletError,
    WrongUnitPrice,
)
from wallet.payer import PayerChannel, PayerState, derive_session_key
from wallet.payword import PayWordChain

THIEF = SecretKey(b"\x0f" * 32)


def pay_both(payer, payee, *steps):
    """Pay and accept each of `steps` units; return both sides."""
    for units in steps:
        payer, payment = payer.pay(units)
        payee, gained = payee.accept(payment)
        assert gained == units
    return payer, payee


def sign_voucher(voucher, key=SESSION, **changes):
    """Return the voucher changed and signed again."""
    voucher = msgspec.structs.replace(voucher, **changes)
    message = compute_voucher_message(CHAIN_ID, voucher)
    return msgspec.structs.replace(voucher, signature=key.sign(message))


def change_voucher(payment, key=SESSION, **changes):
    """Return the payment with another, correctly signed voucher."""
    voucher = sign_voucher(payment.voucher, key, **changes)
    return msgspec.structs.replace(payment, voucher=voucher)


# --- the hash chain


@pytest.mark.parametrize("units", [0, 1, 2, 1024])
def test_every_word_hashes_to_the_root(units):
    chain = PayWordChain.from_seed(b"s" * 32, units)
    for used in {0, 1, units // 2, units} & set(range(units + 1)):
        assert compute_payword(chain.get_preimage(used), used) == chain.root
    assert chain.get_preimage(units) == b"s" * 32


# --- what pays


def test_first_payment_brings_a_voucher_and_the_next_a_hash():
    payer, payee = open_both()
    payer, first = payer.pay(3)
    assert first.voucher.cumulative == 21
    assert first.used == 0
    payer, second = payer.pay(2)
    assert second.voucher is None
    assert second.used == 2
    for payment, units in ((first, 3), (second, 2)):
        payee, gained = payee.accept(payment)
        assert gained == units
    assert payee.total == payer.paid_total == 35


def test_a_payer_that_lost_its_book_goes_on_above_what_was_settled():
    channel = msgspec.structs.replace(build_channel(), settled=70)
    payer = PayerChannel.from_channel(CHAIN_ID, channel, SESSION)
    _, payment = payer.pay(1)
    assert payment.voucher.cumulative == 70 + channel.unit_price


def test_the_claim_is_one_that_the_chain_accepts():
    _, payee = pay_both(*open_both(), 1, 1, 5)
    assert verify_voucher(CHAIN_ID, payee.claim.voucher, SESSION.public_key)
    assert verify_preimage(payee.claim)
    assert compute_total(payee.claim) == 49


def test_a_new_voucher_folds_the_old_chain():
    payer, payee = open_both(deposit=10**6, unit_price=1)
    payer, payee = pay_both(payer, payee, 1, *[100] * 10)
    assert payee.claim.used == 1000
    payer, payment = payer.pay(100)
    assert payment.voucher.cumulative == 1101
    assert payment.used == 0
    payee, gained = payee.accept(payment)
    assert gained == 100
    assert payee.claim.used == 0


def test_one_payment_may_be_longer_than_a_chain():
    payer, payee = pay_both(*open_both(unit_price=1), 5000, 1, 1024)
    assert payee.total == payer.paid_total == 6025


def test_a_lost_payment_is_paid_by_the_next():
    payer, payee = pay_both(*open_both(), 1)
    payer, _ = payer.pay(2)
    payer, payment = payer.pay(3)
    payee, gained = payee.accept(payment)
    assert gained == 5
    assert payee.total == payer.paid_total


def test_a_voucher_sent_again_with_a_deeper_preimage_pays():
    payer, payee = open_both()
    payer, first = payer.pay(1)
    payee, _ = payee.accept(first)
    payer, second = payer.pay(4)
    again = Payment(first.voucher, second.used, second.preimage)
    payee, gained = payee.accept(again)
    assert gained == 4


def test_a_foreign_payer_may_release_units_with_its_first_voucher():
    payer, payee = open_both()
    chain = PayWordChain.from_seed(b"q" * 32, 10)
    _, payment = payer.pay(1)
    voucher = sign_voucher(
        payment.voucher, cumulative=0, chain_root=chain.root, units=10
    )
    _, gained = payee.accept(Payment(voucher, 4, chain.get_preimage(4)))
    assert gained == 4


def test_the_deposit_is_spent_to_the_last_unit_and_no_further():
    payer, payee = open_both(deposit=100, unit_price=7)
    assert payer.remaining_units == 14
    with pytest.raises(DepositExhausted) as caught:
        payer.pay(15)
    assert caught.value.remaining_units == 14
    payer, payee = pay_both(payer, payee, 10, 3, 1)
    assert payer.remaining_units == 0
    with pytest.raises(DepositExhausted, match="top the channel up"):
        payer.pay(1)
    assert payee.total == 98
    assert payee.claim.voucher.cumulative + payee.claim.voucher.units * 7 <= 100


def test_a_top_up_pays_on():
    payer, payee = pay_both(*open_both(deposit=70, unit_price=7), 10)
    payer, payee = payer.set_deposit(700), payee.set_deposit(700)
    payer, payee = pay_both(payer, payee, 1, 50)
    assert payee.total == payer.paid_total == 61 * 7


def test_a_top_up_the_payee_has_not_seen_is_above_its_deposit():
    payer, payee = pay_both(*open_both(deposit=70, unit_price=7), 10)
    _, payment = payer.set_deposit(700).pay(1)
    with pytest.raises(AboveDeposit):
        payee.accept(payment)
    assert payee.set_deposit(700).accept(payment)[1] == 1


def test_both_sides_survive_encoding():
    payer, payee = pay_both(*open_both(), 1, 2)
    payee = decode(type(payee), encode(payee))
    payer = PayerChannel.from_state(decode(PayerState, encode(payer.state)), SESSION)
    pay_both(payer, payee, 3, 1)
    assert SESSION.seed not in encode(payer.state)


def test_a_channel_of_another_session_key_is_refused():
    with pytest.raises(WalletError, match="session key"):
        PayerChannel.from_channel(CHAIN_ID, build_channel(), THIEF)


def test_the_session_key_is_not_the_account_key():
    assert derive_session_key(PAYER).public_key != PAYER.public_key
    assert derive_session_key(PAYER) == SESSION


# --- what must not pay


def test_voucher_of_another_opening():
    other, _ = open_both(nonce=1)
    _, payee = open_both()
    _, payment = other.pay(1)
    with pytest.raises(OtherChannel, match="opening"):
        payee.accept(payment)


def test_voucher_signed_for_another_chain():
    payer, payee = open_both()
    _, payment = payer.pay(1)
    elsewhere = msgspec.structs.replace(payee, chain_id=b"\x09" * 32)
    with pytest.raises(BadVoucherSignature):
        elsewhere.accept(payment)


def test_smaller_voucher():
    payer, payee = open_both()
    _, old = payer.pay(2)
    _, payee = pay_both(payer, payee, 3, 4)
    with pytest.raises(SmallerVoucher, match="49 are held"):
        payee.accept(old)


def test_voucher_that_folds_less_than_was_paid():
    """Its units could make up for the difference later; the payee would lose them."""
    _, payee = pay_both(*open_both(), 1, 10)
    chain = PayWordChain.from_seed(b"q" * 32, 100)
    voucher = sign_voucher(
        payee.claim.voucher, cumulative=14, chain_root=chain.root, units=100
    )
    with pytest.raises(SmallerVoucher):
        payee.accept(Payment(voucher, 50, chain.get_preimage(50)))


def test_voucher_worth_what_is_held():
    _, payee = pay_both(*open_both(), 3)
    root = b"r" * 32
    voucher = sign_voucher(payee.claim.voucher, chain_root=root)
    with pytest.raises(SmallerVoucher):
        payee.accept(Payment(voucher, 0, root))


def test_voucher_above_the_deposit():
    payer, payee = open_both(deposit=100)
    _, payment = payer.pay(1)
    with pytest.raises(AboveDeposit, match="105 atoms promised, deposit 100"):
        payee.accept(change_voucher(payment, cumulative=105))


def test_units_above_the_deposit():
    payer, payee = open_both(deposit=100)
    chain = PayWordChain.from_seed(b"q" * 32, 100)
    _, payment = payer.pay(1)
    voucher = sign_voucher(payment.voucher, chain_root=chain.root, units=100)
    payee, _ = payee.accept(Payment(voucher, 0, chain.root))
    with pytest.raises(AboveDeposit):
        payee.accept(Payment(None, 14, chain.get_preimage(14)))
    assert payee.accept(Payment(None, 13, chain.get_preimage(13)))[1] == 13


def test_wrong_unit_price():
    payer, payee = open_both()
    _, payment = payer.pay(1)
    with pytest.raises(WrongUnitPrice, match="8 atoms a unit, opened at 7"):
        payee.accept(change_voucher(payment, unit_price=8))


def test_too_many_units():
    payer, payee = open_both()
    _, payment = payer.pay(1)
    with pytest.raises(TooManyUnits):
        payee.accept(change_voucher(payment, units=MAX_UNITS + 1))


def test_uneven_voucher():
    payer, payee = open_both()
    _, payment = payer.pay(1)
    with pytest.raises(UnevenVoucher):
        payee.accept(change_voucher(payment, cumulative=8))


def test_voucher_signed_by_somebody_else():
    payer, payee = open_both()
    _, payment = payer.pay(1)
    with pytest.raises(BadVoucherSignature):
        payee.accept(change_voucher(payment, key=THIEF))


@pytest.mark.parametrize(
    "changes",
    [{"cumulative": 70}, {"chain_root": b"r" * 32}, {"units": 5}, {"signature": b""}],
)
def test_voucher_changed_after_signing(changes):
    payer, payee = open_both()
    _, payment = payer.pay(1)
    voucher = msgspec.structs.replace(payment.voucher, **changes)
    with pytest.raises(InvalidPayment):
        payee.accept(msgspec.structs.replace(payment, voucher=voucher))


def test_preimage_before_any_voucher():
    payer, payee = open_both()
    payer, _ = payer.pay(1)
    _, payment = payer.pay(1)
    with pytest.raises(MissingVoucher):
        payee.accept(payment)


def test_wrong_preimage():
    payer, payee = pay_both(*open_both(), 1, 1)
    _, payment = payer.pay(1)
    wrong = msgspec.structs.replace(payment, preimage=b"w" * 32)
    with pytest.raises(InvalidPreimage, match="not 1 hashes"):
        payee.accept(wrong)
    deeper = msgspec.structs.replace(payment, used=payment.used + 1)
    with pytest.raises(InvalidPreimage, match="not 2 hashes"):
        payee.accept(deeper)


def test_wrong_preimage_with_a_new_voucher():
    payer, payee = open_both()
    _, payment = payer.pay(1)
    with pytest.raises(InvalidPreimage):
        payee.accept(msgspec.structs.replace(payment, used=1))
    with pytest.raises(InvalidPreimage, match=f"unit {MAX_UNITS + 1}"):
        payee.accept(msgspec.structs.replace(payment, used=MAX_UNITS + 1))


def test_replayed_preimage():
    payer, payee = pay_both(*open_both(), 1)
    payer, earlier = payer.pay(1)
    payee, _ = payee.accept(earlier)
    payer, payee = pay_both(payer, payee, 1)
    with pytest.raises(ReplayedPreimage, match="unit 1, 2 are held"):
        payee.accept(earlier)
    forged = msgspec.structs.replace(earlier, preimage=b"w" * 32)
    with pytest.raises(InvalidPreimage) as caught:
        payee.accept(forged)
    assert not isinstance(caught.value, ReplayedPreimage)


def test_replayed_voucher():
    payer, payee = open_both()
    payer, payment = payer.pay(1)
    payee, _ = payee.accept(payment)
    with pytest.raises(ReplayedPreimage):
        payee.accept(payment)


def test_unit_beyond_the_chain():
    _, payee = pay_both(*open_both(), 1)
    for used in (1025, 65535):
        with pytest.raises(InvalidPreimage, match="of 1024"):
            payee.accept(Payment(None, used, b"w" * 32))


# --- a payer that fell behind


def test_payer_catches_up_with_the_payees_claim():
    behind, payee = pay_both(*open_both(), 1, 1)
    _, payee = pay_both(behind, payee, 5)
    _, payment = behind.pay(1)
    with pytest.raises(ReplayedPreimage):
        payee.accept(payment)
    behind = behind.advance_to(payee.claim)
    assert behind.paid_total == payee.total
    pay_both(behind, payee, 1, 1)


def test_an_old_claim_takes_nothing_back():
    payer, payee = pay_both(*open_both(), 1)
    old = payee.claim
    payer, payee = pay_both(payer, payee, 5)
    assert payer.advance_to(old) is payer


def test_a_claim_we_never_made_is_refused():
    payer, payee = pay_both(*open_both(), 1, 3)
    voucher, used, preimage = payee.claim.voucher, 3, payee.claim.preimage
    _, other_payee = pay_both(*open_both(nonce=1), 1)
    forged = [
        Claim(voucher, used + 1, preimage),
        Claim(voucher, used + 1, b"w" * 32),
        Claim(voucher, 1025, preimage),
        Claim(sign_voucher(voucher, THIEF, cumulative=700), used, preimage),
        other_payee.claim,
    ]
    for claim in forged:
        with pytest.raises(InvalidClaim):
            payer.advance_to(claim)


def test_a_book_that_was_lost_gives_the_payee_nothing_more():
    """The worst case: the payer starts again from 0 and pays the same amounts."""
    fresh, payee = open_both()
    payer, rich = pay_both(fresh, payee, 2, 9)
    _, again = pay_both(fresh, payee, 2)
    # The same numbers give the same voucher: deeper words prove what was paid before.
    assert again.claim.voucher == rich.claim.voucher
    assert rich.total == payer.paid_total


# --- properties


@given(
    st.lists(st.integers(1, 1500), max_size=40),
    st.integers(1, 10**6),
    st.integers(0, 60_000),
)
def test_any_sequence_of_payments_adds_up(steps, unit_price, deposit_units):
    payer, payee = open_both(
        deposit=max(1, deposit_units * unit_price), unit_price=unit_price
    )
    for units in steps:
        if units > payer.remaining_units:
            with pytest.raises(DepositExhausted):
                payer.pay(units)
            continue
        payer, payment = payer.pay(units)
        payee, gained = payee.accept(decode(Payment, encode(payment)))
        assert gained == units
        assert payee.total == payer.paid_total <= payee.deposit
        voucher = payee.claim.voucher
        assert voucher.cumulative + voucher.units * unit_price <= payee.deposit
        assert verify_preimage(payee.claim)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(0, 2**16),
    st.integers(1, 255),
)
def test_any_flipped_byte_is_refused(steps, place, flip):
    payer, payee = open_both(deposit=700)
    for units in steps[:-1]:
        if units <= payer.remaining_units:
            payer, payee = pay_both(payer, payee, units)
    if steps[-1] > payer.remaining_units:
        return
    _, payment = payer.pay(steps[-1])
    data = bytearray(encode(payment))
    data[place % len(data)] ^= flip
    with pytest.raises((InvalidPayment, DecodeError)):
        payee.accept(decode(Payment, bytes(data)))
