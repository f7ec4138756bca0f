"""Predictions of tokens per second, and where a token comes sooner."""

from hypothesis import given
from hypothesis import strategies as st

from inference.forecast import (
    LAYER_US,
    VISIT_US,
    Alone,
    Stage,
    Verdict,
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
