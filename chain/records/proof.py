"""
Receipts and work records: the chain of contribution.

A hop signs one receipt per few tokens: what came in, what went out, for whom and for
how much.  Each names the receipt of the hop before it and the hop's own previous one,
so a session's receipts form a net in which nobody can move a link alone.  Receipts
are gossiped; the chain keeps the Merkle root over them, inside the work record that
comes with a settlement: leaf i is the receipt with nonce i of that record.

Spec: docs/protocol/05-channels.md
"""

from collections.abc import Sequence

import msgspec

from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.keys import verify_signature
from primitives.merkle import compute_list_root
from primitives.types import (
    U16,
    U32,
    U63,
    Address,
    Amount,
    Hash32,
    Height,
    PublicKey,
    Signature,
)


class Receipt(Record):
    """A hop's signed account of one forward pass or a few."""

    chain_id: Hash32
    session: Hash32
    channel_id: Hash32
    """The channel that pays for this work."""
    client: Address
    """The payer's account."""
    node: PublicKey
    """The node key of the hop's registration; signs this receipt."""
    profile: Hash32
    start: U16
    """First layer computed."""
    end: U16
    """One past the last layer computed."""
    first_position: U32
    """Position of the first token in the sequence."""
    tokens: U32
    in_hash: Hash32
    out_hash: Hash32
    history_root: Hash32
    """Hash chain over positions and inputs of the session so far."""
    price_units: U32
    """Units of the channel's unit price that this work costs."""
    nonce: U63
    """The receipt's leaf number in the hop's next work record."""
    previous_hop: Hash32
    """`compute_receipt_hash` of the hop before; first hop: hash of the client's
    signed input."""
    previous_own: Hash32
    """This hop's receipt before, `EMPTY_HASH` for the first."""
    expires_height: Height
    """After this height nobody owes anybody an answer about it."""
    signature: Signature


class WorkRecord(Record):
    """What a settlement was for; posted with it, bounds what it may pay."""

    work_root: Hash32
    """`compute_work_root` of the receipts."""
    receipts: U32
    start: U16
    """First layer served."""
    end: U16
    """One past the last layer served."""
    tokens_in: U63
    """Tokens processed as input (prefill)."""
    tokens_out: U63
    """Tokens decoded."""
    price_sum: Amount
    """Atoms that the receipts cost together."""
    median_us: U32
    """Median time of a decode step, microseconds."""


class WorkEntry(Record):
    """A posted work record with its circumstances, as the state keeps it."""

    number: U63
    """Counts the payee's posted records in this shard from 0."""
    payee: Address
    payer: Address
    channel_id: Hash32
    height: Height
    """Height of the block's parent: the rule's "now"."""
    paid: Amount
    """Atoms that the settlement moved."""
    work: WorkRecord


def compute_receipt_message(receipt: Receipt) -> bytes:
    """Return the bytes that the node key signs: everything but the signature."""
    return compute_hash("receipt", encode(msgspec.structs.astuple(receipt)[:-1]))


def compute_receipt_hash(receipt: Receipt) -> bytes:
    """Return the name of a signed receipt."""
    return compute_hash("receipt-id", encode(receipt))


def verify_receipt(receipt: Receipt) -> bool:
    """Tell whether the receipt is signed by the node that it names."""
    message = compute_receipt_message(receipt)
    return verify_signature(receipt.node, message, receipt.signature)


def compute_work_root(receipts: Sequence[Receipt]) -> bytes:
    """Return the Merkle root over the receipts in nonce order."""
    return compute_list_root([encode(receipt) for receipt in receipts])
