"""
The transaction envelope: who asks for what, in which shard, at what cost.

Everything but the signature is signed, the shard included: a transfer without it
would replay in every other shard where the sender has the same nonce.

Spec: docs/protocol/02-transactions.md
"""

from chain.errors import MalformedTransaction, OversizedTransaction
from chain.records.channel import (
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)
from chain.records.registration import Register
from chain.records.resharding import Reshard, ReshardVote
from chain.records.staking import Bond, Unbond
from chain.records.transfer import Transfer
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from primitives.keys import SecretKey, verify_signature
from primitives.types import (
    U8,
    Address,
    Amount,
    Hash32,
    Height,
    Nonce,
    ShardId,
    Signature,
)

TRANSACTION_VERSION = 1

MAX_TRANSACTION_BYTES = 8 * 1024
"""The longest kind, sixteen channel openings, is below 3 KiB; a chunk takes dozens."""

Payload = (
    Transfer
    | Register
    | OpenChannels
    | TopUp
    | Settle
    | Close
    | RequestClose
    | Withdraw
    | Bond
    | Unbond
    | Reshard
    | ReshardVote
)
"""What a transaction does; the union's tag is the transaction's kind."""


class Transaction(Record):
    """An unsigned transaction."""

    version: U8
    chain_id: Hash32
    shard: ShardId
    """Where it runs, pays its fee and counts its nonce."""
    sender: Address
    nonce: Nonce
    """The sender's transactions in this shard so far."""
    fee_limit: Amount
    """Atoms; the transaction is not valid if its fee is higher."""
    valid_until_height: Height
    """Last height of a parent block on which it may be executed."""
    payload: Payload


class SignedTransaction(Record):
    """A transaction and its sender's Ed25519 signature."""

    transaction: Transaction
    signature: Signature


def compute_signing_bytes(transaction: Transaction) -> bytes:
    """Return the 32 bytes that the sender signs."""
    return compute_hash("tx-sign", encode(transaction))


def sign_transaction(transaction: Transaction, secret: SecretKey) -> SignedTransaction:
    """Return the transaction signed by its sender."""
    assert secret.public_key == transaction.sender
    signature = secret.sign(compute_signing_bytes(transaction))
    return SignedTransaction(transaction, signature)


def verify_transaction(signed: SignedTransaction) -> bool:
    """Tell whether the sender signed the transaction."""
    message = compute_signing_bytes(signed.transaction)
    return verify_signature(signed.transaction.sender, message, signed.signature)


def compute_tx_id(signed_bytes: bytes) -> bytes:
    """Return the name of a transaction from the bytes of its signed form."""
    return compute_hash("tx", signed_bytes)


def get_kind(payload: Payload) -> int:
    """Return the payload's union tag, the transaction's kind."""
    kind = payload.__struct_config__.tag
    assert isinstance(kind, int)
    return kind


def decode_transaction(signed_bytes: bytes) -> SignedTransaction:
    """Return the signed transaction that the bytes encode.

    Raises:
        OversizedTransaction: More than `MAX_TRANSACTION_BYTES`.
        MalformedTransaction: Not the canonical encoding of a signed transaction.
    """
    if len(signed_bytes) > MAX_TRANSACTION_BYTES:
        raise OversizedTransaction(
            f"{len(signed_bytes)} bytes, at most {MAX_TRANSACTION_BYTES} are allowed"
        )
    try:
        return decode(SignedTransaction, signed_bytes)
    except DecodeError as error:
        raise MalformedTransaction(str(error)) from error
