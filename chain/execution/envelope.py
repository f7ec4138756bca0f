"""
What has to be right about a transaction before its rule is asked.

Whatever is wrong here keeps the transaction out of every block, and nothing is charged.
"""

from chain.errors import (
    BadSignature,
    CannotPay,
    Expired,
    FeeAboveLimit,
    ShardClosed,
    ShardHalted,
    WrongChain,
    WrongNonce,
    WrongShard,
    WrongVersion,
)
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, get_account
from chain.ledger.phase import Phase, get_phase
from chain.records.transaction import (
    TRANSACTION_VERSION,
    SignedTransaction,
    verify_transaction,
)


def validate_envelope(
    ledger: Ledger, context: Context, signed: SignedTransaction, fee: int
) -> None:
    """Check everything but the signature.

    Raises:
        InvalidTransaction: WrongVersion, WrongChain, WrongShard, Expired,
            FeeAboveLimit, WrongNonce or CannotPay.
    """
    transaction = signed.transaction
    validate_static(context, signed, fee)
    account = get_account(ledger, transaction.sender, context.height)
    if transaction.nonce != account.nonce:
        raise WrongNonce(f"nonce {transaction.nonce}, {account.nonce} is next")
    if account.balance < fee:
        raise CannotPay(f"balance {account.balance} < fee {fee}")


def validate_static(context: Context, signed: SignedTransaction, fee: int) -> None:
    """Check what does not depend on the sender's account.

    Raises:
        InvalidTransaction: WrongVersion, WrongChain, WrongShard, ShardHalted,
            ShardClosed, Expired or FeeAboveLimit.
    """
    transaction = signed.transaction
    if transaction.version != TRANSACTION_VERSION:
        raise WrongVersion(f"version {transaction.version}, not {TRANSACTION_VERSION}")
    if transaction.chain_id != context.chain_id:
        raise WrongChain(
            f"for chain {transaction.chain_id.hex()[:16]}, "
            f"this is {context.chain_id.hex()[:16]}"
        )
    if transaction.shard != context.shard:
        raise WrongShard(f"for shard {transaction.shard}, this is {context.shard}")
    if context.shard in context.halted:
        raise ShardHalted(f"shard {context.shard} is halted")
    if get_phase(context) == Phase.SWEEPING:
        raise ShardClosed(f"shard {context.shard} is being emptied")
    if transaction.valid_until_height < context.height:
        raise Expired(
            f"valid until height {transaction.valid_until_height}, now {context.height}"
        )
    if fee > transaction.fee_limit:
        raise FeeAboveLimit(f"fee {fee} > limit {transaction.fee_limit}")


def verify_once(
    verified: VerifiedCache, tx_id: bytes, signed: SignedTransaction
) -> None:
    """Check the signature unless it was checked before.

    Raises:
        BadSignature: The sender did not sign this.
    """
    if tx_id in verified:
        return
    if not verify_transaction(signed):
        raise BadSignature("the sender did not sign this transaction")
    verified.add(tx_id)
