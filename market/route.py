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
other, so one sweep over the boundaries (`market.search`) finds the k best routes.

Bounds that bind make it a harder problem: a vertex then keeps a Pareto front.  We first
look for good routes within the bounds by shifting the weight between price and time,
each try a quick sweep without bounds.  The last of them is a ceiling that lets the
exact sweep drop nearly everything.

Order: cost, then fewest hops, then the providers' keys and ranges, so every node
computes the same routes in the same order whatever order the offers came in.

A route may come back to a provider it has left; it never hands over from an offer to
itself.

Spec: design 05, Routing; P2P-LLM, section 3
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isqrt

from market.errors import (
    NoRoute,
    RouteOutOfBounds,
    RouteTooDear,
    RouteTooSlow,
    UncoveredLayers,
    UnjoinedRanges,
)
from market.offer import Offer, Request
from market.search import Label, Limits, Market, Objective, Search

MAX_ROUTES = 16
"""Most routes that one call returns: recovery tries a few and then asks again."""

_PRICE_WEIGHT = 1000
_MOST_WEIGHT = 1 << 40
"""Weight of a microsecond beside which no price counts any more."""
_TRIES = 16
"""Sweeps that look for a ceiling: halving the exponent's range to below one percent."""


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


def find_routes(
    offers: Iterable[Offer], request: Request, count: int = 1
) -> tuple[Route, ...]:
    """Return up to `count` best routes within the request's bounds, best first.

    Raises:
        NoRoute: There is none; the subclass says what is missing.
    """
    assert 1 <= count <= MAX_ROUTES
    market = Market(sorted(offers, key=_get_rank), request)
    gaps = _compute_gaps(market.offers, request.layers)
    if gaps:
        raise UncoveredLayers(gaps)
    objective = Objective(_PRICE_WEIGHT, request.atoms_per_ms * request.steps)
    limits = Limits(request.max_price_atoms, request.max_step_us)
    search = Search(market, objective, count)
    labels = search.run()
    if not labels:
        raise UnjoinedRanges(search.furthest)
    # Bounds that do not bind cost nothing: then the best routes are within them.
    if not all(limits.allow(label[0], label[3], label[4]) for label in labels):
        ceiling = _compute_ceiling(market, objective, limits, count)
        limits = Limits(limits.max_price, limits.max_us, ceiling)
        labels = Search(market, objective, count, limits).run()
    if not labels:
        raise _explain(market, limits)
    return tuple(_build_route(market, label) for label in labels)


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


def _build_route(market: Market, label: Label) -> Route:
    cost, _, path, price, step_us = label
    hops = []
    for v, start, end in path:
        offer, layers = market.offers[v], end - start
        compute_us = offer.fixed_us + offer.slope_us * layers
        hops.append(Hop(offer, start, end, market.prices[v] * layers, compute_us))
    return Route(tuple(hops), price, step_us, cost)


def _compute_ceiling(
    market: Market, objective: Objective, limits: Limits, count: int
) -> int | None:
    """Return a cost that `count` routes within the limits do not exceed, or None.

    Time gets dearer until the routes are fast enough, or cheaper until they are cheap
    enough; each try may add to the routes within the limits.
    """
    costs: dict[object, int] = {}
    low, high = 0, _MOST_WEIGHT
    weight = objective.time_weight
    for _ in range(_TRIES):
        labels = Search(market, Objective(_PRICE_WEIGHT, weight), count).run()
        for _, _, path, price, step_us in labels:
            cost = objective.weigh(price, step_us)
            if limits.allow(cost, price, step_us):
                costs[path] = cost
        is_slow = limits.max_us is not None and labels[0][4] > limits.max_us
        is_dear = limits.max_price is not None and labels[0][3] > limits.max_price
        if is_slow or (not is_dear and weight < objective.time_weight):
            low = max(low, weight)
        else:
            high = min(high, weight)
        weight = isqrt((low + 1) * (high + 1))
    best = sorted(costs.values())[:count]
    return best[-1] if len(best) == count else None


def _explain(market: Market, limits: Limits) -> NoRoute:
    """Return the error that says which bound is in the way."""
    price = Search(market, Objective(1, 0), 1).run()[0][3]
    if limits.max_price is not None and price > limits.max_price:
        return RouteTooDear(cheapest_atoms=price, max_price_atoms=limits.max_price)
    step_us = Search(market, Objective(0, 1), 1).run()[0][4]
    if limits.max_us is not None and step_us > limits.max_us:
        return RouteTooSlow(fastest_us=step_us, max_step_us=limits.max_us)
    # Neither bound alone is in the way, so both are set.
    assert limits.max_price is not None
    assert limits.max_us is not None
    return RouteOutOfBounds(max_price_atoms=limits.max_price, max_step_us=limits.max_us)


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
