"""Where peers can be dialled, as far as this node was told or has seen."""

from collections import OrderedDict

from network.endpoint import Endpoint, PeerId
from network.params import NetworkParams


class AddressBook:
    """A few endpoints per peer, the best first; the longest unused peer gives way."""

    def __init__(self, params: NetworkParams) -> None:
        self._params = params
        self._given: OrderedDict[PeerId, list[Endpoint]] = OrderedDict()
        self._learned: OrderedDict[PeerId, Endpoint] = OrderedDict()

    def add(self, endpoint: Endpoint) -> None:
        """Remember an endpoint that somebody vouches for; the newest comes first."""
        known = [e for e in self._given.get(endpoint.peer_id, []) if e != endpoint]
        known.insert(0, endpoint)
        self._given[endpoint.peer_id] = known[: self._params.max_endpoints_per_peer]
        self._given.move_to_end(endpoint.peer_id)
        if len(self._given) > self._params.max_known_peers:
            self._given.popitem(last=False)

    def learn(self, endpoint: Endpoint) -> None:
        """Remember where a peer that came to us says it listens."""
        self._learned[endpoint.peer_id] = endpoint
        self._learned.move_to_end(endpoint.peer_id)
        if len(self._learned) > self._params.max_known_peers:
            self._learned.popitem(last=False)

    def get(self, peer_id: PeerId) -> list[Endpoint]:
        """Return the endpoints to try, in order."""
        endpoints = list(self._given.get(peer_id, []))
        learned = self._learned.get(peer_id)
        if learned is not None and learned not in endpoints:
            endpoints.append(learned)
        return endpoints
