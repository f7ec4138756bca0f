"""Close: the payee ends the channel; its claim is paid, the rest goes back."""

from chain.contracts.claims import (
    compute_claim_delta,
    end_channel,
    get_channel,
    pay_claim,
    validate_payee,
)
from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger
from chain.records.channel import Close

CLOSE_WORK = 200


def compute_close_work(payload: Close) -> int:
    """Return the work units of a close."""
    return CLOSE_WORK + (2 * payload.claim.used if payload.claim is not None else 0)


def compute_close_outflow(ledger: Ledger, sender: bytes, payload: Close) -> int:
    """Return 0: closing only brings in."""
    return 0


def apply_close(ledger: Ledger, context: Context, call: Call, payload: Close) -> None:
    """Pay the claim, if there is one, and give the payer the rest.

    A claim that is settled already is no error, so that a payee may always close with
    the best claim it holds.

    Raises:
        RuleError: unknown_channel, not_payee, bad_work_record, and what
            `compute_claim_delta` and `pay_claim` raise.
    """
    channel = get_channel(ledger, payload.channel_id)
    validate_payee(channel, call)
    if (payload.claim is None) != (payload.work is None):
        raise RuleError("bad_work_record", "claim and work record come together")
    if payload.claim is not None and payload.work is not None:
        delta = compute_claim_delta(context, channel, payload.claim)
        if delta > 0:
            channel = pay_claim(ledger, context, channel, delta, payload.work)
    end_channel(ledger, context, channel, "channel_closed")
