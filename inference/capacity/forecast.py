"""
How fast a token will come: through the swarm, and from this machine alone.

    token = what the stages compute + what the requester computes
            + a fixed cost per visit + one lap of the way

The lap goes from the requester through all stages and back.  Measured are only the
round trips between the requester and each stage, so its length is known within bounds:
it is not shorter than the way to the farthest stage and back, and not longer than if
everything between two stages went by the requester.

Alone, a token reads all weights from memory once, and cannot be faster than that; nor
will it be slower than that and a fixed time per layer.  Where this machine hosts layers
of the model, their measured time says it better.

Pure: numbers in, numbers out.  All times are microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

VISIT_US = 1000
"""Of a stage beside computing: frames, queues, a socket to the worker, a payment;
measured with stages that compute nothing (docs/benchmarks.md)."""


LAYER_US = 500
"""Of a layer beside reading its weights, at most: some twenty small kernels, started
from Python on a slow core."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One hop of a route."""

    layers: int
    measured_us: int
    """Of a decode step over its layers, as it was registered."""
    round_trip_us: int | None
    """From the requester; None where it was never measured."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A token through a route."""

    compute_us: float
    """By the stages."""
    ends_us: float
    """By the requester: embedding, norm, head."""
    visits_us: float
    shortest_lap_us: float
    longest_lap_us: float
    unmeasured: int
    """Stages to which no round trip is known; the laps are without them."""

    @property
    def fastest_us(self) -> float:
        """A token, if the lap is as short as it can be."""
        return self._get_rest_us() + self.shortest_lap_us

    @property
    def slowest_us(self) -> float:
        """A token, if the lap is as long as it can be."""
        return self._get_rest_us() + self.longest_lap_us

    def _get_rest_us(self) -> float:
        return self.compute_us + self.ends_us + self.visits_us


@dataclass(frozen=True, slots=True)
class Alone:
    """A token from this machine alone."""

    fastest_us: float
    slowest_us: float
    fits: bool
    """Whether weights, caches and a worker fit into its memory."""


class Verdict(StrEnum):
    """Where a token comes sooner."""

    HERE = "here"
    SWARM = "swarm"
    EQUAL = "equal"
    """The bounds do not tell."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A registration, as the chain shows it."""

    name: str
    """For people."""
    profile: str
    """No route mixes them."""
    start: int
    end: int
    """Layers [start, end)."""
    measured_us: int
    round_trip_us: int | None
    """From here; None where it was never measured."""

    @property
    def stage(self) -> Stage:
        """What it is in a route."""
        return Stage(self.end - self.start, self.measured_us, self.round_trip_us)


def find_fastest(offers: Sequence[Offered], layers: int) -> tuple[Offered, ...] | None:
    """Return the route with which a token comes soonest; None where layers are missing.

    A gateway weighs prices and load as well, so what it takes may be slower.  A way
    that was never measured counts as the longest that is known: it is not free.

    Args:
        offers: Of one model.
        layers: How many it has.
    """
    ways = [each.round_trip_us for each in offers if each.round_trip_us is not None]
    longest_us = max(ways, default=0)
    best: tuple[float, tuple[Offered, ...]] | None = None
    for profile in sorted({each.profile for each in offers}):
        # The cheapest way to every boundary, and the hops on it.
        known: dict[int, tuple[float, tuple[Offered, ...]]] = {0: (0.0, ())}
        for each in sorted(offers, key=lambda offer: (offer.start, offer.end)):
            before = known.get(each.start)
            if each.profile != profile or before is None or each.end > layers:
                continue
            way_us = longest_us if each.round_trip_us is None else each.round_trip_us
            cost = before[0] + each.measured_us + VISIT_US + way_us
            if each.end not in known or cost < known[each.end][0]:
                known[each.end] = cost, (*before[1], each)
        found = known.get(layers)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    return None if best is None else best[1]


def find_gaps(offers: Sequence[Offered], layers: int) -> list[int]:
    """Return the layers that nobody offers."""
    held = {layer for each in offers for layer in range(each.start, each.end)}
    return [layer for layer in range(layers) if layer not in held]


def forecast_route(stages: Sequence[Stage], ends_us: float) -> Forecast:
    """Return what a token through these stages takes, sessions of others apart."""
    ways = [stage.round_trip_us for stage in stages if stage.round_trip_us is not None]
    return Forecast(
        compute_us=sum(stage.measured_us for stage in stages),
        ends_us=ends_us,
        visits_us=VISIT_US * len(stages),
        shortest_lap_us=max(ways, default=0),
        longest_lap_us=sum(ways),
        unmeasured=len(stages) - len(ways),
    )


def forecast_alone(
    layers_bytes: int,
    ends_us: float,
    bytes_per_s: float,
    *,
    layer_us: float | None,
    layers: int,
    fits: bool,
) -> Alone:
    """Return what a token takes here.

    Args:
        layers_bytes: Weights of all layers.
        ends_us: Embedding, norm, head.
        bytes_per_s: Of this machine's memory.
        layer_us: Of one layer, as measured on this machine; None where it hosts none.
        layers: Of the model.
        fits: Whether it has the memory.
    """
    if layer_us is not None:
        token_us = layer_us * layers + ends_us
        return Alone(token_us, token_us, fits)
    token_us = compute_read_us(layers_bytes, bytes_per_s) + ends_us
    return Alone(token_us, token_us + LAYER_US * layers, fits)


def compute_read_us(size: int, bytes_per_s: float) -> float:
    """Return how long so many bytes of memory take to be read."""
    return 1e6 * size / bytes_per_s


def judge(swarm: Forecast, alone: Alone) -> Verdict:
    """Return where a token comes sooner, whatever the lap really is."""
    if not alone.fits:
        return Verdict.SWARM
    if swarm.slowest_us < alone.fastest_us and not swarm.unmeasured:
        return Verdict.SWARM
    if alone.slowest_us < swarm.fastest_us:
        return Verdict.HERE
    return Verdict.EQUAL
