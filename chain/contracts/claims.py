"""What the channel rules share: finding a channel, checking a claim, ending it."""

import msgspec

from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import (
    MAX_AMOUNT,
    Count,
    Ledger,
    credit,
    credit_maturing,
    get_count,
)
from chain.records.channel import (
    Channel,
    ChannelStatus,
    Claim,
    compute_total,
    verify_preimage,
    verify_voucher,
)
from chain.records.keys import (
    build_channel_key,
    build_pair_key,
    build_work_count_key,
    build_work_key,
)
from chain.records.outcome import Event
from chain.records.proof import WorkEntry, WorkRecord


def get_channel(ledger: Ledger, channel_id: bytes) -> Channel:
    """Return the channel of that name.

    Raises:
        RuleError: unknown_channel; never opened in this shard, or closed.
    """
    channel = ledger.get(build_channel_key(channel_id), Channel)
    if channel is None:
        raise RuleError(
            "unknown_channel", f"no channel {channel_id.hex()[:16]} is open here"
        )
    return channel


def validate_payee(channel: Channel, call: Call) -> None:
    """Check that the caller is the one who is paid.

    Raises:
        RuleError: not_payee.
    """
    if call.sender != channel.payee:
        raise RuleError("not_payee", "only the channel's payee may do that")


def validate_payer(channel: Channel, call: Call) -> None:
    """Check that the caller is the one who pays.

    Raises:
        RuleError: not_payer.
    """
    if call.sender != channel.payer:
        raise RuleError("not_payer", "only the channel's payer may do that")


def compute_claim_delta(context: Context, channel: Channel, claim: Claim) -> int:
    """Return the atoms that a claim adds to what was settled, at least 0.

    Raises:
        RuleError: voucher_other_channel, voucher_wrong_price, voucher_units,
            voucher_above_deposit, voucher_smaller, voucher_bad_signature,
            bad_preimage.
    """
    voucher = claim.voucher
    if voucher.channel_id != channel.channel_id:
        raise RuleError(
            "voucher_other_channel",
            f"voucher of channel {voucher.channel_id.hex()[:16]}, "
            f"this is {channel.channel_id.hex()[:16]}",
        )
    if voucher.unit_price != channel.unit_price:
        raise RuleError(
            "voucher_wrong_price",
            f"unit price {voucher.unit_price}, the channel has {channel.unit_price}",
        )
    if claim.used > voucher.units:
        raise RuleError(
            "voucher_units", f"{claim.used} units of a voucher for {voucher.units}"
        )
    total = compute_total(claim)
    if total > channel.deposit:
        raise RuleError(
            "voucher_above_deposit", f"total {total} > deposit {channel.deposit}"
        )
    if total < channel.settled:
        raise RuleError(
            "voucher_smaller", f"total {total} < {channel.settled} settled already"
        )
    # Last, because it costs most: one signature and up to 1,024 hashes.
    if not verify_voucher(context.chain_id, voucher, channel.signer):
        raise RuleError(
            "voucher_bad_signature", "the channel's signer did not sign this voucher"
        )
    if not verify_preimage(claim):
        raise RuleError(
            "bad_preimage", f"the preimage does not release {claim.used} units"
        )
    return total - channel.settled


def pay_claim(
    ledger: Ledger, context: Context, channel: Channel, delta: int, work: WorkRecord
) -> Channel:
    """Move `delta` to the payee, post its work record, return the channel.

    Raises:
        RuleError: bad_work_record, work_below_claim.
    """
    validate_work(work)
    settled, worked = channel.settled + delta, channel.worked + work.price_sum
    # Over the channel's life, not per settlement: a step that was recorded with one
    # session may be paid for with the next.
    if settled > worked:
        raise RuleError(
            "work_below_claim", f"{settled} claimed in all for work of {worked}"
        )
    if worked > MAX_AMOUNT:
        raise RuleError("bad_work_record", "the work posted would not fit 63 bits")
    credit_maturing(ledger, context, channel.payee, delta)
    _post_work(ledger, context, channel, delta, work)
    ledger.note(
        Event("settled", channel.channel_id, (channel.payee, channel.payer), delta)
    )
    return msgspec.structs.replace(
        channel,
        settled=settled,
        settlements=channel.settlements + 1,
        worked=worked,
    )


def validate_work(work: WorkRecord) -> None:
    """Check that a work record makes sense.

    Raises:
        RuleError: bad_work_record.
    """
    if work.start > work.end or (work.receipts > 0 and work.start == work.end):
        raise RuleError(
            "bad_work_record",
            f"{work.receipts} receipts over layers [{work.start}, {work.end})",
        )


def end_channel(ledger: Ledger, context: Context, channel: Channel, kind: str) -> None:
    """Give the payer the rest and forget the channel; its name never returns."""
    rest = channel.deposit - channel.settled
    assert rest >= 0
    credit(ledger, context, channel.payer, rest)
    ledger.delete(build_channel_key(channel.channel_id))
    ledger.delete(build_pair_key(channel.payer, channel.payee))
    closed = msgspec.structs.replace(
        channel, status=ChannelStatus.CLOSED, close_height=context.height
    )
    ledger.archive(closed)
    ledger.note(Event(kind, channel.channel_id, (channel.payer, channel.payee), rest))


def _post_work(
    ledger: Ledger, context: Context, channel: Channel, paid: int, work: WorkRecord
) -> None:
    count_key = build_work_count_key(channel.payee)
    number = get_count(ledger, count_key)
    entry = WorkEntry(
        number=number,
        payee=channel.payee,
        payer=channel.payer,
        channel_id=channel.channel_id,
        height=context.height,
        paid=paid,
        work=work,
    )
    ledger.put(build_work_key(channel.payee, number), entry)
    ledger.put(count_key, Count(number + 1))
    ledger.archive(entry)
