"""Settle: the payee cashes its best claim, posts its work and keeps the channel."""

from chain.contracts.claims import (
    compute_claim_delta,
    get_channel,
    pay_claim,
    validate_payee,
)
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger
from chain.records.channel import Settle
from chain.records.keys import build_channel_key

SETTLE_WORK = 200


def compute_settle_work(payload: Settle) -> int:
    """Return the work units of a settlement: a signature, and a hash per unit."""
    return SETTLE_WORK + 2 * payload.claim.used


def compute_settle_outflow(ledger: Ledger, sender: bytes, payload: Settle) -> int:
    """Return 0: settling only brings in."""
    return 0


def apply_settle(ledger: Ledger, context: Context, call: Call, payload: Settle) -> None:
    """Pay the claim.

    Raises:
        RuleError: unknown_channel, not_payee, nothing_to_settle, and what
            `compute_claim_delta` and `pay_claim` raise.
    """
    channel = get_channel(ledger, payload.channel_id)
    validate_payee(channel, call)
    delta = compute_claim_delta(context, channel, payload.claim)
    if delta == 0:
        raise RuleError(
            "nothing_to_settle", f"{channel.settled} atoms are settled already"
        )
    channel = pay_claim(ledger, context, channel, delta, payload.work)
    ledger.put(build_channel_key(channel.channel_id), channel)
