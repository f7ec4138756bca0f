"""
Which providers a request goes through, as the chain and the network show them now.

Offers are the active registrations of our model and profile.  Whoever has just refused
or was lost is avoided for a while (market/breaker.py), as long as others cover its
layers.
"""

from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from chain.records.registration import Registration, RegistrationStatus
from inference.device.precision import Precision
from inference.hop.driver import compute_now_us
from inference.weights.model_info import ModelInfo
from market import errors as market_errors
from market.breaker import Breaker
from market.offer import Link, Offer, Request
from market.route import find_routes
from network.network import Network
from p2pchain.api.completion import RouteHop
from p2pchain.api.errors import NoRoute
from p2pchain.node.chain.service import ChainService
from p2pchain.node.home.profile import get_profile_hash

ATOMS_PER_MS = 10
"""The value of time in a route's choice: a millisecond less per token is worth it."""
EXPECTED_TOKENS = 64
"""Of an answer, for the choice of a route; what is paid is what comes."""
NOBODY: frozenset[bytes] = frozenset()


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
        precision: Precision = Precision.NATIVE,
    ) -> None:
        """
        Args:
            info: The model.
            account: Ours; nobody pays itself.
            chain: Where providers are registered.
            network: Knows how far they are.
            names: What people call accounts.
            precision: Of the weights that we want to pay for; no route mixes them.
        """
        self._info = info
        self._account = account
        self._chain = chain
        self._network = network
        self._names = names
        self._profile = get_profile_hash(info, precision)
        self._breaker = Breaker()

    def find(
        self,
        input_tokens: int = 1,
        max_tokens: int = EXPECTED_TOKENS,
        preferred: Container[bytes] = NOBODY,
    ) -> tuple[FoundHop, ...]:
        """Return the best route, without those to avoid if there is one.

        Args:
            input_tokens: Of the prompt.
            max_tokens: Of the answer.
            preferred: Node keys; if these alone make a route, it is the best.

        Raises:
            NoRoute: Some layers have no active provider.
        """
        layers = (0, self._info.layers)
        if preferred:
            now_us = compute_now_us()
            offers = {
                name: each
                for name, each in self._list_offers().items()
                if each.node_key in preferred and self._breaker.may_use(name, now_us)
            }
            with suppress(market_errors.NoRoute):
                return self._find(layers, offers, input_tokens, max_tokens)
        return self._find_fresh(layers, NOBODY, input_tokens, max_tokens)

    def find_part(
        self, layers: tuple[int, int], excluded: Container[bytes], input_tokens: int
    ) -> tuple[FoundHop, ...]:
        """Return the best route through some layers.

        Args:
            layers: The range [start, end).
            excluded: Node keys that are not to be used.
            input_tokens: Positions to compute before the next token.

        Raises:
            NoRoute: Some of them have no other active provider.
        """
        return self._find_fresh(layers, excluded, input_tokens, EXPECTED_TOKENS)

    def find_backups(self, route: Iterable[FoundHop]) -> list[FoundHop]:
        """Return who could take over from each hop of a route, where there is one."""
        hops = [found.hop for found in route]
        nodes = {hop.node_key for hop in hops}
        backups: list[FoundHop] = []
        for hop in hops:
            try:
                backups += self.find_part((hop.start, hop.end), nodes, 1)
            except NoRoute:
                continue
        return backups

    def _find_fresh(
        self,
        layers: tuple[int, int],
        excluded: Container[bytes],
        input_tokens: int,
        max_tokens: int,
    ) -> tuple[FoundHop, ...]:
        """Return the best route, without those to avoid if there is one."""
        offers = {
            name: each
            for name, each in self._list_offers().items()
            if each.node_key not in excluded
        }
        now_us = compute_now_us()
        fresh = {k: v for k, v in offers.items() if self._breaker.may_use(k, now_us)}
        try:
            try:
                return self._find(layers, fresh, input_tokens, max_tokens)
            except market_errors.NoRoute:
                return self._find(layers, offers, input_tokens, max_tokens)
        except market_errors.NoRoute as error:
            raise NoRoute(str(error)) from error

    # What became of them

    def begin(self, route: Iterable[FoundHop]) -> None:
        """Note that a session uses these providers."""
        now_us = compute_now_us()
        for found in route:
            self._breaker.begin(_build_name(found.registration), now_us)

    def succeed(self, route: Iterable[FoundHop]) -> None:
        """Note that they have served to the end."""
        for found in route:
            self._breaker.succeed(_build_name(found.registration))

    def avoid(self, registration: Registration) -> bool:
        """Leave a provider out for a while; False if there is no way without it."""
        now_us = compute_now_us()
        self._breaker.fail(_build_name(registration), now_us)
        offers = self._list_offers()
        fresh = {k: v for k, v in offers.items() if self._breaker.may_use(k, now_us)}
        try:
            self._find((0, self._info.layers), fresh, 1, EXPECTED_TOKENS)
        except market_errors.NoRoute:
            return False
        return True

    def _list_offers(self) -> dict[bytes, Registration]:
        """Return the registrations that can be used, by offer.

        One account can have registered one node in several shards; what it said last
        counts.
        """
        found: dict[bytes, Registration] = {}
        for registration in self._chain.queries.market.list_registrations(
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
        self,
        layers: tuple[int, int],
        offers: Mapping[bytes, Registration],
        input_tokens: int,
        max_tokens: int,
    ) -> tuple[FoundHop, ...]:
        start, end = layers
        offers = {
            name: each
            for name, each in offers.items()
            if start <= each.start and each.end <= end
        }
        latencies_us = {
            peer.peer_id: int(peer.rtt_ms * 500)
            for peer in self._network.peers()
            if peer.rtt_ms is not None
        }
        request = Request(
            layers=end - start,
            input_tokens=input_tokens,
            output_tokens=min(max_tokens, EXPECTED_TOKENS),
            step_bytes=self._info.token_bytes,
            atoms_per_ms=ATOMS_PER_MS,
            client=self._network.peer_id,
            links=self._build_links(offers, latencies_us),
        )
        market = [_build_offer(name, each, start) for name, each in offers.items()]
        try:
            route = find_routes(market, request)[0]
        except market_errors.UncoveredLayers as error:
            gaps = [(start + first, start + last) for first, last in error.gaps]
            raise market_errors.UncoveredLayers(gaps) from error
        return tuple(
            self._describe(offers[hop.offer.node], latencies_us) for hop in route.hops
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
        latencies_us: Mapping[bytes, int],
    ) -> FoundHop:
        latency_us = latencies_us.get(registration.node_key)
        name = self._names.get(registration.account)
        hop = RouteHop(
            name=name or registration.node_key.hex()[:16],
            node_key=registration.node_key,
            provider=registration.account,
            shard=registration.home,
            start=registration.start,
            end=registration.end,
            input_price=registration.input_price,
            output_price=registration.output_price,
            latency_us=None if latency_us is None else 2 * latency_us,
            measured_us=registration.measured_us,
        )
        return FoundHop(hop, registration)


def _build_name(registration: Registration) -> bytes:
    """Return an offer's name: anybody can register somebody else's node key."""
    return registration.node_key + registration.account


def _build_offer(name: bytes, registration: Registration, first: int) -> Offer:
    """Return the offer in a route that begins at layer `first`."""
    return Offer.from_measurement(
        name,
        (registration.start - first, registration.end - first),
        (registration.input_price, registration.output_price),
        registration.measured_us,
        divisible=False,
    )
