"""
Routes: the cheapest ways through all layers of a model.

Theory of operation
-------------------
A vertex is (offer, layer boundary): the activations are with that provider and all
layers below the boundary are done.  Two kinds of edges lead on:

    compute   (v, b) --price_v, slope_v--> (v, b + 1)
    hand over (u, b) --fixed_v, queue_v, link_uv--> (v, b)

so overlapping ranges work, and a provider may serve a part of what it offers.  What is
minimised is, in thousandths of an atom,

    1000 * price + value of time * steps * time of a step

The graph has no cycles, since boundaries only grow and two hand-overs never follow each
other, so one sweep over the boundaries finds the k best labels of every vertex, and
with them the k best routes.  Most pairs of peers have never measured each other: those
hand-overs all cost the same, so they pass through one hub per boundary instead of
through an edge per pair, which keeps the work linear in offers plus measured links.

A label is dominated by one that comes before it in the order and is no worse in what
is bounded; with k such labels before it, it can be in no answer and is dropped.  Under
two bounds a vertex so keeps a Pareto front.  Order: cost, then fewest hops, then the
providers' keys and ranges, so every node computes the same routes in the same order
whatever order the offers came in.

A route may come back to a provider it has left; it never hands over from an offer to
itself.

Spec: design 05, Routing; P2P-LLM, section 3
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from market.errors import (
    NoRoute,
    RouteOutOfBounds,
    RouteTooDear,
    RouteTooSlow,
    UncoveredLayers,
    UnjoinedRanges,
)
from market.offer import Offer, Request

MAX_ROUTES = 16
"""Most routes that one call returns: recovery tries a few and then asks again."""
MAX_FRONT = 512
"""Labels that one vertex keeps under two bounds; a front of realistic integers has a
few dozen.  Beyond that the dearest by cost go, and the answer may miss a route."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One provider's part of a route."""

    offer: Offer
    start: int
    """First layer it computes."""
    end: int
    """One past the last."""
    price_atoms: int
    """For the whole request, before the rounding up to units of each step."""
    compute_us: int
    """Of one decode step, without queue and links."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way through all layers."""

    hops: tuple[Hop, ...]
    price_atoms: int
    """For the whole request."""
    step_us: int
    """One decode step from the requester through all hops and back."""
    cost: int
    """What was minimised, thousandths of an atom."""

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """Node keys in order."""
        return tuple(hop.offer.node for hop in self.hops)


# (cost, number of hops, hops as (offer's rank, start, end), price, step_us): compares
# in the order of the routes.
_Path = tuple[tuple[int, int, int], ...]
_Label = tuple[int, int, _Path, int, int]


def find_routes(
    offers: Iterable[Offer], request: Request, count: int = 1
) -> tuple[Route, ...]:
    """Return up to `count` best routes within the request's bounds, best first.

    Raises:
        NoRoute: There is none; the subclass says what is missing.
    """
    assert 1 <= count <= MAX_ROUTES
    ranked = sorted(offers, key=_get_rank)
    search = _Search(ranked, request, count, price_weight=1000)
    labels = search.run()
    if not labels:
        _explain(ranked, request, search.furthest)
    return tuple(search.build_route(label) for label in labels)


def find_backups(
    offers: Iterable[Offer], request: Request, route: Route
) -> dict[bytes, Route]:
    """Return, per node of `route`, the best route without it, where there is one.

    The next best routes often differ in a cut only; these are what recovery needs.
    """
    offers = tuple(offers)
    backups = {}
    for node in dict.fromkeys(route.nodes):
        others = [offer for offer in offers if offer.node != node]
        with suppress(NoRoute):
            backups[node] = find_routes(others, request)[0]
    return backups


class _Search:
    """One sweep over the boundaries for one objective."""

    def __init__(
        self,
        offers: Sequence[Offer],
        request: Request,
        count: int,
        *,
        price_weight: int,
        time_weight: int | None = None,
        bounded: bool = True,
    ) -> None:
        if time_weight is None:
            time_weight = request.atoms_per_ms * request.steps
        self._offers = offers
        self._request = request
        self._count = count
        self._price_weight = price_weight
        self._time_weight = time_weight
        self._max_price = request.max_price_atoms if bounded else None
        self._max_us = request.max_step_us if bounded else None
        self._is_unbounded = self._max_price is None and self._max_us is None
        self._prices = [request.compute_layer_price(offer) for offer in offers]
        self._rest_price, self._rest_us = self._compute_rest()
        self._known = self._compute_known_links()
        self.furthest = 0
        """Last boundary that was reached."""

    def run(self) -> list[_Label]:
        """Return the best labels at the end of all layers."""
        layers = self._request.layers
        through: list[list[_Label]] = [[] for _ in self._offers]
        left: dict[int, list[_Label]] = {}
        for boundary in range(layers):
            entering = self._enter(boundary, left)
            left = {}
            for v, offer in enumerate(self._offers):
                if not offer.start <= boundary < min(offer.end, layers):
                    continue
                labels = self._prune(through[v] + entering.get(v, []))
                through[v] = [self._compute(v, label) for label in labels]
                may_leave = offer.divisible or boundary + 1 == offer.end
                if may_leave and through[v]:
                    left[v] = through[v]
            if left:
                self.furthest = boundary + 1
        ends = [self._finish(v, label) for v in left for label in left[v]]
        return sorted(label for label in ends if self._is_within(label, layers))[
            : self._count
        ]

    def build_route(self, label: _Label) -> Route:
        """Return a label as people see it."""
        cost, _, path, price, step_us = label
        hops = []
        for v, start, end in path:
            offer, layers = self._offers[v], end - start
            compute_us = offer.fixed_us + offer.slope_us * layers
            hops.append(Hop(offer, start, end, self._prices[v] * layers, compute_us))
        return Route(tuple(hops), price, step_us, cost)

    # --- edges

    def _enter(
        self, boundary: int, left: dict[int, list[_Label]]
    ) -> dict[int, list[_Label]]:
        """Return the labels that hand over to each offer at `boundary`."""
        hub = self._prune_hub(left)
        entering = {}
        for v, offer in enumerate(self._offers):
            if not offer.start <= boundary < offer.end:
                continue
            if not offer.divisible and boundary != offer.start:
                continue
            if boundary == 0:
                link_us = self._get_link_us(self._request.client, offer.node)
                entering[v] = [self._hand_over((0, 0, (), 0, 0), v, 0, link_us)]
            else:
                entering[v] = self._enter_from(v, boundary, left, hub)
        return entering

    def _enter_from(
        self, v: int, boundary: int, left: dict[int, list[_Label]], hub: list[_Label]
    ) -> list[_Label]:
        unknown_us = self._request.unknown_link_us
        known = self._known[v]
        # A link that was measured slower than an unknown one is the rare case that
        # the hub's pruning does not cover: it may have dropped labels for its sake.
        slow = any(link_us > unknown_us and u in left for u, link_us in known.items())
        source = [label for u in left for label in left[u]] if slow else hub
        labels = []
        for label in source:
            u = label[2][-1][0]
            if u != v and u not in known:
                labels.append(self._hand_over(label, v, boundary, unknown_us))
        for u, link_us in known.items():
            if u != v:
                for label in left.get(u, ()):
                    labels.append(self._hand_over(label, v, boundary, link_us))
        return labels

    def _hand_over(self, label: _Label, v: int, boundary: int, link_us: int) -> _Label:
        _, hops, path, price, step_us = label
        offer = self._offers[v]
        step_us += link_us + offer.queue_us + offer.fixed_us
        path = (*path, (v, boundary, boundary))
        return self._weigh(hops + 1, path, price, step_us)

    def _compute(self, v: int, label: _Label) -> _Label:
        _, hops, path, price, step_us = label
        _, start, end = path[-1]
        path = (*path[:-1], (v, start, end + 1))
        price += self._prices[v]
        return self._weigh(hops, path, price, step_us + self._offers[v].slope_us)

    def _finish(self, v: int, label: _Label) -> _Label:
        _, hops, path, price, step_us = label
        link_us = self._get_link_us(self._offers[v].node, self._request.client)
        return self._weigh(hops, path, price, step_us + link_us)

    def _weigh(self, hops: int, path: _Path, price: int, step_us: int) -> _Label:
        cost = self._price_weight * price + self._time_weight * step_us
        return cost, hops, path, price, step_us

    # --- what is dropped

    def _prune(self, labels: list[_Label]) -> list[_Label]:
        """Return the labels that can still be in an answer, in order."""
        kept: list[_Label] = []
        for label in sorted(label for label in labels if self._is_possible(label)):
            if sum(self._dominates(other, label) for other in kept) < self._count:
                kept.append(label)
                if len(kept) == MAX_FRONT:
                    break
            elif self._is_unbounded:
                break
        return kept

    def _prune_hub(self, left: dict[int, list[_Label]]) -> list[_Label]:
        """Return the labels of all offers that a hand-over can still need.

        An offer does not hand over to itself, so a label stays if, for any one offer
        left out, fewer than `count` of the others dominate it.
        """
        kept: list[_Label] = []
        for label in sorted(label for u in left for label in left[u]):
            own = label[2][-1][0]
            above = Counter(
                other[2][-1][0] for other in kept if self._dominates(other, label)
            )
            most = max((above[u] for u in above if u != own), default=0)
            if above.total() - most < self._count:
                kept.append(label)
            elif self._is_unbounded and all(
                above.total() - own_part >= self._count for own_part in above.values()
            ):
                # All later labels have at least these before them.
                break
        return kept

    def _dominates(self, first: _Label, second: _Label) -> bool:
        """Tell whether `first`, which comes before, is no worse in what is bounded."""
        if self._max_price is not None and first[3] > second[3]:
            return False
        return self._max_us is None or first[4] <= second[4]

    def _is_possible(self, label: _Label) -> bool:
        path = label[2]
        return self._is_within(label, path[-1][2])

    def _is_within(self, label: _Label, boundary: int) -> bool:
        """Tell whether the bounds hold even with the cheapest and fastest rest."""
        _, _, _, price, step_us = label
        if self._max_price is not None:
            price += self._rest_price[boundary]
            if price > self._max_price:
                return False
        return self._max_us is None or step_us + self._rest_us[boundary] <= self._max_us

    def _compute_rest(self) -> tuple[list[int], list[int]]:
        """Return, per boundary, the least price and time of the layers above it."""
        layers = self._request.layers
        prices, times = [0] * (layers + 1), [0] * (layers + 1)
        for layer in reversed(range(layers)):
            hosts = [v for v, o in enumerate(self._offers) if o.start <= layer < o.end]
            price = min((self._prices[v] for v in hosts), default=0)
            slope = min((self._offers[v].slope_us for v in hosts), default=0)
            prices[layer] = prices[layer + 1] + price
            times[layer] = times[layer + 1] + slope
        return prices, times

    # --- links

    def _get_link_us(self, source: bytes, target: bytes) -> int:
        if source == target:
            return 0
        link = self._request.links.get((source, target))
        if link is None:
            return self._request.unknown_link_us
        return link.compute_transfer_us(self._request.step_bytes)

    def _compute_known_links(self) -> list[dict[int, int]]:
        """Return, per offer, the time from each offer whose link is known."""
        by_node: dict[bytes, list[int]] = {}
        for v, offer in enumerate(self._offers):
            by_node.setdefault(offer.node, []).append(v)
        pairs = [pair for pair in self._request.links if pair[0] != pair[1]]
        pairs += [(node, node) for node, owned in by_node.items() if len(owned) > 1]
        known: list[dict[int, int]] = [{} for _ in self._offers]
        for source, target in pairs:
            link_us = self._get_link_us(source, target)
            for v in by_node.get(target, ()):
                for u in by_node.get(source, ()):
                    known[v][u] = link_us
        return known


def _get_rank(offer: Offer) -> tuple[bytes, int, int, int, int, int, int, int, bool]:
    return (
        offer.node,
        offer.start,
        offer.end,
        offer.input_price,
        offer.output_price,
        offer.fixed_us,
        offer.slope_us,
        offer.queue_us,
        offer.divisible,
    )


def _explain(offers: Sequence[Offer], request: Request, furthest: int) -> None:
    """Raise the error that says why there is no route."""
    gaps = _compute_gaps(offers, request.layers)
    if gaps:
        raise UncoveredLayers(gaps)
    cheapest = _Search(offers, request, 1, price_weight=1, time_weight=0, bounded=False)
    labels = cheapest.run()
    if not labels:
        raise UnjoinedRanges(cheapest.furthest)
    price = labels[0][3]
    if request.max_price_atoms is not None and price > request.max_price_atoms:
        raise RouteTooDear(
            cheapest_atoms=price, max_price_atoms=request.max_price_atoms
        )
    fastest = _Search(offers, request, 1, price_weight=0, time_weight=1, bounded=False)
    step_us = fastest.run()[0][4]
    if request.max_step_us is not None and step_us > request.max_step_us:
        raise RouteTooSlow(fastest_us=step_us, max_step_us=request.max_step_us)
    # Neither bound alone is in the way, so both are set.
    assert request.max_price_atoms is not None
    assert request.max_step_us is not None
    raise RouteOutOfBounds(
        max_price_atoms=request.max_price_atoms, max_step_us=request.max_step_us
    )


def _compute_gaps(offers: Sequence[Offer], layers: int) -> list[tuple[int, int]]:
    """Return the ranges that no offer covers."""
    gaps = []
    reached = 0
    for offer in sorted(offers, key=lambda offer: offer.start):
        if offer.start > reached:
            gaps.append((reached, min(offer.start, layers)))
        reached = max(reached, offer.end)
        if reached >= layers:
            break
    if reached < layers:
        gaps.append((reached, layers))
    return gaps
