"""
Other providers for a session that has lost one, with channels that can pay them.

    lost --> breaker --> a route through the missing layers --> channels --> hop plans

Just the missing layers first; when nobody else has exactly these, a longer part of the
route up to its ends.  What a session holds of the channels is held until the request is
over.
"""

import logging
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from dataclasses import replace

from chain.records.channel import Channel
from inference.protocol.codes import RefuseCode
from inference.protocol.errors import HopAccused, HopRefused
from inference.session.events import FindHops
from inference.session.plan import HopPlan
from p2pchain.api.errors import NoRoute
from p2pchain.node.gateway.retries import Retries
from p2pchain.node.gateway.route_finder import FoundHop, RouteFinder
from p2pchain.node.money.channel_pool import ChannelPool, Need

log = logging.getLogger(__name__)

BuildPlan = Callable[[FoundHop, Channel, int], HopPlan]
FindSource = Callable[[Sequence[HopPlan], HopPlan, Container[bytes]], bytes | None]
"""Returns who has kept what a hop lacks, of the hops before it, the hop, and those that
cannot be asked."""


class Rerouting:
    """The changes of one session's route; an `inference.session.ports.HopFinder`."""

    def __init__(
        self,
        routes: RouteFinder,
        pool: ChannelPool,
        retries: Retries,
        *,
        layers: int,
        answer_tokens: int,
        route: tuple[FoundHop, ...],
        plans: tuple[HopPlan, ...],
        build_plan: BuildPlan,
        find_source: FindSource = lambda before, hop, gone: None,
    ) -> None:
        """
        Args:
            routes: Finds providers.
            pool: Fills channels.
            retries: Knows what was paid of earlier sessions.
            layers: Of the model.
            answer_tokens: Most that the answer may still have.
            route: What the session begins with.
            plans: The same, with channels.
            build_plan: Makes a hop's plan of provider, channel and arrears.
            find_source: Finds who has pages for a replacement.
        """
        self._routes = routes
        self._pool = pool
        self._retries = retries
        self._layers = layers
        self._answer_tokens = answer_tokens
        self._build_plan = build_plan
        self._find_source = find_source
        self._hops = plans
        """Those of the session now, as far as we know."""
        self._found = {found.hop.node_key: found for found in route}
        self._plans = {plan.peer_id: plan for plan in plans}
        self._held = ExitStack()

    def close(self) -> None:
        """Let go of the channels."""
        self._held.close()

    def get_found(self, peer_id: bytes) -> FoundHop | None:
        """Return a provider that the session has or had."""
        return self._found.get(peer_id)

    async def find(self, wanted: FindHops) -> tuple[HopPlan, ...]:
        """Return hops for the missing layers.

        Raises:
            P2PChainError: There are none, or no channel to them.
        """
        excluded = set(wanted.excluded)
        for error in wanted.lost:
            excluded |= self._judge(error.peer_id, error)
        route = self._find_route(wanted, excluded)
        names = ", ".join(found.hop.name for found in route)
        log.info("layers [%d, %d) go to %s", wanted.start, wanted.end, names)
        needs = [
            Need(found.registration, wanted.positions, self._answer_tokens)
            for found in route
        ]
        await self._pool.fill(needs)
        channels = self._held.enter_context(self._pool.reserve(needs))
        self._routes.begin(route)
        plans = []
        for found, channel in zip(route, channels, strict=True):
            plan = self._build_plan(found, channel, self._retries.get_arrears(found))
            self._found[plan.peer_id] = found
            self._plans[plan.peer_id] = plan
            plans.append(plan)
        return self._put_in_place(plans, excluded)

    def _put_in_place(
        self, plans: list[HopPlan], gone: Container[bytes]
    ) -> tuple[HopPlan, ...]:
        """Note the session's hops; the first new one hears who has what it lacks.

        Those behind it would need what came through it.
        """
        start, end = plans[0].start, plans[-1].end
        before = tuple(hop for hop in self._hops if hop.end <= start)
        behind = tuple(hop for hop in self._hops if hop.start >= end)
        source = self._find_source(before, plans[0], gone)
        found = (replace(plans[0], source=source), *plans[1:])
        self._hops = (*before, *found, *behind)
        return found

    def _judge(self, peer_id: bytes, error: Exception) -> set[bytes]:
        """Note a loss; returns the provider if it is not to be asked again."""
        found, plan = self._found.get(peer_id), self._plans.get(peer_id)
        if found is None or plan is None:
            return {peer_id}
        if isinstance(error, HopRefused) and error.code == RefuseCode.UNPAID:
            return set() if self._retries.acknowledge(plan, error) else {peer_id}
        if not isinstance(error, HopAccused):
            # A word of its neighbour would be a way to have a rival avoided.
            self._routes.avoid(found.registration)
        return {peer_id}

    def _find_route(
        self, wanted: FindHops, excluded: set[bytes]
    ) -> tuple[FoundHop, ...]:
        start, end = wanted.start, wanted.end
        parts = [(start, end), (0, end), (start, self._layers), (0, self._layers)]
        first_error = None
        for layers in dict.fromkeys(parts):
            try:
                return self._routes.find_part(layers, excluded, wanted.positions)
            except NoRoute as error:
                first_error = first_error or error
        assert first_error is not None
        raise first_error
