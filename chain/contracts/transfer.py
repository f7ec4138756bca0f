"""Transfer: move an amount to an address, in this shard or another one."""

from chain.contracts.credit import Credit
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger, credit, debit, send_packet
from chain.ledger.phase import validate_open
from chain.records.outcome import Event
from chain.records.transfer import Transfer
from shards.packet import PacketKind

TRANSFER_WORK = 50


def compute_transfer_work(payload: Transfer) -> int:
    """Return the work units of a transfer."""
    return TRANSFER_WORK


def compute_transfer_outflow(ledger: Ledger, sender: bytes, payload: Transfer) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return payload.amount


def apply_transfer(
    ledger: Ledger, context: Context, call: Call, payload: Transfer
) -> None:
    """Move the amount.

    Raises:
        RuleError: zero_amount, unknown_shard, shard_closed, insufficient_funds,
            congested.
    """
    if payload.amount == 0:
        raise RuleError("zero_amount", "a transfer moves at least 1 atom")
    if payload.shard not in context.layout.shard_ids:
        raise RuleError("unknown_shard", f"there is no shard {payload.shard}")
    if payload.shard != context.shard:
        validate_open(context, payload.shard)
    debit(ledger, context, call.sender, payload.amount)
    if payload.shard == context.shard:
        credit(ledger, context, payload.recipient, payload.amount)
    else:
        send_packet(
            ledger,
            context,
            payload.shard,
            PacketKind.CREDIT,
            payload.amount,
            Credit(payload.recipient, call.sender),
        )
    parties = (call.sender, payload.recipient)
    ledger.note(Event("transfer", b"", parties, payload.amount))
