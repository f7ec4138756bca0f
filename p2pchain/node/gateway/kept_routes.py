"""
Who has kept which beginnings for us: what a gateway remembers of its own sessions.

Names of beginnings (inference/protocol/prefix_keys.py) lead to the hops that computed
them.  So a further turn of a chat goes the way of the last one, where that is still
open, and a hop that comes in the place of another one hears who has what it lacks:
when a session begins, and when a lost hop is replaced.

It is a memory and no promise: hops forget as they like.
"""

from collections import OrderedDict
from collections.abc import Container, Sequence
from dataclasses import replace

from inference.session.plan import HopPlan

MAX_NAMES = 65_536
"""Beginnings that are remembered: a few hundred long chats, some ten megabytes."""


MAX_ROUTES = 2
"""Of a name: the latest, and the one before it for when a hop of that is lost."""


class KeptRoutes:
    """Routes by name, the latest first."""

    def __init__(self) -> None:
        self._routes: OrderedDict[bytes, tuple[tuple[HopPlan, ...], ...]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._routes)

    def note(self, names: Sequence[bytes], hops: tuple[HopPlan, ...]) -> None:
        """Note that these hops have computed and kept what `names` stand for.

        Args:
            names: Of a sequence's beginnings, a page longer each.
            hops: In order.
        """
        # Longest first, so that what many begin with is forgotten last.
        peers = [hop.peer_id for hop in hops]
        for name in reversed(names):
            others = (
                route
                for route in self._routes.pop(name, ())
                if [hop.peer_id for hop in route] != peers
            )
            self._routes[name] = (hops, *others)[:MAX_ROUTES]
        while len(self._routes) > MAX_NAMES:
            self._routes.popitem(last=False)

    def find(self, names: Sequence[bytes]) -> tuple[HopPlan, ...]:
        """Return the hops that have kept most of a beginning; none if nobody has."""
        for name in reversed(names):
            routes = self._routes.get(name)
            if routes is not None:
                return routes[0]
        return ()

    def find_source(
        self,
        names: Sequence[bytes],
        before: Sequence[HopPlan],
        hop: HopPlan,
        gone: Container[bytes],
    ) -> bytes | None:
        """Return who has kept most of what a replacement lacks.

        Args:
            names: Of the session's beginnings.
            before: The hops before it, from the first one on.
            hop: The replacement.
            gone: Node keys of those that cannot be asked.
        """
        ways = [(each.peer_id, *_get_layers(each)) for each in before]
        place = len(ways)
        for name in reversed(names):
            for route in self._routes.get(name, ()):
                others = [(each.peer_id, *_get_layers(each)) for each in route[:place]]
                if len(route) <= place or others != ways:
                    continue
                giver = route[place]
                is_other = giver.peer_id != hop.peer_id and giver.peer_id not in gone
                if is_other and _get_layers(giver) == _get_layers(hop):
                    return giver.peer_id
        return None

    def add_sources(
        self, names: Sequence[bytes], hops: tuple[HopPlan, ...]
    ) -> tuple[HopPlan, ...]:
        """Return a route whose hops know where to fetch what they may lack.

        A hop can use pages that came through just the hops before it, and nothing
        else; so the first hop that is another one than before gets a source, and those
        behind it have no use for any.
        """
        before = self.find(names)
        for index, (hop, other) in enumerate(zip(hops, before, strict=False)):
            if _get_layers(hop) != _get_layers(other):
                break
            if hop.peer_id != other.peer_id:
                if index + 1 < len(hops):
                    # Those behind it compute from the start, and so does it.
                    break
                found = replace(hop, source=other.peer_id)
                return (*hops[:index], found, *hops[index + 1 :])
        return hops


def _get_layers(hop: HopPlan) -> tuple[bytes, int, int]:
    return hop.profile, hop.start, hop.end
