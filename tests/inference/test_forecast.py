"""Predictions of tokens per second, and where a token comes sooner."""

from hypothesis import given
from hypothesis import strategies as st

from inference.capacity.forecast import (
    LAYER_US,
    VISIT_US,
    Alone,
    Offered,
    Stage,
    Verdict,
    find_fastest,
    find_gaps,
    forecast_alone,
    forecast_route,
    judge,
)


def test_a_token_is_computing_visits_and_a_lap() -> None:
    stages = [Stage(2, 3000, 20_000), Stage(2, 5000, 8000), Stage(4, 1000, None)]
    forecast = forecast_route(stages, ends_us=700)
    fixed = 9000 + 700 + 3 * VISIT_US
    assert forecast.fastest_us == fixed + 20_000
    assert forecast.slowest_us == fixed + 28_000
    assert forecast.unmeasured == 1


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), max_size=8),
    st.integers(0, 50),
)
def test_the_lap_is_within_its_bounds_wherever_the_stages_are(places, ends) -> None:
    """Nodes on a plane, the requester at its origin, delays as distances."""

    def measure(a: complex, b: complex) -> float:
        return abs(a - b)

    nodes = [complex(*place) for place in places]
    lap = sum(map(measure, [0j, *nodes], [*nodes, 0j]))
    stages = [Stage(1, 10, round(2 * abs(node))) for node in nodes]
    forecast = forecast_route(stages, ends)
    slack = len(nodes)  # of rounding
    assert forecast.shortest_lap_us <= lap + slack
    assert lap <= forecast.longest_lap_us + slack


def offer(start, end, us, way=0, profile="a", name="n") -> Offered:
    return Offered(name, profile, start, end, us, way)


def test_the_fastest_route_of_what_is_offered() -> None:
    slow, fast = offer(0, 4, 9000), offer(0, 4, 3000)
    tail, short = offer(4, 8, 3000), offer(4, 6, 100)
    assert find_fastest([slow, tail, fast, short], 8) == (fast, tail)
    # Fewer hops are fewer visits; what is far costs its way.
    whole = offer(0, 8, 6500)
    assert find_fastest([fast, tail, whole], 8) == (whole,)
    far = offer(0, 8, 100, way=50_000)
    assert find_fastest([far, whole], 8) == (whole,)
    # A way that was never measured is as long as the longest one that was.
    unknown = offer(0, 8, 6400, way=None)
    assert find_fastest([unknown, whole, far], 8) == (whole,)
    assert find_fastest([unknown], 8) == (unknown,)


def test_no_route_mixes_profiles_or_leaves_a_gap() -> None:
    ours, theirs = offer(0, 4, 1), offer(4, 8, 1, profile="b")
    assert find_fastest([ours, theirs], 8) is None
    assert find_gaps([ours, theirs], 8) == []
    assert find_fastest([ours], 8) is None
    assert find_gaps([ours], 8) == [4, 5, 6, 7]
    assert find_fastest([], 8) is None
    beyond = offer(4, 9, 1)
    assert find_fastest([ours, beyond], 8) is None
    other = offer(0, 4, 5, profile="b")
    assert find_fastest([ours, theirs, other], 8) == (other, theirs)


ranges = st.tuples(
    st.integers(0, 5), st.integers(1, 3), st.integers(0, 99), st.integers(0, 99)
)


@given(st.lists(ranges, max_size=12))
def test_it_is_the_fastest_of_all(found) -> None:
    offers = [offer(a, a + n, us, way) for a, n, us, way in found]

    def walk(place: int) -> float:
        if place == 6:
            return 0.0
        return min(
            (
                each.measured_us + VISIT_US + each.round_trip_us + walk(each.end)
                for each in offers
                if each.start == place and each.end <= 6
            ),
            default=float("inf"),
        )

    route = find_fastest(offers, 6)
    if route is None:
        assert walk(0) == float("inf")
    else:
        ends = [0, *(each.end for each in route)]
        assert [each.start for each in route] == ends[:-1]
        cost = sum(each.measured_us + VISIT_US + each.round_trip_us for each in route)
        assert cost == walk(0)


def alone_in(fastest: float, slowest: float, fits: bool = True) -> Alone:
    return Alone(fastest, slowest, fits)


def test_a_verdict_holds_whatever_the_lap_is() -> None:
    swarm = forecast_route([Stage(1, 1000, 500), Stage(1, 1000, 700)], 0)
    assert (swarm.fastest_us, swarm.slowest_us) == (4700, 5200)
    assert judge(swarm, alone_in(1000, 4000)) is Verdict.HERE
    assert judge(swarm, alone_in(1000, 4800)) is Verdict.EQUAL
    assert judge(swarm, alone_in(5100, 5900)) is Verdict.EQUAL
    assert judge(swarm, alone_in(5300, 5900)) is Verdict.SWARM
    assert judge(swarm, alone_in(1, 1, fits=False)) is Verdict.SWARM
    # With a way of unknown length the swarm is never called faster.
    unknown = forecast_route([Stage(1, 1000, None)], 0)
    assert judge(unknown, alone_in(10**6, 10**6)) is Verdict.EQUAL


def test_alone_a_token_reads_every_weight_once() -> None:
    options = {"ends_us": 50.0, "bytes_per_s": 1e9, "layers": 4, "fits": True}
    read = forecast_alone(8_000_000, layer_us=None, **options)
    assert read == Alone(8050, 8050 + 4 * LAYER_US, True)
    # What was measured here counts more.
    measured = forecast_alone(8_000_000, layer_us=3000, **options)
    assert measured == Alone(12_050, 12_050, True)
