"""The transaction envelope: encoding, identity, and everything a chunk refuses."""

import pytest
from chain_world import ALICE, BOB, COIN, DAVE, SPEC
from channel_helpers import build_claim, build_opening, build_work
from hypothesis import given
from hypothesis import strategies as st
from mini_chain import MiniChain
from test_register import build_offer

from chain.contracts.rules import RULES, compute_fee, compute_work
from chain.errors import (
    BadSignature,
    CannotPay,
    Expired,
    FeeAboveLimit,
    MalformedTransaction,
    OversizedTransaction,
    WrongChain,
    WrongNonce,
    WrongShard,
    WrongVersion,
)
from chain.records.channel import (
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)
from chain.records.proposal import SplitShard
from chain.records.resharding import Reshard, ReshardVote
from chain.records.staking import Bond, Unbond
from chain.records.transaction import (
    MAX_TRANSACTION_BYTES,
    SignedTransaction,
    Transaction,
    compute_signing_bytes,
    decode_transaction,
    get_kind,
    sign_transaction,
    verify_transaction,
)
from chain.records.transfer import Transfer
from primitives.codec import encode

CHANNEL = bytes([3]) * 32
COIN_BYTES = b"\xce" + COIN.to_bytes(4, "big")
PAYLOADS = [
    Transfer(BOB.public_key, 1, 5),
    build_offer(),
    OpenChannels((build_opening(),)),
    TopUp(CHANNEL, 5),
    Settle(CHANNEL, build_claim(CHANNEL), build_work()),
    Close(CHANNEL, None, None),
    RequestClose(CHANNEL),
    Withdraw(CHANNEL),
    Bond("new", bytes(48), bytes(96), 5),
    Unbond(5),
    Reshard(SplitShard(1, 2)),
    ReshardVote(5),
]


@pytest.fixture
def chain():
    return MiniChain()


def build(payload=PAYLOADS[0], **changes) -> Transaction:
    fields = {
        "version": 1,
        "chain_id": SPEC.chain_id,
        "shard": 1,
        "sender": ALICE.public_key,
        "nonce": 0,
        "fee_limit": COIN,
        "valid_until_height": 100,
        "payload": payload,
    } | changes
    return Transaction(**fields)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: RULES[type(p)].name)
def test_every_kind_round_trips(payload):
    signed = sign_transaction(build(payload), ALICE)
    data = encode(signed)
    assert decode_transaction(data) == signed
    assert verify_transaction(signed)
    assert len(data) <= MAX_TRANSACTION_BYTES
    assert get_kind(payload) == PAYLOADS.index(payload) + 1


def test_every_kind_has_a_rule():
    assert list(RULES) == [type(payload) for payload in PAYLOADS]
    assert all(compute_work(payload) > 0 for payload in PAYLOADS)


def test_the_largest_kind_fits():
    openings = tuple(build_opening(deposit=2**63 - 1) for _ in range(16))
    signed = sign_transaction(build(OpenChannels(openings)), ALICE)
    assert len(encode(signed)) <= MAX_TRANSACTION_BYTES


@pytest.mark.parametrize(
    "field", ["chain_id", "shard", "nonce", "fee_limit", "valid_until_height"]
)
def test_the_signature_covers_the_envelope(field):
    other = {"chain_id": bytes(32)}.get(field, 7)
    assert compute_signing_bytes(build()) != compute_signing_bytes(
        build(**{field: other})
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 2}, WrongVersion),
        ({"chain_id": bytes(32)}, WrongChain),
        ({"shard": 2}, WrongShard),
        ({"nonce": 1}, WrongNonce),
        ({"fee_limit": 1}, FeeAboveLimit),
        ({"valid_until_height": 0}, Expired),
    ],
)
def test_a_chunk_refuses(chain, changes, error):
    signed = sign_transaction(build(**changes), ALICE)
    before = dict(chain.state[1])
    run = chain.start(1)
    with pytest.raises(error) as caught:
        run.execute(encode(signed))
    assert caught.value.code == error.code
    assert str(caught.value)
    assert run.is_empty
    chain.finish(1, run)
    assert chain.state[1] == before


def test_a_transaction_is_valid_until_its_last_parent_height(chain):
    assert chain.call(ALICE, PAYLOADS[0], valid_until_height=chain.height).ok


def test_a_forged_signature(chain):
    good = sign_transaction(build(), ALICE)
    forged = SignedTransaction(build(nonce=0, fee_limit=COIN - 1), good.signature)
    with pytest.raises(BadSignature):
        chain.start(1).execute(encode(forged))
    stolen = SignedTransaction(build(sender=BOB.public_key), good.signature)
    with pytest.raises(BadSignature):
        chain.start(1).execute(encode(stolen))


def test_a_transfer_does_not_replay_in_another_shard(chain):
    """The nonces are equal in both shards; the signature is over the shard."""
    signed = sign_transaction(build(), ALICE)
    with pytest.raises(WrongShard):
        chain.start(2).execute(encode(signed))
    moved = SignedTransaction(build(shard=2), signed.signature)
    with pytest.raises(BadSignature):
        chain.start(2).execute(encode(moved))


def test_a_transaction_does_not_replay_in_its_own_shard(chain):
    signed = encode(sign_transaction(build(), ALICE))
    run = chain.start(1)
    run.execute(signed)
    with pytest.raises(WrongNonce, match="nonce 0, 1 is next"):
        run.execute(signed)


def test_who_cannot_pay_the_fee_is_in_no_block(chain):
    transaction = build(sender=DAVE.public_key)
    with pytest.raises(CannotPay, match="balance 0 < fee"):
        chain.start(1).execute(encode(sign_transaction(transaction, DAVE)))


def test_the_fee_is_charged_for_bytes_and_work(chain):
    outcome = chain.call(ALICE, PAYLOADS[0])
    data = encode(sign_transaction(build(valid_until_height=11), ALICE))
    expected = compute_fee(SPEC.params, PAYLOADS[0], len(data))
    assert outcome.fee == expected
    assert expected == SPEC.params.base_fee * (len(data) + outcome.work)


def test_too_long():
    with pytest.raises(OversizedTransaction):
        decode_transaction(bytes(MAX_TRANSACTION_BYTES + 1))


@pytest.mark.parametrize(
    "mangle",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xdc\x00\x02" + data[1:],  # longer form of the array header
        lambda data: data.replace(
            b"\xce\x3b\x9a\xca\x00", b"\xcf" + bytes(4) + b"\x3b\x9a\xca\x00"
        ),
        lambda data: b"\x93" + data[1:] + b"\xc0",  # a field too many
    ],
)
def test_bytes_that_are_not_canonical(mangle):
    data = encode(sign_transaction(build(), ALICE))
    mangled = mangle(data)
    assert mangled != data
    with pytest.raises(MalformedTransaction):
        decode_transaction(mangled)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data):
    with pytest.raises(MalformedTransaction):
        decode_transaction(data)


@given(st.integers(0, 180), st.integers(0, 255))
def test_one_changed_byte_never_passes(position, value):
    data = bytearray(encode(sign_transaction(build(), ALICE)))
    if position >= len(data) or data[position] == value:
        return
    data[position] = value
    try:
        signed = decode_transaction(bytes(data))
    except MalformedTransaction:
        return
    assert not verify_transaction(signed)
