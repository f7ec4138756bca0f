"""A hop of a session: a provider that was found, and the channel that pays it."""

from chain.records.channel import Channel
from inference.session.plan import HopPlan
from p2pchain.node.gateway.route_finder import FoundHop


def plan_hop(found: FoundHop, channel: Channel, arrears_units: int) -> HopPlan:
    """Return a hop's plan.

    Args:
        found: The provider.
        channel: Ours with it.
        arrears_units: To pay for earlier sessions when opening.
    """
    hop = found.hop
    return HopPlan(
        peer_id=hop.node_key,
        node_name=hop.name,
        account=hop.provider,
        profile=found.registration.profile,
        start=hop.start,
        end=hop.end,
        input_price=hop.input_price,
        output_price=hop.output_price,
        channel_id=channel.channel_id,
        unit_price=channel.unit_price,
        arrears_units=arrears_units,
    )
