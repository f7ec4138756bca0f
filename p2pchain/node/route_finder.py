"""
Which providers a request goes through, as the chain and the network show them now.

Offers are the active registrations of our model and profile.  Whoever has just refused
or was out of reach is avoided for a while, as long as others cover its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from chain.contracts.registration import Registration, RegistrationStatus
from inference.model_info import ModelInfo
from market import errors as market_errors
from market.offer import Link, Offer, Request
from market.route import find_routes
from network.network import Network
from p2pchain.api.backend import RouteHop
from p2pchain.api.errors import NoRoute
from p2pchain.node.chain_service import ChainService
from p2pchain.node.profile import get_profile_hash

ATOMS_PER_MS = 10
"""The value of time in a route's choice: a millisecond less per token is worth it."""
EXPECTED_TOKENS = 64
"""Of an answer, for the choice of a route; what is paid is what comes."""
AVOID_S = 30.0
"""What a restart of a provider and its worker takes."""


@dataclass(frozen=True, slots=True)
class FoundHop:
    """A part of a route, for people and for the session."""

    hop: RouteHop
    registration: Registration


class RouteFinder:
    """Routes for one model."""

    def __init__(
        self,
        info: ModelInfo,
        account: bytes,
        chain: ChainService,
        network: Network,
        names: Mapping[bytes, str],
    ) -> None:
        """
        Args:
            info: The model.
            account: Ours; nobody pays itself.
            chain: Where providers are registered.
            network: Knows how far they are.
            names: What people call accounts.
        """
        self._info = info
        self._account = account
        self._chain = chain
        self._network = network
        self._names = names
        self._profile = get_profile_hash(info)
        self._avoided: dict[bytes, float] = {}
        """Until when, by offer; in trio's seconds."""

    def find(
        self, input_tokens: int = 1, max_tokens: int = EXPECTED_TOKENS
    ) -> tuple[FoundHop, ...]:
        """Return the best route, without those to avoid if there is one.

        Raises:
            NoRoute: Some layers have no active provider.
        """
        offers = self._list_offers()
        fresh = {k: v for k, v in offers.items() if not self._is_avoided(k)}
        try:
            try:
                return self._find(fresh, input_tokens, max_tokens)
            except market_errors.NoRoute:
                return self._find(offers, input_tokens, max_tokens)
        except market_errors.NoRoute as error:
            raise NoRoute(str(error)) from error

    def avoid(self, registration: Registration) -> bool:
        """Leave a provider out for a while; False if there is no way without it."""
        now = trio.current_time()
        self._avoided = {k: v for k, v in self._avoided.items() if v > now}
        self._avoided[_build_name(registration)] = now + AVOID_S
        offers = self._list_offers()
        fresh = {k: v for k, v in offers.items() if not self._is_avoided(k)}
        try:
            self._find(fresh, 1, EXPECTED_TOKENS)
        except market_errors.NoRoute:
            return False
        return True

    def _is_avoided(self, name: bytes) -> bool:
        return self._avoided.get(name, 0.0) > trio.current_time()

    def _list_offers(self) -> dict[bytes, Registration]:
        """Return the registrations that can be used, by offer.

        One account can have registered one node in several shards; what it said last
        counts.
        """
        found: dict[bytes, Registration] = {}
        for registration in self._chain.queries.list_registrations(
            self._info.model_id, RegistrationStatus.ACTIVE
        ):
            if registration.profile != self._profile:
                continue
            if registration.account == self._account:
                continue
            name = _build_name(registration)
            other = found.get(name)
            if other is None or other.updated_height < registration.updated_height:
                found[name] = registration
        return found

    def _find(
        self, offers: Mapping[bytes, Registration], input_tokens: int, max_tokens: int
    ) -> tuple[FoundHop, ...]:
        latencies_us = {
            peer.peer_id: int(peer.rtt_ms * 500)
            for peer in self._network.peers()
            if peer.rtt_ms is not None
        }
        request = Request(
            layers=self._info.layers,
            input_tokens=input_tokens,
            output_tokens=min(max_tokens, EXPECTED_TOKENS),
            step_bytes=self._info.token_bytes,
            atoms_per_ms=ATOMS_PER_MS,
            client=self._network.peer_id,
            links=self._build_links(offers, latencies_us),
        )
        market = [_build_offer(name, each) for name, each in offers.items()]
        route = find_routes(market, request)[0]
        return tuple(
            self._describe(offers[hop.offer.node], hop.start, hop.end, latencies_us)
            for hop in route.hops
        )

    def _build_links(
        self, offers: Mapping[bytes, Registration], latencies_us: Mapping[bytes, int]
    ) -> dict[tuple[bytes, bytes], Link]:
        links = {}
        for name, registration in offers.items():
            latency_us = latencies_us.get(registration.node_key)
            if latency_us is not None:
                link = Link(latency_us)
                links[self._network.peer_id, name] = link
                links[name, self._network.peer_id] = link
        return links

    def _describe(
        self,
        registration: Registration,
        start: int,
        end: int,
        latencies_us: Mapping[bytes, int],
    ) -> FoundHop:
        latency_us = latencies_us.get(registration.node_key)
        name = self._names.get(registration.account)
        hop = RouteHop(
            name=name or registration.node_key.hex()[:16],
            node_key=registration.node_key,
            provider=registration.account,
            shard=registration.home,
            start=start,
            end=end,
            input_price=registration.input_price,
            output_price=registration.output_price,
            latency_us=None if latency_us is None else 2 * latency_us,
            measured_us=registration.measured_us,
        )
        return FoundHop(hop, registration)


def _build_name(registration: Registration) -> bytes:
    """Return an offer's name: anybody can register somebody else's node key."""
    return registration.node_key + registration.account


def _build_offer(name: bytes, registration: Registration) -> Offer:
    return Offer.from_measurement(
        name,
        (registration.start, registration.end),
        (registration.input_price, registration.output_price),
        registration.measured_us,
        divisible=False,
    )
