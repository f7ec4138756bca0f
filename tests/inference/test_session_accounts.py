"""The smaller parts of a session: schedule, prices, pools, receipts, activations."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.records.channel import Payment, Voucher
from chain.records.proof import compute_receipt_hash
from inference.hop.channel_account import EMPTY_STANDING, ChannelAccount, Standing
from inference.protocol.account import SessionAccount, build_work_record
from inference.protocol.activations import (
    Dtype,
    compute_digest,
    compute_range_hash,
    compute_size,
    is_finite,
)
from inference.protocol.errors import ReceiptMismatch
from inference.protocol.receipts import (
    Contribution,
    Range,
    ReceiptTrail,
    compute_input_hash,
    sign_input,
    sign_receipt,
    validate_chain,
    validate_input,
    validate_own_trail,
    validate_predecessor,
    verify_input,
)
from inference.protocol.steps import Prices, Schedule
from inference.session.shared_payer import SharedPayer
from primitives.codec import decode, encode
from primitives.keys import SecretKey

KEY = SecretKey(b"\1" * 32)
SIGNER = SecretKey(b"\2" * 32)
CHAIN, SESSION = b"\3" * 32, b"\4" * 32


# Prices


@given(
    st.integers(1, 500), st.integers(0, 10**6), st.integers(0, 10**6),
    st.integers(1, 10**6),
)  # fmt: skip
def test_units_are_rounded_up(layers, input_price, output_price, unit_price):
    prices = Prices(
        layers=layers,
        input_price=input_price,
        output_price=output_price,
        unit_price=unit_price,
    )
    schedule = Schedule(prompt_tokens=130, max_positions=200)
    for _ in range(4):
        step = schedule.propose(tokens=5)
        schedule = schedule.advance(step)
        price = output_price + (step.tokens - 1) * input_price
        if step.is_prefill:
            price = max(step.tokens * input_price, output_price)
        exact = layers * price
        units = prices.compute_units(step)
        assert units * unit_price >= exact > (units - 1) * unit_price


# Activations


@pytest.mark.parametrize("dtype", Dtype)
def test_finite(dtype):
    numpy_type = {Dtype.FLOAT32: np.float32, Dtype.FLOAT16: np.float16}.get(dtype)
    if numpy_type is None:
        numbers = np.array([0, 0x3F80, 0x7F7F, 0xFF7F, 0x8000], np.uint16)
        bad = [0x7F80, 0xFF80, 0x7FC0, 0x7F81]
    else:
        info = np.finfo(numpy_type)
        numbers = np.array([0, 1, info.max, info.min, info.tiny / 2, -0.0], numpy_type)
        bad = [np.inf, -np.inf, np.nan]
    assert is_finite(numbers.tobytes(), dtype)
    assert is_finite(b"", dtype)
    assert len(numbers.tobytes()) == compute_size(1, len(numbers), dtype)
    for value in bad:
        for index in range(len(numbers)):
            broken = numbers.copy()
            broken[index] = value
            assert not is_finite(broken.tobytes(), dtype)


def test_range_hash_depends_on_every_step_and_its_place():
    first, second = compute_digest(b"1"), compute_digest(b"2")
    hashes = {
        compute_range_hash(digests)
        for digests in ([], [first], [second], [first, second], [second, first])
    }
    assert len(hashes) == 5


# Pools of payments


@given(st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("dpe"))))
def test_pool_neither_makes_nor_loses_units(events):
    account = ChannelAccount.load(b"c", EMPTY_STANDING, 0)
    billed, claimed = {"A": 0, "B": 0}, {"A": 0, "B": 0}
    delivered = 0
    for name, kind in events:
        if kind == "d":
            account.bill(3)
            billed[name] += 3
            delivered += 3
        elif kind == "p":
            account.credit(2)
            claimed[name] += account.claim(billed[name] - claimed[name])
        else:
            account.add_arrears(billed[name] - claimed[name])
            billed[name] = claimed[name] = 0
            account.pay_arrears()
        owed = sum(billed.values()) - sum(claimed.values()) + account.arrears
        assert account.paid - account.free == delivered - owed
        assert account.free >= 0
        assert account.arrears >= 0
        assert account.standing.billed_units == delivered
        # After a restart the arrears are the same, and open sessions owe nothing.
        again = ChannelAccount.load(b"c", account.standing, account.paid)
        assert again.arrears <= account.arrears
        unpaid = max(0, delivered - account.paid)
        assert again.arrears == min(account.arrears, unpaid)
        assert again.standing.billed_units == delivered - unpaid + again.arrears
        assert again.free == max(0, account.paid - delivered)


def test_standing_counts():
    account = ChannelAccount.load(b"c", Standing(10, 4, 2), 25)
    assert (account.free, account.arrears) == (15, 0)
    assert account.take_nonce() == 2
    account.count_paid_steps(3)
    assert account.standing == Standing(10, 7, 3)
    # Of six units that are not paid, two were under way when the process died.
    again = ChannelAccount.load(b"c", Standing(10, 0, 0, 4), 4)
    assert (again.arrears, again.standing.billed_units) == (4, 8)
    assert ChannelAccount.load(b"c", Standing(10, 0, 0), 4).arrears == 0


# One payer for many sessions


class Purse:
    """Signs a voucher every third payment, as a book with short chains would."""

    def __init__(self):
        self.used = 0
        self.root = 0
        self.must_repeat = set()

    def repeat_voucher(self, channel_id):
        self.must_repeat.add(channel_id)

    def pay(self, channel_id, units):
        is_new = self.used % 3 == 0
        self.root += is_new
        repeat = channel_id in self.must_repeat
        self.must_repeat.discard(channel_id)
        self.used += 1
        root = bytes([self.root]) * 32
        voucher = Voucher(channel_id, 0, root, 1, 3, bytes(64))
        return Payment(voucher if is_new or repeat else None, self.used % 3, root)


@given(st.lists(st.sampled_from([b"A" * 32, b"B" * 32, b"C" * 32]), max_size=30))
def test_every_session_has_every_voucher_that_it_pays_with(payers):
    shared = SharedPayer(Purse())
    seen = {}
    for session in payers:
        payment = shared.pay(session, b"c" * 32, 1)
        if payment.voucher is not None:
            seen.setdefault(session, set()).add(payment.voucher.chain_root)
        assert payment.preimage in seen[session]
    for session in set(payers):
        shared.forget(session)
    assert not shared._holders
    assert not shared._roots


# Receipts


def build_range(tokens=3, in_bytes=b"in", out_bytes=b"out"):
    step = Schedule(prompt_tokens=tokens, max_positions=99).propose()
    return Range().add(step, 7, compute_digest(in_bytes), compute_digest(out_bytes))


def build_chain(hops=3):
    """Return what the requester sent, its range, and honest receipts."""
    said = sign_input(
        CHAIN, SESSION, build_range(out_bytes=b"2"), SIGNER.public_key, SIGNER.sign
    )
    receipts, previous, data = [], compute_input_hash(said), b"in"
    for index in range(hops):
        key = SecretKey(bytes([index + 10]) * 32)
        out = str(index).encode()
        receipt = sign_receipt(
            build_contribution(key, index),
            ReceiptTrail(),
            build_range(in_bytes=data, out_bytes=out),
            previous_hop=previous,
            nonce=0,
            expires_height=9,
            sign=key.sign,
        )
        receipts.append(receipt)
        previous, data = compute_receipt_hash(receipt), out
    return said, build_range(out_bytes=b"2"), receipts


def build_contribution(key, index=0):
    return Contribution(
        chain_id=CHAIN,
        session=SESSION,
        channel_id=bytes([index]) * 32,
        client=b"\5" * 32,
        node=key.public_key,
        profile=b"\6" * 32,
        start=index,
        end=index + 1,
    )


def test_honest_chain():
    said, work, receipts = build_chain()
    validate_chain(receipts, [7, 7, 7], said, work)
    for index, receipt in enumerate(receipts):
        key = SecretKey(bytes([index + 10]) * 32)
        validate_own_trail(receipt, build_contribution(key, index), ReceiptTrail())


def test_broken_links_name_their_hop():
    said, work, receipts = build_chain()
    for order in ([1, 0, 2], [0, 2, 1], [2, 1, 0], [0, 0, 2]):
        shuffled = [receipts[i] for i in order]
        with pytest.raises(ReceiptMismatch) as caught:
            validate_chain(shuffled, [7, 7, 7], said, work)
        assert caught.value.peer_id in {r.node for r in receipts}
    with pytest.raises(ReceiptMismatch, match="7 units where 8"):
        validate_chain(receipts, [7, 8, 7], said, work)
    other = build_range(out_bytes=b"another answer")
    with pytest.raises(ReceiptMismatch, match="another answer") as caught:
        validate_chain(receipts, [7, 7, 7], said, other)
    assert caught.value.peer_id == receipts[-1].node


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_id": bytes(32)},
        {"session": bytes(32)},
        {"first_position": 1},
        {"tokens": 4},
        {"in_hash": bytes(32)},
        {"signer": KEY.public_key},
        {"signature": bytes(64)},
    ],
)
def test_signed_inputs(changes):
    work = build_range()
    said = sign_input(CHAIN, SESSION, work, SIGNER.public_key, SIGNER.sign)
    assert verify_input(said)
    validate_input(said, CHAIN, SESSION, SIGNER.public_key, work)
    forged = msgspec.structs.replace(said, **changes)
    with pytest.raises(ReceiptMismatch):
        validate_input(forged, CHAIN, SESSION, SIGNER.public_key, work)


def test_predecessors():
    _, _, receipts = build_chain()
    work = build_range(in_bytes=b"0")
    node = receipts[0].node
    validate_predecessor(receipts[0], CHAIN, SESSION, node, 1, work)
    for receipt, own, end, mine in (
        (receipts[1], node, 1, work),
        (receipts[0], node, 2, work),
        (receipts[0], node, 1, build_range(in_bytes=b"1")),
        (receipts[0], node, 1, build_range(4, in_bytes=b"0")),
        (msgspec.structs.replace(receipts[0], nonce=1), node, 1, work),
        (msgspec.structs.replace(receipts[0], session=bytes(32)), node, 1, work),
    ):
        with pytest.raises(ReceiptMismatch):
            validate_predecessor(receipt, CHAIN, SESSION, own, end, mine)


# Work records


def build_account(nonces, decode_us):
    receipts = []
    for nonce in nonces:
        receipt = sign_receipt(
            build_contribution(KEY), ReceiptTrail(), build_range(),
            previous_hop=bytes(32), nonce=nonce, expires_height=9, sign=KEY.sign,
        )  # fmt: skip
        receipts.append(receipt)
    return SessionAccount(
        session=SESSION,
        channel_id=bytes(32),
        client=bytes(32),
        start=2,
        end=4,
        unit_price=5,
        receipts=tuple(receipts),
        tokens_in=3 * len(receipts),
        tokens_out=len(decode_us),
        billed_units=7 * len(receipts),
        claimed_units=7 * len(receipts),
        decode_us=tuple(decode_us),
        code=0,
    )


def test_work_record_of_several_sessions():
    first, second = build_account([0, 3], [10, 30]), build_account([1, 2], [20])
    work = build_work_record([first, second])
    assert work == build_work_record([second, first])
    assert (work.receipts, work.start, work.end) == (4, 2, 4)
    assert (work.tokens_in, work.tokens_out) == (12, 3)
    assert work.price_sum == 4 * 7 * 5
    assert work.median_us == 20
    assert build_work_record([build_account([0], [])]).median_us == 0


def test_accounts_are_stored():
    account = build_account([0, 1], [5, 6])
    assert decode(SessionAccount, encode(account)) == account
