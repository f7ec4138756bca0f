"""
Which refusals a gateway mends by itself, before its reader has seen anything.

    it is owed for an earlier session          pay that and ask again
    its final block is not ours                wait for the next one and ask again
    it is busy, gone, cannot reach the next,   ask others, if they cover its layers
    or does what no correct hop does

Nothing was computed and nothing paid in a session that is tried again, except arrears,
and except the one step of a text, where the session found nobody else by itself: what
was paid ahead and not delivered stays with the hops for later sessions of the channel.
"""

import logging

import trio

from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopRefused, SessionError
from inference.session.plan import HopPlan, SessionSummary
from p2pchain.node.chain.service import ChainService
from p2pchain.node.gateway.debts import Debts
from p2pchain.node.gateway.route_finder import FoundHop, RouteFinder

log = logging.getLogger(__name__)

MAX_WAITS = 2
"""Blocks to wait for a provider that sees the chain in another state."""
WAIT_S = 3.0
"""For each of them; when the chain stands still, waiting mends nothing."""
MAX_OTHERS = 3
"""Providers to replace by others; more of them down are no accident."""
_UNLIKE_STATE = (
    RefuseCode.CHANNEL,
    RefuseCode.DEPOSIT,
    RefuseCode.TERMS,
    RefuseCode.NOT_SERVED,
)


class Retries:
    """The tries of one request."""

    def __init__(self, routes: RouteFinder, chain: ChainService, debts: Debts) -> None:
        """
        Args:
            routes: Told whom to avoid.
            chain: Brings the next block.
            debts: Knows what may be owed.
        """
        self._debts = debts
        self._routes = routes
        self._chain = chain
        self._waits = 0
        self._others = 0
        self._arrears: dict[bytes, int] = {}
        """Units to pay with the next try, by node key."""
        self._acknowledged: set[bytes] = set()

    def get_arrears(self, found: FoundHop) -> int:
        """Return the units to pay a hop for earlier sessions when opening."""
        return self._arrears.get(found.hop.node_key, 0)

    async def allow(
        self,
        error: Exception,
        summary: SessionSummary | None,
        route: tuple[FoundHop, ...],
        *,
        is_text: bool = False,
    ) -> bool:
        """Tell whether another try makes sense, when it does.

        Args:
            error: Why the last one ended.
            summary: How far it came.
            route: The hops that it had.
            is_text: It had one step, which was paid ahead and is made anew.
        """
        if not isinstance(error, SessionError) or summary is None:
            return False
        if not is_text and any(hop.units or hop.steps for hop in summary.hops):
            return False
        for hop in summary.hops:
            if hop.arrears_units:
                self._arrears.pop(hop.plan.peer_id, None)
        culprit = _find_culprit(error, route)
        if culprit is None:
            return False
        if isinstance(error, HopRefused) and error.code == RefuseCode.UNPAID:
            plans = (hop.plan for hop in summary.hops)
            plan = next(p for p in plans if p.peer_id == error.peer_id)
            if self.acknowledge(plan, error):
                return True
        is_unlike = isinstance(error, HopRefused) and error.code in _UNLIKE_STATE
        if is_unlike and await self._wait_for_block():
            return True
        self._others += 1
        return self._routes.avoid(culprit.registration) and self._others <= MAX_OTHERS

    def acknowledge(self, plan: HopPlan, error: HopRefused) -> bool:
        """Plan to pay arrears, once, where they can be true."""
        if plan.peer_id in self._acknowledged:
            return False
        self._acknowledged.add(plan.peer_id)
        owed_units = error.owed_units
        if not self._debts.is_plausible(plan, owed_units):
            return False
        log.info("paying %s arrears of %d units", plan.node_name, owed_units)
        self._arrears[plan.peer_id] = owed_units
        return True

    async def _wait_for_block(self) -> bool:
        if self._waits >= MAX_WAITS:
            return False
        self._waits += 1
        with trio.move_on_after(WAIT_S) as waiting:
            await self._chain.wait_height(self._chain.height + 1)
        return not waiting.cancelled_caught


def _find_culprit(error: SessionError, route: tuple[FoundHop, ...]) -> FoundHop | None:
    for index, found in enumerate(route):
        if found.hop.node_key == error.peer_id:
            is_next = error.code == RefuseCode.UNREACHABLE and isinstance(
                error, HopRefused
            )
            following = route[index + 1 :]
            return following[0] if is_next and following else found
    return None
