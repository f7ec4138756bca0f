"""What follows from a session's terms, on both sides alike."""

from inference.protocol.messages import SessionTerms
from inference.protocol.receipts import Contribution
from inference.protocol.steps import PREFILL_TOKENS, Prices, Schedule
from inference.protocol.wire_form import WireForm


def get_prices(terms: SessionTerms) -> Prices:
    """Return the prices that both sides compute with."""
    return Prices(
        layers=terms.end - terms.start,
        input_price=terms.input_price,
        output_price=terms.output_price,
        unit_price=terms.unit_price,
    )


def get_wire(terms: SessionTerms) -> WireForm:
    """Return what the session's hidden states look like on the way."""
    return WireForm(terms.hidden_size, terms.dtype, terms.codec)


def get_schedule(
    terms: SessionTerms, *, cached: int = 0, rolls_back: bool = True
) -> Schedule:
    """Return the schedule of a session that begins under these terms.

    Args:
        terms: What was agreed.
        cached: Positions that need not be computed.
        rolls_back: Whether every layer can forget its last positions.
    """
    return Schedule(
        prompt_tokens=terms.prompt_tokens,
        max_positions=terms.max_positions,
        cached=cached,
        rolls_back=rolls_back,
    )


def has_one_step(terms: SessionTerms, cached: int = 0) -> bool:
    """Tell whether the first step may be the last: no later one brings its payment."""
    is_short = terms.prompt_tokens - cached <= PREFILL_TOKENS
    is_text = terms.prompt_tokens == terms.max_positions
    return is_text or (is_short and terms.max_positions == terms.prompt_tokens + 1)


def get_contribution(terms: SessionTerms) -> Contribution:
    """Return what all receipts of a hop under these terms have in common."""
    return Contribution(
        chain_id=terms.chain_id,
        session=terms.session,
        channel_id=terms.channel_id,
        client=terms.client,
        node=terms.provider,
        profile=terms.profile,
        start=terms.start,
        end=terms.end,
    )
