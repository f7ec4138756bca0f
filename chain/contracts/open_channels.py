"""OpenChannels: lock deposits for up to sixteen payees, all or none."""

from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger, debit
from chain.ledger.phase import validate_active
from chain.records.channel import (
    Channel,
    ChannelStatus,
    OpenChannels,
    Opening,
    OpenPair,
    compute_channel_id,
)
from chain.records.keys import build_channel_key, build_pair_key
from chain.records.outcome import Event

OPENING_WORK = 80


def compute_open_work(payload: OpenChannels) -> int:
    """Return the work units of the openings."""
    return OPENING_WORK * len(payload.openings)


def compute_open_outflow(ledger: Ledger, sender: bytes, payload: OpenChannels) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return sum(opening.deposit for opening in payload.openings)


def apply_open(
    ledger: Ledger, context: Context, call: Call, payload: OpenChannels
) -> None:
    """Open the channels.

    Raises:
        RuleError: shard_retiring, zero_amount, zero_price, own_channel,
            channel_exists, insufficient_funds.
    """
    validate_active(context)
    for index, opening in enumerate(payload.openings):
        _open_one(ledger, context, call, index, opening)


def _open_one(
    ledger: Ledger, context: Context, call: Call, index: int, opening: Opening
) -> None:
    if opening.deposit == 0:
        raise RuleError("zero_amount", "a channel needs a deposit")
    if opening.unit_price == 0:
        raise RuleError("zero_price", "a unit costs at least 1 atom")
    if opening.payee == call.sender:
        raise RuleError("own_channel", "payer and payee are the same account")
    pair_key = build_pair_key(call.sender, opening.payee)
    existing = ledger.get(pair_key, OpenPair)
    if existing is not None:
        raise RuleError(
            "channel_exists",
            f"channel {existing.channel_id.hex()[:16]} to this payee is open",
        )
    debit(ledger, context, call.sender, opening.deposit)
    channel_id = compute_channel_id(
        context.chain_id,
        context.shard,
        call.sender,
        opening.payee,
        opening.signer,
        call.nonce,
        index,
    )
    channel = Channel(
        channel_id=channel_id,
        shard=context.shard,
        payer=call.sender,
        payee=opening.payee,
        signer=opening.signer,
        deposit=opening.deposit,
        unit_price=opening.unit_price,
        settled=0,
        status=ChannelStatus.OPEN,
        close_height=0,
        opened_height=context.height,
        settlements=0,
        worked=0,
    )
    ledger.put(build_channel_key(channel_id), channel)
    ledger.put(pair_key, OpenPair(channel_id))
    parties = (call.sender, opening.payee)
    ledger.note(Event("channel_opened", channel_id, parties, opening.deposit))
