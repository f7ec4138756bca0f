"""
Addresses from the chain: every node can reach every registered provider.

A hop opens its stream to the next one itself, so it is not enough that the client knows
the way.  The registrations are read anew after each block that holds anything.

A validator's votes go to its peers and are not passed on, so one that knows a single
peer is counted by that peer's blocks only, and put down for it.  Therefore a validator
stays connected with every provider that votes in this epoch or the next.
"""

import logging

from chain.execution.held import HeldBlock
from chain.queries.queries import Queries
from network.endpoint import Endpoint
from network.errors import InvalidEndpoint
from network.network import Network

log = logging.getLogger(__name__)


class AddressBook:
    """Tells the network where the registered providers listen.

    Args:
        queries: Of the chain.
        network: That learns.
        is_validator: Whether this node has a validator key.
    """

    def __init__(
        self, queries: Queries, network: Network, *, is_validator: bool
    ) -> None:
        self._queries = queries
        self._network = network
        self._is_validator = is_validator
        self._known: set[tuple[str, bool]] = set()
        self._epoch = -1

    def on_final(self, block: HeldBlock) -> None:
        """Learn what a final block may have changed."""
        epoch = self._queries.stakes.record.epoch
        if block.block.body.headers or epoch != self._epoch:
            self.refresh()

    def refresh(self) -> None:
        """Learn every address of every registration."""
        self._epoch = self._queries.stakes.record.epoch
        for registration in self._queries.market.list_registrations():
            is_kept = self._is_validator and self._has_seat(registration.account)
            for address in registration.addresses:
                if (address, is_kept) not in self._known:
                    self._known.add((address, is_kept))
                    self._learn(address, registration.node_key, is_kept)

    def _has_seat(self, account: bytes) -> bool:
        stakes = self._queries.stakes
        stake = stakes.get_stake(account)
        return stake is not None and any(
            validators.find_index(stake.public_key) is not None
            for validators in stakes.get_known_validators()
        )

    def _learn(self, address: str, node_key: bytes, is_kept: bool) -> None:
        try:
            endpoint = Endpoint.parse(address)
        except InvalidEndpoint as error:
            log.info("address %r of a provider: %s", address, error)
            return
        # Only its own: a registration cannot redirect others' connections.
        if endpoint.peer_id == node_key != self._network.peer_id:
            self._network.add_endpoint(endpoint, persistent=is_kept)
