"""
What hops may think that we owe them, from sessions that did not end in order.

A session may leave a step unpaid at a hop; several that break at once leave several.
The hop asks for them at the next opening.  What it may ask for is what we know of; of a
hop that has not served us since we began, one full step, for our memory ends with the
process and its does not.
"""

from collections import OrderedDict

from inference.protocol.steps import PREFILL_TOKENS
from inference.session.plan import HopPlan, SessionSummary

MAX_HOPS = 4096
"""Of which debts are remembered; many times what a gateway deals with."""


class Debts:
    """Units by node key, at most what was left unpaid."""

    def __init__(self) -> None:
        self._units: OrderedDict[bytes, int] = OrderedDict()

    def note(self, summary: SessionSummary | None) -> None:
        """Note what a session has paid of earlier ones, and what it has left.

        Args:
            summary: None where it never began.
        """
        for hop in summary.hops if summary is not None else ():
            if hop.steps or hop.unpaid_units or hop.arrears_units:
                units = self._units.pop(hop.plan.peer_id, 0)
                units += hop.unpaid_units - hop.arrears_units
                self._units[hop.plan.peer_id] = max(0, units)
        while len(self._units) > MAX_HOPS:
            self._units.popitem(last=False)

    def is_plausible(self, plan: HopPlan, units: int) -> bool:
        """Tell whether a hop may be owed so much."""
        layers = plan.end - plan.start
        price = layers * max(PREFILL_TOKENS * plan.input_price, plan.output_price)
        step = -(-price // plan.unit_price)
        return 0 < units <= self._units.get(plan.peer_id, step)
