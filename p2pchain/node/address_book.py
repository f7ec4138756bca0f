"""
Addresses from the chain: every node can reach every registered provider.

A hop opens its stream to the next one itself, so it is not enough that the client knows
the way.  The registrations are read anew after each block that holds anything.
"""

import logging

from chain.held import HeldBlock
from chain.queries import Queries
from network.endpoint import Endpoint
from network.errors import InvalidEndpoint
from network.network import Network

log = logging.getLogger(__name__)


class AddressBook:
    """Tells the network where the registered providers listen."""

    def __init__(self, queries: Queries, network: Network) -> None:
        self._queries = queries
        self._network = network
        self._known: set[str] = set()

    def on_final(self, block: HeldBlock) -> None:
        """Learn what a final block may have changed."""
        if block.block.body.chunks:
            self.refresh()

    def refresh(self) -> None:
        """Learn every address of every registration."""
        for registration in self._queries.list_registrations():
            for address in registration.addresses:
                if address not in self._known:
                    self._learn(address, registration.node_key)

    def _learn(self, address: str, node_key: bytes) -> None:
        self._known.add(address)
        try:
            endpoint = Endpoint.parse(address)
        except InvalidEndpoint as error:
            log.info("address %r of a provider: %s", address, error)
            return
        # Only its own: a registration cannot redirect others' connections.
        if endpoint.peer_id == node_key != self._network.peer_id:
            self._network.add_endpoint(endpoint)
