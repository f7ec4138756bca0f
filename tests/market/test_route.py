"""Routes against brute force, over every small market that Hypothesis can think of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import (
    NoRoute,
    RouteOutOfBounds,
    RouteTooDear,
    RouteTooSlow,
    UncoveredLayers,
    UnjoinedRanges,
)
from market.offer import UNKNOWN_LINK_US, Link, Offer, Request
from market.route import find_backups, find_routes

CLIENT = b"client"


def build_offer(node, start, end, price=1, us=100, **changes):
    return Offer(node, start, end, price, price, 0, us, **changes)


def build_request(layers, **changes):
    defaults = {"input_tokens": 10, "output_tokens": 11, "client": CLIENT}
    return Request(layers=layers, **(defaults | changes))


def rank(offer):
    return (
        *(offer.node, offer.start, offer.end, offer.input_price, offer.output_price),
        *(offer.fixed_us, offer.slope_us, offer.queue_us, offer.divisible),
    )


def get_link_us(request, source, target):
    if source == target:
        return 0
    link = request.links.get((source, target))
    if link is None:
        return request.unknown_link_us
    return link.compute_transfer_us(request.step_bytes)


def list_all_routes(offers, request):
    """Return (cost, hops, path, price, step_us) of every route, best first."""
    ranked = sorted(offers, key=rank)

    def extend(path, boundary):
        if boundary == request.layers:
            yield path
            return
        for v, offer in enumerate(ranked):
            if not offer.start <= boundary < offer.end or (path and path[-1][0] == v):
                continue
            last = min(offer.end, request.layers)
            ends = range(boundary + 1, last + 1)
            if not offer.divisible:
                whole = boundary == offer.start and offer.end <= request.layers
                ends = [offer.end] if whole else []
            for end in ends:
                yield from extend((*path, (v, boundary, end)), end)

    routes = []
    for path in extend((), 0):
        price = step_us = 0
        place = request.client
        for v, start, end in path:
            offer = ranked[v]
            price += request.compute_layer_price(offer) * (end - start)
            step_us += get_link_us(request, place, offer.node)
            step_us += offer.queue_us + offer.fixed_us + offer.slope_us * (end - start)
            place = offer.node
        step_us += get_link_us(request, place, request.client)
        cost = 1000 * price + request.atoms_per_ms * request.steps * step_us
        if request.max_price_atoms is not None and price > request.max_price_atoms:
            continue
        if request.max_step_us is not None and step_us > request.max_step_us:
            continue
        routes.append((cost, len(path), path, price, step_us))
    return sorted(routes)


def describe(offers, route):
    """Return a route in the shape of `list_all_routes`."""
    ranked = sorted(offers, key=rank)
    path = []
    for hop in route.hops:
        candidates = [v for v, offer in enumerate(ranked) if offer == hop.offer]
        path.append((candidates[0], hop.start, hop.end))
    return (route.cost, len(path), tuple(path), route.price_atoms, route.step_us)


def try_routes(offers, request):
    """Return the best routes, or the text that says why there are none."""
    try:
        return find_routes(offers, request, 3)
    except NoRoute as error:
        return repr(error)


NODES = [b"a", b"b", b"c", CLIENT]


@st.composite
def offers_of(draw, layers):
    start = draw(st.integers(0, layers - 1))
    small = st.integers(0, 3)
    return Offer(
        node=draw(st.sampled_from(NODES)),
        start=start,
        end=draw(st.integers(start + 1, layers + 1)),
        input_price=draw(small),
        output_price=draw(small),
        fixed_us=draw(small),
        slope_us=draw(small),
        queue_us=draw(small),
        divisible=draw(st.booleans()),
    )


@st.composite
def markets(draw):
    layers = draw(st.integers(1, 5))
    offers = draw(st.lists(offers_of(layers), max_size=5, unique=True))
    pairs = st.tuples(st.sampled_from(NODES), st.sampled_from(NODES))
    links = st.builds(Link, st.integers(0, 9), st.integers(0, 5))
    request = Request(
        layers=layers,
        input_tokens=draw(st.integers(0, 300)),
        output_tokens=draw(st.integers(0, 4)),
        step_bytes=draw(st.integers(0, 3)),
        atoms_per_ms=draw(st.integers(0, 500)),
        max_price_atoms=draw(st.none() | st.integers(0, 3000)),
        max_step_us=draw(st.none() | st.integers(0, 60)),
        client=CLIENT,
        links=draw(st.dictionaries(pairs, links, max_size=6)),
        unknown_link_us=draw(st.integers(0, 6)),
    )
    return offers, request


@settings(max_examples=400)
@given(markets(), st.integers(1, 6))
def test_routes_are_exactly_the_best_ones(market, count):
    offers, request = market
    expected = list_all_routes(offers, request)[:count]
    if not expected:
        with pytest.raises(NoRoute):
            find_routes(offers, request, count)
        return
    routes = find_routes(offers, request, count)
    assert [describe(offers, route) for route in routes] == expected


@given(markets(), st.randoms(use_true_random=False))
def test_the_order_of_offers_does_not_matter(market, random):
    offers, request = market
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert try_routes(shuffled, request) == try_routes(offers, request)


def test_four_quarters_join():
    offers = [build_offer(bytes([i]), 2 * i, 2 * i + 2) for i in range(4)]
    (route,) = find_routes(offers, build_request(8))
    assert route.nodes == (b"\0", b"\1", b"\2", b"\3")
    assert [(hop.start, hop.end) for hop in route.hops] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
    ]
    # Ten prompt tokens give the first token; ten more steps give the other ten.
    assert route.price_atoms == 8 * (10 + 10)
    assert route.step_us == 8 * 100 + 5 * UNKNOWN_LINK_US
    assert sum(hop.price_atoms for hop in route.hops) == route.price_atoms
    assert sum(hop.compute_us for hop in route.hops) == 800


def test_price_against_speed():
    cheap = build_offer(b"cheap", 0, 4, price=1, us=1000)
    quick = build_offer(b"quick", 0, 4, price=10, us=10)
    offers = [cheap, quick]
    assert find_routes(offers, build_request(4))[0].nodes == (b"cheap",)
    hurried = build_request(4, atoms_per_ms=1000)
    assert find_routes(offers, hurried)[0].nodes == (b"quick",)
    # The slow one saves 720 atoms, the quick one 11 steps of 3.96 ms: 16.5 a ms.
    for value, winner in ((16, b"cheap"), (17, b"quick")):
        request = build_request(4, atoms_per_ms=value)
        assert find_routes(offers, request)[0].nodes == (winner,)


def test_a_long_prompt_and_a_long_answer_choose_differently():
    reader = Offer(b"reader", 0, 4, 1, 9, 0, 10)
    writer = Offer(b"writer", 0, 4, 9, 1, 0, 10)
    reading = build_request(4, input_tokens=1000, output_tokens=10)
    writing = build_request(4, input_tokens=10, output_tokens=1000)
    assert find_routes([reader, writer], reading)[0].nodes == (b"reader",)
    assert find_routes([reader, writer], writing)[0].nodes == (b"writer",)


def test_overlapping_ranges_are_cut_where_it_pays():
    dear = build_offer(b"dear", 0, 6, price=5)
    cheap = build_offer(b"cheap", 2, 8, price=1)
    route = find_routes([dear, cheap], build_request(8))[0]
    assert [(hop.offer.node, hop.start, hop.end) for hop in route.hops] == [
        (b"dear", 0, 2),
        (b"cheap", 2, 8),
    ]


def test_whole_ranges_are_not_cut():
    offers = [
        build_offer(b"a", 0, 6, divisible=False),
        build_offer(b"b", 2, 8, divisible=False),
    ]
    with pytest.raises(UnjoinedRanges, match="past layer 6") as caught:
        find_routes(offers, build_request(8))
    assert caught.value.boundary == 6
    offers.append(build_offer(b"c", 0, 2, price=9, divisible=False))
    assert find_routes(offers, build_request(8))[0].nodes == (b"c", b"b")


def test_equal_cost_takes_the_fewest_hops_and_then_the_lower_key():
    ranges = [(b"a", 0, 2), (b"b", 2, 4), (b"z", 0, 4), (b"y", 0, 4)]
    offers = [build_offer(*layers, us=0, divisible=False) for layers in ranges]
    routes = find_routes(offers, build_request(4, unknown_link_us=0), 3)
    assert [route.nodes for route in routes] == [(b"y",), (b"z",), (b"a", b"b")]


def test_measured_neighbours_win_over_unknown_peers():
    offers = [build_offer(b"a", 0, 4), build_offer(b"near", 0, 4)]
    links = {(CLIENT, b"near"): Link(200), (b"near", CLIENT): Link(200)}
    request = build_request(4, atoms_per_ms=1, links=links)
    routes = find_routes(offers, request, 2)
    assert [route.nodes for route in routes] == [(b"near",), (b"a",)]
    assert routes[0].step_us == 800
    assert routes[1].step_us == 400 + 2 * UNKNOWN_LINK_US


def test_bandwidth_counts():
    link = Link(1000, bytes_per_ms=1000)
    assert link.compute_transfer_us(0) == 1000
    assert link.compute_transfer_us(1) == 1001
    assert link.compute_transfer_us(4096) == 5096


def test_missing_layers_are_named():
    offers = [build_offer(b"a", 2, 3), build_offer(b"b", 5, 6), build_offer(b"c", 2, 6)]
    offers = [offers[0], offers[1]]
    with pytest.raises(UncoveredLayers) as caught:
        find_routes(offers, build_request(8))
    assert caught.value.gaps == ((0, 2), (3, 5), (6, 8))
    assert "[0, 2), [3, 5), [6, 8)" in str(caught.value)
    with pytest.raises(UncoveredLayers, match=r"\[0, 8\)"):
        find_routes([], build_request(8))
    with pytest.raises(UncoveredLayers, match=r"\[0, 8\)"):
        find_routes([build_offer(b"x", 9, 12)], build_request(8))


def test_bounds_say_what_would_have_been_possible():
    cheap = build_offer(b"cheap", 0, 4, price=1, us=1000)
    quick = build_offer(b"quick", 0, 4, price=10, us=10)
    offers, limits = [cheap, quick], {"unknown_link_us": 0}
    with pytest.raises(RouteTooDear, match="80 atoms") as dear:
        find_routes(offers, build_request(4, max_price_atoms=79, **limits))
    assert dear.value.cheapest_atoms == 80
    with pytest.raises(RouteTooSlow, match="40 us") as slow:
        find_routes(offers, build_request(4, max_step_us=39, **limits))
    assert slow.value.fastest_us == 40
    # Layers may be shared between the two, so these bounds meet in the middle.
    both = build_request(4, max_price_atoms=440, max_step_us=2020, **limits)
    assert find_routes(offers, both)[0].price_atoms == 440
    with pytest.raises(RouteOutOfBounds):
        find_routes(
            offers, build_request(4, max_price_atoms=439, max_step_us=2020, **limits)
        )


def test_a_registrations_one_time_is_spread_over_its_layers():
    offer = Offer.from_measurement(b"n", (2, 5), (3, 4), 1000, queue_us=7)
    assert (offer.start, offer.end) == (2, 5)
    assert (offer.input_price, offer.output_price) == (3, 4)
    assert (offer.fixed_us, offer.slope_us, offer.queue_us) == (0, 334, 7)


def test_steps_of_a_request():
    for tokens, output, steps in ((0, 0, 0), (1, 1, 1), (128, 2, 2), (129, 5, 6)):
        request = build_request(4, input_tokens=tokens, output_tokens=output)
        assert request.steps == steps


def test_a_wide_market_stays_exact_and_quick():
    """Three hundred providers, all pairs unknown: the hub, not the pairs, is walked."""
    offers = [
        build_offer(b"%03d" % i, 8 * (i % 10), 8 * (i % 10) + 8, price=1 + i * 7 % 31)
        for i in range(300)
    ]
    routes = find_routes(offers, build_request(80), 4)
    cheapest = sum(
        8 * 20 * min(o.input_price for o in offers if o.start == 8 * part)
        for part in range(10)
    )
    assert routes[0].price_atoms == cheapest
    assert [route.cost for route in routes] == sorted(route.cost for route in routes)
    assert len({route.nodes for route in routes}) == 4


def test_backups_avoid_each_node_of_the_route():
    offers = [
        build_offer(b"a", 0, 4, price=1),
        build_offer(b"b", 4, 8, price=1),
        build_offer(b"spare", 4, 8, price=3),
    ]
    request = build_request(8)
    (route,) = find_routes(offers, request)
    backups = find_backups(offers, request, route)
    assert {node: backup.nodes for node, backup in backups.items()} == {
        b"b": (b"a", b"spare")
    }
