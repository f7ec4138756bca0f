"""What follows from a session's terms, on both sides alike."""

from inference.messages import SessionTerms
from inference.receipts import Contribution
from inference.steps import PREFILL_TOKENS, Prices, Step, compute_step


def get_prices(terms: SessionTerms) -> Prices:
    """Return the prices that both sides compute with."""
    return Prices(
        layers=terms.end - terms.start,
        input_price=terms.input_price,
        output_price=terms.output_price,
        unit_price=terms.unit_price,
    )


def is_text(terms: SessionTerms) -> bool:
    """Tell whether a text is only to be encoded: there are no positions to decode."""
    return terms.prompt_tokens == terms.max_positions


def has_one_step(terms: SessionTerms) -> bool:
    """Tell whether the first step is the last: no later one brings its payment."""
    is_short = terms.prompt_tokens <= PREFILL_TOKENS
    return is_text(terms) or (
        is_short and terms.max_positions == terms.prompt_tokens + 1
    )


def get_step(terms: SessionTerms, number: int) -> Step:
    """Return step `number` of a session under these terms."""
    return compute_step(terms.prompt_tokens, number, is_text=is_text(terms))


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
