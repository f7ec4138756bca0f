"""TopUp: the payer adds to a channel's deposit; a pending close is cancelled."""

import msgspec

from chain.contracts.claims import get_channel, validate_payer
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger, debit
from chain.ledger.phase import validate_active
from chain.records.channel import ChannelStatus, TopUp
from chain.records.keys import build_channel_key
from chain.records.outcome import Event

TOP_UP_WORK = 50


def compute_top_up_work(payload: TopUp) -> int:
    """Return the work units of a top-up."""
    return TOP_UP_WORK


def compute_top_up_outflow(ledger: Ledger, sender: bytes, payload: TopUp) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return payload.amount


def apply_top_up(ledger: Ledger, context: Context, call: Call, payload: TopUp) -> None:
    """Add to the deposit.

    Only the payer may: anybody else's atom would cancel its close for ever.

    Raises:
        RuleError: shard_retiring, unknown_channel, not_payer, zero_amount,
            insufficient_funds.
    """
    validate_active(context)
    channel = get_channel(ledger, payload.channel_id)
    validate_payer(channel, call)
    if payload.amount == 0:
        raise RuleError("zero_amount", "a top-up adds at least 1 atom")
    debit(ledger, context, call.sender, payload.amount)
    channel = msgspec.structs.replace(
        channel,
        deposit=channel.deposit + payload.amount,
        status=ChannelStatus.OPEN,
        close_height=0,
    )
    ledger.put(build_channel_key(channel.channel_id), channel)
    parties = (channel.payer, channel.payee)
    ledger.note(Event("channel_topped_up", channel.channel_id, parties, payload.amount))
