"""
Which sessions a provider opens: every reason to refuse, in one place.

Terms are checked from cheap to dear, and before anything is reserved.
"""

from inference.hop.channel_account import ChannelAccount
from inference.hop.ports import HopOffer, PayeeChannel
from inference.protocol.activations import Dtype
from inference.protocol.codec import Codec
from inference.protocol.codes import RefuseCode
from inference.protocol.messages import VERSION, Open, SessionTerms, verify_open
from inference.protocol.steps import (
    MAX_DECODE_TOKENS,
    PREFILL_TOKENS,
    RANGE_STEPS,
    Step,
)
from inference.protocol.terms import get_prices, get_schedule

MAX_RANGE_UNITS = 2**31
"""Units that one receipt can hold with room to spare; nobody means to pay as much."""

_FULL_RANGES = (
    (Step(0, 0, PREFILL_TOKENS, is_prefill=True, closes_range=True), 1),
    (Step(1, 0, MAX_DECODE_TOKENS, is_prefill=False, closes_range=True), RANGE_STEPS),
)
"""A full prefill step, and as many decode steps as one receipt covers."""


class Refusal(Exception):
    """We do not open the session; becomes a Refuse message."""

    def __init__(self, code: RefuseCode, text: str, owed_units: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.owed_units = owed_units


def validate_open(
    message: Open, offer: HopOffer | None, *, chain_id: bytes, node_key: bytes
) -> None:
    """Check what the message and our offer alone can tell.

    Raises:
        Refusal: Says why.
    """
    terms = message.terms
    if terms.version != VERSION:
        raise Refusal(RefuseCode.INVALID, f"version {VERSION} is spoken here")
    if terms.chain_id != chain_id:
        raise Refusal(RefuseCode.INVALID, "a session of another chain")
    if terms.provider != node_key:
        raise Refusal(RefuseCode.INVALID, "terms for another provider")
    if node_key in (terms.previous, terms.next):
        raise Refusal(RefuseCode.INVALID, "a hop is not its own neighbour")
    if offer is None:
        raise Refusal(RefuseCode.NOT_SERVED, "no layers are ready here")
    served = (offer.profile, offer.start, offer.end)
    if (terms.profile, terms.start, terms.end) != served:
        text = f"layers {offer.start}-{offer.end} of another profile or range"
        raise Refusal(RefuseCode.NOT_SERVED, text)
    _validate_bounds(terms, offer)
    if not verify_open(message):
        raise Refusal(RefuseCode.INVALID, "the terms are not signed by their signer")


def _validate_bounds(terms: SessionTerms, offer: HopOffer) -> None:
    if (terms.hidden_size, terms.dtype) != (offer.hidden_size, offer.dtype):
        text = f"{offer.hidden_size} numbers of {Dtype(offer.dtype).name.lower()}"
        raise Refusal(RefuseCode.TERMS, f"hidden states here are {text}")
    if terms.codec not in tuple(Codec):
        raise Refusal(RefuseCode.TERMS, "hidden states of an unknown form")
    if not 0 < terms.prompt_tokens <= terms.max_positions <= offer.max_positions:
        text = f"prompt and answer have at most {offer.max_positions} positions here"
        raise Refusal(RefuseCode.TERMS, text)
    if get_schedule(terms).is_text != offer.is_encoder:
        text = "texts are encoded here" if offer.is_encoder else "tokens are decoded"
        raise Refusal(RefuseCode.TERMS, f"{text}, and nothing else")
    if offer.is_encoder and terms.codec != Codec.RAW:
        # Rounding 8,192 tokens would hold up everybody else for a third of a second.
        raise Refusal(RefuseCode.TERMS, "texts travel without loss")
    if terms.input_price < offer.input_price or terms.output_price < offer.output_price:
        text = f"prices are {offer.input_price} and {offer.output_price} now"
        raise Refusal(RefuseCode.TERMS, text)


def validate_channel(terms: SessionTerms, channel: PayeeChannel | None) -> PayeeChannel:
    """Return the channel if it can pay for a session under `terms`.

    Raises:
        Refusal: Says why.
    """
    if channel is None or not channel.is_open:
        raise Refusal(RefuseCode.CHANNEL, "no such open channel to us")
    if (channel.payer, channel.signer) != (terms.client, terms.signer):
        raise Refusal(RefuseCode.CHANNEL, "the channel is another client's")
    if channel.unit_price != terms.unit_price or channel.unit_price <= 0:
        text = f"the channel's unit price is {channel.unit_price}"
        raise Refusal(RefuseCode.CHANNEL, text)
    prices = get_prices(terms)
    ranges = (*_FULL_RANGES, (get_schedule(terms).propose(), 1))
    dearest = max(prices.compute_units(step) * n for step, n in ranges)
    if dearest > MAX_RANGE_UNITS:
        raise Refusal(RefuseCode.TERMS, f"{dearest} units per receipt")
    return channel


def validate_funds(
    terms: SessionTerms, account: ChannelAccount, remaining_units: int
) -> None:
    """Check that nothing is owed and that the first step can be paid.

    Raises:
        Refusal: UNPAID with the units owed, or DEPOSIT.
    """
    owed = account.pay_arrears()
    if owed:
        text = f"{owed} units of an earlier session are not paid"
        raise Refusal(RefuseCode.UNPAID, text, owed_units=owed)
    first = get_prices(terms).compute_units(get_schedule(terms).propose())
    if remaining_units + account.free < first:
        text = f"{remaining_units} units are left, the first step costs {first}"
        raise Refusal(RefuseCode.DEPOSIT, text)
