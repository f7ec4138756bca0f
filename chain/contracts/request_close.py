"""RequestClose: the payer starts the grace window."""

import msgspec

from chain.contracts.claims import get_channel, validate_payer
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger
from chain.records.channel import ChannelStatus, RequestClose
from chain.records.keys import build_channel_key
from chain.records.outcome import Event

REQUEST_CLOSE_WORK = 50


def compute_request_close_work(payload: RequestClose) -> int:
    """Return the work units of a request."""
    return REQUEST_CLOSE_WORK


def compute_request_close_outflow(
    ledger: Ledger, sender: bytes, payload: RequestClose
) -> int:
    """Return 0: nothing moves yet."""
    return 0


def apply_request_close(
    ledger: Ledger, context: Context, call: Call, payload: RequestClose
) -> None:
    """Start the window in which the payee can still settle its best claim.

    Raises:
        RuleError: unknown_channel, not_payer, already_closing.
    """
    channel = get_channel(ledger, payload.channel_id)
    validate_payer(channel, call)
    if channel.status == ChannelStatus.CLOSING:
        raise RuleError(
            "already_closing", f"closes at height {channel.close_height} already"
        )
    channel = msgspec.structs.replace(
        channel,
        status=ChannelStatus.CLOSING,
        close_height=context.height + context.params.grace_blocks,
    )
    ledger.put(build_channel_key(channel.channel_id), channel)
    parties = (channel.payer, channel.payee)
    ledger.note(Event("close_requested", channel.channel_id, parties, 0))
