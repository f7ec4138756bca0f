"""
Who has kept which beginnings for us: what a gateway remembers of its own sessions.

Names of beginnings (inference/protocol/prefix_keys.py) lead to the hops that computed
them.  So a further turn of a chat goes the way of the last one, where that is still
open, and a hop that comes in the place of another one hears who has what it lacks.

It is a memory and no promise: hops forget as they like.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from inference.session.plan import HopPlan

MAX_NAMES = 65_536
"""Beginnings that are remembered: a few hundred long chats, some ten megabytes."""


class KeptRoutes:
    """Routes by name, the latest of each."""

    def __init__(self) -> None:
        self._routes: OrderedDict[bytes, tuple[HopPlan, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._routes)

    def note(self, names: Sequence[bytes], hops: tuple[HopPlan, ...]) -> None:
        """Note that these hops have computed and kept what `names` stand for.

        Args:
            names: Of a sequence's beginnings, a page longer each.
            hops: In order.
        """
        # Longest first, so that what many begin with is forgotten last.
        for name in reversed(names):
            self._routes[name] = hops
            self._routes.move_to_end(name)
        while len(self._routes) > MAX_NAMES:
            self._routes.popitem(last=False)

    def find(self, names: Sequence[bytes]) -> tuple[HopPlan, ...]:
        """Return the hops that have kept most of a beginning; none if nobody has."""
        for name in reversed(names):
            hops = self._routes.get(name)
            if hops is not None:
                return hops
        return ()

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
