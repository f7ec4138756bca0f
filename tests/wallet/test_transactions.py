"""Built transactions of every kind: readable, signed, with a fee limit that holds."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wallet_helpers import CHAIN_ID, PAYEE, PAYER, SESSION, open_both

from chain.contracts.rules import RULES, compute_fee
from chain.records.channel import (
    Close,
    OpenChannels,
    Opening,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)
from chain.records.params import ChainParams
from chain.records.proof import WorkRecord
from chain.records.proposal import SplitShard
from chain.records.registration import Register
from chain.records.resharding import Reshard, ReshardVote
from chain.records.staking import Bond, Unbond
from chain.records.transaction import (
    compute_tx_id,
    decode_transaction,
    verify_transaction,
)
from chain.records.transfer import Transfer
from primitives.codec import encode
from wallet.errors import InvalidTransaction
from wallet.transactions import (
    ChainView,
    build_transaction,
    build_transactions,
    estimate_fee,
    estimate_transfer_fee,
)

PARAMS = ChainParams(
    base_fee=3,
    block_bytes=2**20,
    block_work=10**6,
    chunk_transactions=1000,
    chunk_packets=1000,
    bucket_levels=5,
    backlog_limit=1000,
    max_drift_ms=1000,
    maturity_blocks=0,
    grace_blocks=900,
    collateral_tickets=550,
    ticket_tokens=128,
    shard_mirrors=100,
    validity_blocks=1000,
    epoch_blocks=60,
    unbonding_epochs=20,
    evidence_epochs=10,
    min_stake=10**9,
    epoch_reward=10**9,
)
VIEW = ChainView(CHAIN_ID, PARAMS, height=50, nonces={1: 7})

WORK = WorkRecord(b"w" * 32, 3, 0, 4, 10, 20, 500, 900)


def build_claim():
    payer, payee = open_both()
    payee, _ = payee.accept(payer.pay(3)[1])
    return payee.claim


PAYLOADS = [
    Transfer(PAYEE.public_key, 0, 5),
    Register(
        model_id=b"m" * 32,
        profile=b"p" * 32,
        start=0,
        end=4,
        input_price=1,
        output_price=2,
        measured_us=900,
        collateral=10**6,
        payout=PAYER.public_key,
        node_key=SESSION.public_key,
        addresses=("p2p://00@127.0.0.1:1",),
    ),
    OpenChannels((Opening(PAYEE.public_key, SESSION.public_key, 100, 7),) * 16),
    TopUp(b"c" * 32, 5),
    Settle(b"c" * 32, build_claim(), WORK),
    Close(b"c" * 32, None, None),
    Close(b"c" * 32, build_claim(), WORK),
    RequestClose(b"c" * 32),
    Withdraw(b"c" * 32),
    Bond("new", bytes(48), bytes(96), 5),
    Unbond(5),
    Reshard(SplitShard(1, 2)),
    ReshardVote(1),
]


def test_every_kind_is_here():
    assert {type(payload) for payload in PAYLOADS} == set(RULES)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: type(p).__name__)
def test_every_kind_is_built(payload):
    signed = build_transaction(PAYER, VIEW, 1, payload)
    data = encode(signed)
    assert decode_transaction(data) == signed
    assert verify_transaction(signed)
    transaction = signed.transaction
    assert (transaction.chain_id, transaction.shard) == (CHAIN_ID, 1)
    assert (transaction.sender, transaction.nonce) == (PAYER.public_key, 7)
    assert transaction.valid_until_height == 170
    fee = compute_fee(PARAMS, payload, len(data))
    assert fee <= transaction.fee_limit <= fee + 40 * PARAMS.base_fee


def test_the_same_request_gives_the_same_transaction():
    first, second = (build_transaction(PAYER, VIEW, 1, PAYLOADS[0]) for _ in range(2))
    assert compute_tx_id(encode(first)) == compute_tx_id(encode(second))


def test_nonces_count_per_shard():
    payload = PAYLOADS[0]
    built = build_transactions(
        PAYER, VIEW, [(1, payload), (2, payload), (1, payload), (2, payload)]
    )
    nonces = [(s.transaction.shard, s.transaction.nonce) for s in built]
    assert nonces == [(1, 7), (2, 0), (1, 8), (2, 1)]


def test_lifetime_is_bounded_by_the_chain():
    signed = build_transaction(PAYER, VIEW, 1, PAYLOADS[0], lifetime_blocks=10**9)
    assert signed.transaction.valid_until_height == 1050


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Transfer(PAYEE.public_key, 0, 0), "1 atom"),
        (Transfer(PAYEE.public_key, 0, -1), "no node"),
        (Transfer(PAYEE.public_key, 0, 2**63), "no node"),
        (Transfer(PAYEE.public_key[:31], 0, 1), "no node"),
        (Transfer(PAYEE.public_key, 2**16, 1), "no node"),
        (OpenChannels(()), "no node"),
        (
            OpenChannels((Opening(PAYER.public_key, SESSION.public_key, 1, 1),)),
            "same account",
        ),
        (
            OpenChannels((Opening(PAYEE.public_key, SESSION.public_key, 0, 1),)),
            "deposit",
        ),
        (
            OpenChannels((Opening(PAYEE.public_key, SESSION.public_key, 1, 0),)),
            "unit price",
        ),
        (msgspec.structs.replace(PAYLOADS[1], addresses=("a" * 129,)), "no node"),
        (OpenChannels(PAYLOADS[2].openings * 2), "no node"),
    ],
)
def test_what_no_shard_takes_is_not_signed(payload, message):
    with pytest.raises(InvalidTransaction, match=message):
        build_transaction(PAYER, VIEW, 1, payload)


@given(st.integers(1, 2**63 - 1), st.integers(0, 2**16 - 1))
def test_one_bound_covers_every_transfer(amount, shard):
    payload = Transfer(PAYEE.public_key, shard, amount)
    assert estimate_fee(PARAMS, payload) <= estimate_transfer_fee(PARAMS)
