"""Withdraw: the payer takes the rest of a channel after the grace window."""

from chain.contracts.claims import end_channel, get_channel, validate_payer
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger
from chain.records.channel import ChannelStatus, Withdraw

WITHDRAW_WORK = 60


def compute_withdraw_work(payload: Withdraw) -> int:
    """Return the work units of a withdrawal."""
    return WITHDRAW_WORK


def compute_withdraw_outflow(ledger: Ledger, sender: bytes, payload: Withdraw) -> int:
    """Return 0: withdrawing only brings in."""
    return 0


def apply_withdraw(
    ledger: Ledger, context: Context, call: Call, payload: Withdraw
) -> None:
    """End the channel.

    Raises:
        RuleError: unknown_channel, not_payer, not_closing, grace_window.
    """
    channel = get_channel(ledger, payload.channel_id)
    validate_payer(channel, call)
    if channel.status != ChannelStatus.CLOSING:
        raise RuleError("not_closing", "request the close first")
    if context.height < channel.close_height:
        raise RuleError(
            "grace_window",
            f"withdraw from height {channel.close_height}, now {context.height}",
        )
    end_channel(ledger, context, channel, "channel_withdrawn")
