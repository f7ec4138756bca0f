"""Making vouchers, claims and work records."""

from chain_world import ALICE, BOB, COIN, SIGNER, SPEC
from mini_chain import MiniChain

from chain.records.channel import (
    Claim,
    OpenChannels,
    Opening,
    Voucher,
    compute_channel_id,
    compute_payword,
    compute_voucher_message,
)
from chain.records.proof import WorkRecord
from primitives.keys import SecretKey

SEED = bytes([5]) * 32
PRICE = 1000


def sign_voucher(
    channel_id: bytes,
    cumulative: int = 0,
    units: int = 100,
    unit_price: int = PRICE,
    signer: SecretKey = SIGNER,
    chain_id: bytes = SPEC.chain_id,
) -> Voucher:
    """Return a voucher whose hash chain starts at SEED."""
    root = compute_payword(SEED, units)
    blank = Voucher(channel_id, cumulative, root, unit_price, units, bytes(64))
    signature = signer.sign(compute_voucher_message(chain_id, blank))
    return Voucher(channel_id, cumulative, root, unit_price, units, signature)


def build_claim(channel_id: bytes, used: int = 10, **voucher) -> Claim:
    """Return a claim for `used` units of a new voucher."""
    signed = sign_voucher(channel_id, **voucher)
    return Claim(signed, used, compute_payword(SEED, signed.units - used))


def build_work(price_sum: int = COIN, **changes) -> WorkRecord:
    """Return a work record that justifies up to `price_sum`."""
    fields = {
        "work_root": bytes(32),
        "receipts": 3,
        "start": 0,
        "end": 4,
        "tokens_in": 5,
        "tokens_out": 20,
        "price_sum": price_sum,
        "median_us": 900,
    } | changes
    return WorkRecord(**fields)


def build_opening(payee=BOB, deposit=COIN, unit_price=PRICE, signer=SIGNER) -> Opening:
    return Opening(payee.public_key, signer.public_key, deposit, unit_price)


def open_one(chain: MiniChain, payer=ALICE, payee=BOB, shard=1, **opening) -> bytes:
    """Open a channel and return its id."""
    nonce = chain.account(shard, payer).nonce
    outcome = chain.call(payer, OpenChannels((build_opening(payee, **opening),)), shard)
    assert outcome.ok, outcome
    return compute_channel_id(
        chain.spec.chain_id,
        shard,
        payer.public_key,
        payee.public_key,
        SIGNER.public_key,
        nonce,
        0,
    )
