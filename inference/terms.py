"""What follows from a session's terms, on both sides alike."""

from inference.messages import SessionTerms
from inference.receipts import Contribution
from inference.steps import Prices


def get_prices(terms: SessionTerms) -> Prices:
    """Return the prices that both sides compute with."""
    return Prices(
        layers=terms.end - terms.start,
        input_price=terms.input_price,
        output_price=terms.output_price,
        unit_price=terms.unit_price,
    )


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
