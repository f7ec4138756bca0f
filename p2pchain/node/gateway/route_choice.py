"""
The route of one prompt: where its beginning is kept, or the best one.

                 kept, and not crowded, and no dearer than then
    the prompt  ------------------------------------------------>  that route
                 otherwise ------------------------------------->  the best route,
                                                                   with sources of pages
"""

from collections.abc import Container, Mapping, Sequence

from inference.protocol.prefix_keys import name_beginnings
from inference.session.plan import HopPlan, SessionPlan, SessionSummary
from p2pchain.node.gateway.kept_routes import KeptRoutes
from p2pchain.node.gateway.open_sessions import OpenSessions
from p2pchain.node.gateway.report import Report
from p2pchain.node.gateway.route_finder import FoundHop, RouteFinder

CROWD = 4
"""Open sessions on hops that have kept a beginning, before others may go elsewhere: so
many share a pass at little cost, and more would wait for each other."""


class RouteChoice:
    """Routes of one gateway's prompts."""

    def __init__(self, routes: RouteFinder, sessions: OpenSessions) -> None:
        """
        Args:
            routes: Finds them.
            sessions: Say how crowded hops are.
        """
        self._routes = routes
        self._sessions = sessions
        self._kept = KeptRoutes()

    def choose(
        self, names: tuple[bytes, ...], input_tokens: int, max_tokens: int
    ) -> tuple[FoundHop, ...]:
        """Return the route that has kept the prompt's beginning, or the best one.

        Raises:
            NoRoute: Some layers have no active provider.
        """
        kept = {hop.peer_id: hop for hop in self._kept.find(names)}
        if kept and self._count_sessions(kept.keys()) < CROWD:
            route = self._routes.find(input_tokens, max_tokens, preferred=kept)
            # Whoever has become dearer is not held to be the best for that.
            if all(_is_as_cheap(found, kept) for found in route):
                return route
        return self._routes.find(input_tokens, max_tokens)

    def add_sources(
        self, names: Sequence[bytes], hops: tuple[HopPlan, ...]
    ) -> tuple[HopPlan, ...]:
        """Return hops that know where to fetch what they may lack."""
        return self._kept.add_sources(names, hops)

    def find_source(
        self,
        names: Sequence[bytes],
        before: Sequence[HopPlan],
        hop: HopPlan,
        gone: Container[bytes],
    ) -> bytes | None:
        """Return who has what a replacement lacks; see `KeptRoutes.find_source`."""
        return self._kept.find_source(names, before, hop, gone)

    def note(
        self, plan: SessionPlan, summary: SessionSummary | None, report: Report
    ) -> None:
        """Remember who has computed what, unless the route has changed meanwhile."""
        if summary is None or summary.recoveries:
            return
        if any(hop.source is not None for hop in plan.hops):
            return
        # The last token was chosen and not computed.
        ids = [*plan.prompt, *(token.token_id for token in report.laps[:-1])]
        self._kept.note(name_beginnings(plan.prefix_secret, ids), plan.hops)

    def _count_sessions(self, peers: Container[bytes]) -> int:
        """Return how many open sessions go through some of these hops."""
        plans = self._sessions.list_plans()
        return sum(any(hop.peer_id in peers for hop in plan.hops) for plan in plans)


def _is_as_cheap(found: FoundHop, kept: Mapping[bytes, HopPlan]) -> bool:
    """Tell whether a hop costs no more than when it kept something."""
    before = kept.get(found.hop.node_key)
    return before is not None and (
        found.hop.input_price <= before.input_price
        and found.hop.output_price <= before.output_price
    )
