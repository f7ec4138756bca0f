"""Time from provider to provider, and from and to the requester, for one request."""

from collections.abc import Sequence

from market.offer import Offer, Request


class Links:
    """Link times between the offers of one search, by their numbers."""

    def __init__(self, offers: Sequence[Offer], request: Request) -> None:
        self._request = request
        self.unknown_us = request.unknown_link_us
        self.first_us = [self._get_us(request.client, offer.node) for offer in offers]
        """From the requester to each offer."""
        self.last_us = [self._get_us(offer.node, request.client) for offer in offers]
        """From each offer back to the requester."""
        self.known_us = self._compute_known(offers)
        """Per offer, the time from each other offer whose link is known."""
        self.least_us = [
            min((self.unknown_us, *known.values())) for known in self.known_us
        ]
        """Per offer, no link to it is faster."""

    def _compute_known(self, offers: Sequence[Offer]) -> list[dict[int, int]]:
        by_node: dict[bytes, list[int]] = {}
        for v, offer in enumerate(offers):
            by_node.setdefault(offer.node, []).append(v)
        pairs = [pair for pair in self._request.links if pair[0] != pair[1]]
        # Two offers of one node need no network between them.
        pairs += [(node, node) for node, owned in by_node.items() if len(owned) > 1]
        known: list[dict[int, int]] = [{} for _ in offers]
        for source, target in pairs:
            link_us = self._get_us(source, target)
            for v in by_node.get(target, ()):
                for u in by_node.get(source, ()):
                    if u != v:
                        known[v][u] = link_us
        return known

    def _get_us(self, source: bytes, target: bytes) -> int:
        if source == target:
            return 0
        link = self._request.links.get((source, target))
        if link is None:
            return self._request.unknown_link_us
        return link.compute_transfer_us(self._request.step_bytes)
