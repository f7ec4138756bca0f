r"""
Payment channels: one payer, one payee, one deposit, one direction.

Plain data and its hashes; the rules stand one per file beside this one.

    OPEN --Close (payee)-----------------------> gone
     | \--RequestClose (payer)--> CLOSING --Withdraw, after the grace window--^
     +--TopUp, Settle--+            (TopUp returns to OPEN; Settle, Close still work)

A voucher promises `cumulative` atoms plus up to `units` units of `unit_price`, of
which the payer releases one by one by giving preimages of a hash chain: who holds x
with H^k(x) = chain_root holds k units.  One signature so pays for 1,024 steps, and a
step costs one hash.

Spec: docs/protocol/05-channels.md
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from chain.records.proof import WorkRecord
from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.keys import verify_signature
from primitives.types import (
    U63,
    Address,
    Amount,
    Hash32,
    Height,
    Nonce,
    PublicKey,
    ShardId,
    Signature,
)

MAX_OPENINGS = 16
"""Channels in one transaction: a route has at most as many hops."""
MAX_UNITS = 1024
"""Units of one voucher: verifying a claim costs that many hashes, about 1.2 ms."""

Units = Annotated[int, Meta(ge=0, le=MAX_UNITS)]


class Opening(Record):
    """One channel to open."""

    payee: Address
    signer: PublicKey
    """Signs the vouchers: a session key, so that the wallet key can stay cold."""
    deposit: Amount
    """Atoms locked, at least 1."""
    unit_price: Amount
    """Atoms per unit, at least 1; fixed for the channel's life."""


class OpenChannels(Record, tag=3):
    """Open up to `MAX_OPENINGS` channels, all or none."""

    openings: Annotated[
        tuple[Opening, ...], Meta(min_length=1, max_length=MAX_OPENINGS)
    ]


class Voucher(Record):
    """The signer's promise of everything owed so far and of some units more."""

    channel_id: Hash32
    """Names one opening of one channel, so it never counts in another."""
    cumulative: Amount
    """Atoms in all before this voucher's first unit, not an increment."""
    chain_root: Hash32
    """End of the hash chain whose preimages release the units."""
    unit_price: Amount
    units: Units
    """Length of the hash chain."""
    signature: Signature


class Claim(Record):
    """A voucher and how far its hash chain was released."""

    voucher: Voucher
    used: Units
    """Units released."""
    preimage: Hash32
    """H^used(preimage) = chain_root; with 0 units the root itself."""


class Payment(Record):
    """What the payer hands to the payee for a step; never on chain."""

    voucher: Voucher | None
    """Present when it is new: it folds everything paid so far and this payment."""
    used: Units
    """Units of the newest voucher that are released now, not an increment."""
    preimage: Hash32
    """H^used(preimage) = the newest voucher's chain_root."""


class TopUp(Record, tag=4):
    """The payer adds to the deposit; a pending close is cancelled."""

    channel_id: Hash32
    amount: Amount


class Settle(Record, tag=5):
    """The payee cashes its best claim and keeps the channel."""

    channel_id: Hash32
    claim: Claim
    work: WorkRecord


class Close(Record, tag=6):
    """The payee ends the channel: the claim, if any, is paid, the rest goes back."""

    channel_id: Hash32
    claim: Claim | None
    work: WorkRecord | None
    """Present exactly when there is a claim."""


class RequestClose(Record, tag=7):
    """The payer starts the grace window after which it may withdraw."""

    channel_id: Hash32


class Withdraw(Record, tag=8):
    """The payer takes the rest after the grace window."""

    channel_id: Hash32


class ChannelStatus(IntEnum):
    """Life of a channel."""

    OPEN = 1
    CLOSING = 2
    """The payer has requested the close; the grace window runs."""
    CLOSED = 3
    """Ended; only histories show such records, the state forgets them."""


class Channel(Record):
    """A channel as the shard's state holds it."""

    channel_id: Hash32
    shard: ShardId
    payer: Address
    payee: Address
    signer: PublicKey
    deposit: Amount
    """Atoms locked in all; grows with every top-up."""
    unit_price: Amount
    settled: Amount
    """Atoms paid to the payee so far, at most `deposit`."""
    status: ChannelStatus
    close_height: Height
    """From this height on the payer may withdraw; 0 unless CLOSING."""
    opened_height: Height
    settlements: U63
    """How often the payee has settled."""
    worked: Amount
    """Atoms of work posted so far; `settled` never exceeds it."""


class OpenPair(Record):
    """Names the one open channel of a payer and a payee in a shard."""

    channel_id: Hash32


def compute_channel_id(
    chain_id: bytes,
    shard: ShardId,
    payer: bytes,
    payee: bytes,
    signer: bytes,
    nonce: Nonce,
    index: int,
) -> bytes:
    """Return the name of the channel opened by opening `index` of a transaction.

    The nonce is the opening transaction's, so a name is never used twice.
    """
    fields = (chain_id, shard, payer, payee, signer, nonce, index)
    return compute_hash("channel", encode(fields))


def compute_voucher_message(chain_id: bytes, voucher: Voucher) -> bytes:
    """Return the bytes that the channel's signer signs."""
    fields = (
        voucher.channel_id,
        voucher.cumulative,
        voucher.chain_root,
        voucher.unit_price,
        voucher.units,
    )
    return compute_hash("voucher", chain_id, encode(fields))


def verify_voucher(chain_id: bytes, voucher: Voucher, signer: bytes) -> bool:
    """Tell whether `signer` signed the voucher for this chain."""
    message = compute_voucher_message(chain_id, voucher)
    return verify_signature(signer, message, voucher.signature)


def compute_payword(preimage: bytes, steps: int) -> bytes:
    """Return H^steps(preimage) of the PayWord hash chain."""
    for _ in range(steps):
        preimage = compute_hash("payword", preimage)
    return preimage


def verify_preimage(claim: Claim) -> bool:
    """Tell whether the claim's preimage releases as many units as it says."""
    return compute_payword(claim.preimage, claim.used) == claim.voucher.chain_root


def compute_total(claim: Claim) -> int:
    """Return the atoms that the claim is worth in all."""
    return claim.voucher.cumulative + claim.used * claim.voucher.unit_price
