"""
One sweep through the layers: the k best labels of every vertex.

A label is a way from the requester to a vertex (offer, layer boundary) with what it
costs so far; see `market.route` for the graph.  Boundaries are swept upwards, so every
label is final when it is extended.

Most hand-overs are between peers that never measured each other and all cost the same,
so they pass through one hub per boundary.  An offer does not hand over to itself, and
its own labels in the hub are of no use to it; but it has them already, without the
hand-over, and what they kept out of the hub they dominate there too.

What is dropped is only what cannot be in the answer: labels that `count` others
dominate, and labels whose cheapest possible rest breaks a bound or costs more than
`ceiling`, the cost of `count` routes that are known already.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

from market.links import Links
from market.offer import Offer, Request

MAX_FRONT = 512
"""Labels that one vertex keeps under two bounds; a front of realistic integers has a
few dozen.  Beyond that the dearest go, and the answer may miss a route."""

NEVER = 1 << 200
"""The rest from where no rest leads to the end; above every sum of ours."""

Path = tuple[tuple[int, int, int], ...]
"""Hops as (number of the offer, first layer, one past the last)."""
Label = tuple[int, int, Path, int, int]
"""(cost, hops, path, price, step time): compares in the order of the routes."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: price_weight * price + time_weight * step time."""

    price_weight: int
    time_weight: int

    def weigh(self, price: int, step_us: int) -> int:
        """Return the cost."""
        return self.price_weight * price + self.time_weight * step_us


@dataclass(frozen=True, slots=True)
class Limits:
    """What an answer must keep to; None is no limit."""

    max_price: int | None = None
    max_us: int | None = None
    ceiling: int | None = None
    """Cost above which nothing is of interest."""

    def allow(self, cost: int, price: int, step_us: int) -> bool:
        """Tell whether the numbers keep to the limits."""
        if self.max_price is not None and price > self.max_price:
            return False
        if self.max_us is not None and step_us > self.max_us:
            return False
        return self.ceiling is None or cost <= self.ceiling


NO_LIMITS = Limits()


class Market:
    """The offers of one request with everything that does not depend on the goal."""

    def __init__(self, offers: Sequence[Offer], request: Request) -> None:
        self.offers = offers
        self.layers = request.layers
        self.links = Links(offers, request)
        self.prices = [request.compute_layer_price(offer) for offer in offers]
        """Per offer, atoms for one layer and the whole request."""
        self.hosts: list[list[int]] = [[] for _ in range(request.layers)]
        """Per layer, who computes it."""
        for v, offer in enumerate(offers):
            for layer in range(offer.start, min(offer.end, request.layers)):
                self.hosts[layer].append(v)

    def may_enter(self, v: int, boundary: int) -> bool:
        """Tell whether offer `v`, a host of the layer there, can begin at it."""
        offer = self.offers[v]
        return offer.divisible or boundary == offer.start

    def may_leave(self, v: int, boundary: int) -> bool:
        """Tell whether offer `v`, which came so far, can end at `boundary`."""
        offer = self.offers[v]
        return offer.divisible or boundary == offer.end

    def compute_rest(self, objective: Objective) -> list[dict[int, int]]:
        """Return, per offer and boundary reached in it, the least cost of the rest.

        Hand-overs count with the fastest link to the offer that takes over, so this is
        a lower bound, and `NEVER` where the way ends.
        """
        weigh, layers = objective.weigh, self.layers
        rest: list[dict[int, int]] = [{} for _ in self.offers]
        for v in self.hosts[layers - 1]:
            ends = self.may_leave(v, layers)
            rest[v][layers] = weigh(0, self.links.last_us[v]) if ends else NEVER
        for boundary in range(layers - 1, 0, -1):
            over = NEVER
            stay = {}
            for v in self.hosts[boundary]:
                offer = self.offers[v]
                done = weigh(self.prices[v], offer.slope_us) + rest[v][boundary + 1]
                stay[v] = done
                if self.may_enter(v, boundary):
                    wait_us = self.links.least_us[v] + offer.queue_us + offer.fixed_us
                    over = min(over, weigh(0, wait_us) + done)
            for v in self.hosts[boundary - 1]:
                leave = over if self.may_leave(v, boundary) else NEVER
                rest[v][boundary] = min(leave, stay.get(v, NEVER))
        return rest


class Search:
    """One sweep for one objective under some limits."""

    def __init__(
        self,
        market: Market,
        objective: Objective,
        count: int,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._market = market
        self._weigh = objective.weigh
        self._count = count
        self._limits = limits
        self._is_limited = limits != NO_LIMITS
        self._by_price = (
            limits.max_price is not None
            and limits.max_us is not None
            and objective.time_weight > 0
        )
        if self._is_limited:
            self._rest_cost = market.compute_rest(objective)
            self._rest_price = market.compute_rest(Objective(1, 0))
            self._rest_us = market.compute_rest(Objective(0, 1))
        self.furthest = 0
        """Last boundary that was reached."""

    def run(self) -> list[Label]:
        """Return the best labels at the end of all layers, at most `count`."""
        market = self._market
        through: dict[int, list[Label]] = {}
        left: dict[int, list[Label]] = {}
        for boundary in range(market.layers):
            entering = self._enter(boundary, left)
            reached = {}
            for v in market.hosts[boundary]:
                labels = through.get(v, []) + entering.get(v, [])
                reached[v] = self._prune(
                    [self._compute(v, label) for label in labels], v
                )
            through = reached
            left = {
                v: labels
                for v, labels in through.items()
                if labels and market.may_leave(v, boundary + 1)
            }
            if left:
                self.furthest = boundary + 1
        ends = [self._finish(v, label) for v in left for label in left[v]]
        allow = self._limits.allow
        return sorted(x for x in ends if allow(x[0], x[3], x[4]))[: self._count]

    # --- edges

    def _enter(
        self, boundary: int, left: dict[int, list[Label]]
    ) -> dict[int, list[Label]]:
        """Return the labels that hand over to each offer at `boundary`."""
        market = self._market
        takers = [v for v in market.hosts[boundary] if market.may_enter(v, boundary)]
        if boundary == 0:
            first = market.links.first_us
            return {
                v: [self._hand_over((0, 0, (), 0, 0), v, 0, first[v])] for v in takers
            }
        hub = self._prune([label for u in left for label in left[u]])
        return {v: self._enter_from(v, boundary, left, hub) for v in takers}

    def _enter_from(
        self, v: int, boundary: int, left: dict[int, list[Label]], hub: list[Label]
    ) -> list[Label]:
        links = self._market.links
        known = links.known_us[v]
        # A link that was measured slower than an unknown one is the rare case that
        # the hub does not cover: it may have dropped labels for that link's sake.
        slow = any(us > links.unknown_us and u in left for u, us in known.items())
        source = [label for u in left for label in left[u]] if slow else hub
        labels = []
        for label in source:
            u = label[2][-1][0]
            if u != v and u not in known:
                labels.append(self._hand_over(label, v, boundary, links.unknown_us))
        for u, link_us in known.items():
            for label in left.get(u, ()):
                labels.append(self._hand_over(label, v, boundary, link_us))
        return labels

    def _hand_over(self, label: Label, v: int, boundary: int, link_us: int) -> Label:
        _, hops, path, price, step_us = label
        offer = self._market.offers[v]
        step_us += link_us + offer.queue_us + offer.fixed_us
        path = (*path, (v, boundary, boundary))
        return self._weigh(price, step_us), hops + 1, path, price, step_us

    def _compute(self, v: int, label: Label) -> Label:
        _, hops, path, price, step_us = label
        _, start, end = path[-1]
        path = (*path[:-1], (v, start, end + 1))
        price += self._market.prices[v]
        step_us += self._market.offers[v].slope_us
        return self._weigh(price, step_us), hops, path, price, step_us

    def _finish(self, v: int, label: Label) -> Label:
        _, hops, path, price, step_us = label
        step_us += self._market.links.last_us[v]
        return self._weigh(price, step_us), hops, path, price, step_us

    # --- what is dropped

    def _prune(self, labels: list[Label], v: int | None = None) -> list[Label]:
        """Return the labels that can still be in an answer.

        A label dominates a later one if it is no worse in what is limited.  A sorted
        list of one quantity counts the dominating ones: with one limit the labels come
        in order of cost; with both, what is no dearer and no slower costs no more
        either, so they come in order of price and the time alone is left to compare.

        Args:
            labels: Of one vertex, or of the hub.
            v: The vertex's offer; checks the limits.
        """
        if not self._is_limited:
            return sorted(labels)[: self._count]
        if v is not None:
            labels = [label for label in labels if self._is_possible(label, v)]
        if self._by_price:
            labels = sorted(labels, key=_get_price_order)
        else:
            labels = sorted(labels)
        timed = self._limits.max_us is not None
        kept: list[Label] = []
        values: list[int] = []
        for label in labels:
            value = label[4] if timed else label[3]
            if bisect_right(values, value) < self._count:
                kept.append(label)
                insort(values, value)
                if len(kept) == MAX_FRONT:
                    break
        return kept

    def _is_possible(self, label: Label, v: int) -> bool:
        """Tell whether the limits hold even with the least rest."""
        cost, _, path, price, step_us = label
        boundary = path[-1][2]
        return self._limits.allow(
            cost + self._rest_cost[v][boundary],
            price + self._rest_price[v][boundary],
            step_us + self._rest_us[v][boundary],
        )


def _get_price_order(label: Label) -> tuple[int, int, int, Path]:
    _, hops, path, price, step_us = label
    return price, step_us, hops, path
