"""
What a channel can be cashed for: the best claim that the work behind it bears.

The chain pays nothing beyond the work that was posted on a channel.  Nearly always the
claim is within it; it is above it when a customer paid more than it owes, or when a
crash took the range that no receipt covered yet.  Then the claim is cut: a preimage
hashed forward releases fewer units of the same voucher.  What is cut off stays where
it is, until more work bears it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chain.records.channel import Channel, Claim, compute_payword, compute_total
from chain.records.proof import Receipt, WorkRecord, compute_work_root
from inference.protocol.account import SessionAccount, build_work_record
from inference.protocol.codes import AbortCode
from inference.protocol.steps import PREFILL_TOKENS, RANGE_STEPS

NO_WORK = WorkRecord(
    work_root=compute_work_root([]),
    receipts=0,
    start=0,
    end=0,
    tokens_in=0,
    tokens_out=0,
    price_sum=0,
    median_us=0,
)
"""For work that was posted before it was paid, and is paid now."""


@dataclass(frozen=True, slots=True)
class Cashing:
    """A claim that the chain will pay, and the work record to go with it."""

    claim: Claim
    work: WorkRecord


def plan_cashing(
    channel: Channel, claim: Claim, sessions: Sequence[SessionAccount]
) -> Cashing | None:
    """Return the most that a channel can be cashed for now.

    Args:
        channel: As the chain shows it.
        claim: The best that we hold.
        sessions: Those that were not posted yet.

    Returns:
        None when there is nothing to gain.
    """
    work = build_work_record(sessions) if sessions else NO_WORK
    cut = cut_claim(claim, channel.worked + work.price_sum)
    if cut is None or compute_total(cut) <= channel.settled:
        return None
    return Cashing(cut, work)


def cut_claim(claim: Claim, limit: int) -> Claim | None:
    """Return the best part of a claim that is worth at most `limit` atoms.

    None when even the voucher alone, with no unit of it released, is worth more.
    """
    excess = compute_total(claim) - limit
    if excess <= 0:
        return claim
    units = -(-excess // claim.voucher.unit_price)
    if units > claim.used:
        return None
    preimage = compute_payword(claim.preimage, units)
    return Claim(claim.voucher, claim.used - units, preimage)


def recover_session(receipts: Sequence[Receipt], unit_price: int) -> SessionAccount:
    """Return the account of a session of which only its receipts are left.

    Args:
        receipts: Of one session, at least one, by nonce; one that was withdrawn when
            the route changed comes before the one in its place.
        unit_price: Of the channel, in atoms.
    """
    receipts = _drop_withdrawn(receipts)
    first = receipts[0]
    units = sum(receipt.price_units for receipt in receipts)
    tokens = sum(receipt.tokens for receipt in receipts)
    tokens_in = _count_prompt(receipts)
    return SessionAccount(
        session=first.session,
        channel_id=first.channel_id,
        client=first.client,
        start=first.start,
        end=first.end,
        unit_price=unit_price,
        receipts=tuple(receipts),
        tokens_in=tokens_in,
        tokens_out=tokens - tokens_in,
        billed_units=units,
        claimed_units=units,
        decode_us=(),
        code=AbortCode.INTERNAL,
    )


def _drop_withdrawn(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Return the receipts without those in whose place a later one was signed.

    Both follow the same one.
    """
    kept: dict[bytes, Receipt] = {}
    for receipt in receipts:
        if receipt.previous_own in kept:
            followed = list(kept)
            for name in followed[followed.index(receipt.previous_own) :]:
                del kept[name]
        kept[receipt.previous_own] = receipt
    return list(kept.values())


def _count_prompt(receipts: Sequence[Receipt]) -> int:
    """Return the prompt's tokens: full prefill steps and the one after them.

    After a full step a short range may be the prompt's end or an answer's beginning;
    nobody is paid by this number, so we call it answer, and its guesses as well.
    """
    tokens = 0
    for receipt in receipts:
        is_first = receipt is receipts[0]
        if not is_first and receipt.tokens <= RANGE_STEPS:
            break
        tokens += receipt.tokens
        if receipt.tokens < PREFILL_TOKENS:
            break
    return tokens
