"""
Building transactions: nonce, fee limit, lifetime and signature around a payload.

Everything that a transaction depends on comes in as an argument, so building the same
request twice gives the same bytes: a wallet that is not sure whether its first try was
heard may send it again without paying twice.

The fee follows from the length, and the length from the fee limit written in it.  We
measure with every number at its longest, which gives a limit that is always enough and
a few bytes too generous; what is charged is the fee, never the limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chain.contracts.rules import compute_fee
from chain.records.channel import OpenChannels
from chain.records.params import ChainParams
from chain.records.transaction import (
    TRANSACTION_VERSION,
    Payload,
    SignedTransaction,
    Transaction,
    decode_transaction,
    sign_transaction,
)
from chain.records.transfer import Transfer
from primitives.codec import encode
from primitives.errors import RemoteError
from primitives.keys import SecretKey
from primitives.types import Height, Nonce, ShardId
from wallet.errors import InvalidTransaction

DEFAULT_LIFETIME_BLOCKS = 120
"""Two minutes of blocks: after that an unheard transaction is surely dead."""

_LONGEST_NUMBER = 2**63 - 1
_ANY_HASH = bytes(32)
_ANY_SIGNATURE = bytes(64)


@dataclass(frozen=True, slots=True)
class ChainView:
    """What a wallet must know of the chain to write transactions."""

    chain_id: bytes
    params: ChainParams
    height: Height
    """Of the newest final block."""
    nonces: Mapping[ShardId, Nonce]
    """The account's next nonce per shard, waiting transactions counted; 0 if absent."""


def build_transaction(
    key: SecretKey,
    view: ChainView,
    shard: ShardId,
    payload: Payload,
    *,
    lifetime_blocks: int = DEFAULT_LIFETIME_BLOCKS,
) -> SignedTransaction:
    """Return the signed transaction that runs `payload` in `shard`.

    Raises:
        InvalidTransaction: The payload could never be accepted; says why.
    """
    requests = [(shard, payload)]
    built = build_transactions(key, view, requests, lifetime_blocks=lifetime_blocks)
    return built[0]


def build_transactions(
    key: SecretKey,
    view: ChainView,
    requests: Sequence[tuple[ShardId, Payload]],
    *,
    lifetime_blocks: int = DEFAULT_LIFETIME_BLOCKS,
) -> tuple[SignedTransaction, ...]:
    """Return signed transactions in order, with consecutive nonces in each shard.

    Raises:
        InvalidTransaction: A payload could never be accepted; says why.
    """
    nonces = dict(view.nonces)
    lifetime = min(lifetime_blocks, view.params.validity_blocks)
    built = []
    for shard, payload in requests:
        validate_payload(payload, key.public_key)
        transaction = Transaction(
            version=TRANSACTION_VERSION,
            chain_id=view.chain_id,
            shard=shard,
            sender=key.public_key,
            nonce=nonces.get(shard, 0),
            fee_limit=estimate_fee(view.params, payload),
            valid_until_height=view.height + lifetime,
            payload=payload,
        )
        built.append(_sign(transaction, key))
        nonces[shard] = transaction.nonce + 1
    return tuple(built)


def estimate_fee(params: ChainParams, payload: Payload) -> int:
    """Return the atoms that a transaction with this payload costs at most."""
    longest = SignedTransaction(
        Transaction(
            version=TRANSACTION_VERSION,
            chain_id=_ANY_HASH,
            shard=2**16 - 1,
            sender=_ANY_HASH,
            nonce=_LONGEST_NUMBER,
            fee_limit=_LONGEST_NUMBER,
            valid_until_height=_LONGEST_NUMBER,
            payload=payload,
        ),
        _ANY_SIGNATURE,
    )
    return compute_fee(params, payload, len(encode(longest)))


def estimate_transfer_fee(params: ChainParams) -> int:
    """Return the atoms that a transfer of any amount to any shard costs at most."""
    longest = Transfer(_ANY_HASH, 2**16 - 1, _LONGEST_NUMBER)
    return estimate_fee(params, longest)


def validate_payload(payload: Payload, sender: bytes) -> None:
    """Refuse what would only burn its fee.

    Raises:
        InvalidTransaction: A zero amount, price or deposit, or a channel to oneself.
    """
    match payload:
        case Transfer(amount=0):
            raise InvalidTransaction("a transfer moves at least 1 atom")
        case OpenChannels(openings=openings):
            for opening in openings:
                if opening.deposit == 0 or opening.unit_price == 0:
                    raise InvalidTransaction(
                        "a channel needs a deposit and a unit price of at least 1 atom"
                    )
                if opening.payee == sender:
                    raise InvalidTransaction("payer and payee are the same account")
        case _:
            pass


def _sign(transaction: Transaction, key: SecretKey) -> SignedTransaction:
    signed = sign_transaction(transaction, key)
    try:
        # Numbers out of range and texts too long show only when bytes are read back.
        return decode_transaction(encode(signed))
    except (RemoteError, OverflowError) as error:
        raise InvalidTransaction(f"no node would read it: {error}") from error
