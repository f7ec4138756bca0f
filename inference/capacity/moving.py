"""
When a node should leave its layers for others that are needed more.

Theory of operation
-------------------
A token goes through all layers, so a swarm is as fast as its weakest layer, and what
flows through a layer is shared by those who hold it.  A node's part of that,

    share of a layer = own capacity / (capacity of all, own included)

is also what it earns there.  Where many are it is small, where few are it is large, so
whoever looks for a larger share goes where it is needed.  Four things keep that from
shaking the swarm to pieces, when many nodes look at the same picture at the same
moment, and it is old already:

1.  A copy that is the last one never moves.
2.  Layers that carry more than the average lose, in the mean, just what they have too
    much: a node of theirs moves with probability 1 - average / capacity there.
3.  A place is drawn among those below the average, the more likely the more it lacks;
    so the nodes that move do not all run to the weakest.  Whoever is on the way already
    (JOINING) counts there.
4.  A move must bring `LEAST_GAIN` more, and pay back within `PAYBACK_S` the time in
    which the node earns nothing.  And after one comes a pause (`COOL_DOWN_S`).

A range is of use only where it begins and ends as others do, so nodes go to the ranges
that there are, unless nobody holds a layer any more.

Numbers only: no clock, no network, no disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

LEAST_GAIN = 0.03
"""More would leave the weakest layer that much below the average; less would have nodes
move for next to nothing."""
PAYBACK_S = 24 * 3600.0
"""Nobody knows who comes and goes tomorrow."""
COOL_DOWN_S = 6 * 3600.0
"""After a move, and after a start: what was seen then must have come into effect."""


@dataclass(frozen=True, slots=True)
class Host:
    """A node's layers, as the chain shows them."""

    layers: range
    capacity: float
    """Tokens per second through all of them, above 0."""
    is_joining: bool = False
    """It has said that it comes, and does not serve yet."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where to go."""

    layers: range
    gain: float
    """Of what the node earns: 0.5 is half as much again."""


@dataclass(frozen=True, slots=True)
class Chances:
    """Two numbers from [0, 1) that only this node knows."""

    goes: float
    place: float


def consider_move(
    own: Host,
    others: Sequence[Host],
    sizes: Sequence[int],
    room_bytes: int,
    chances: Chances,
    *,
    pause_s: float = 0.0,
) -> Move | None:
    """Return where a node should go now; None where it should stay.

    Args:
        own: This node's layers and capacity.
        others: All other nodes of the model and profile.
        sizes: Bytes of each layer's weights.
        room_bytes: For weights.
        chances: Drawn anew for every look.
        pause_s: For how long a move would earn nothing: fetching and loading.
    """
    count = len(sizes)
    if is_last_copy(own, others):
        return None
    levels = _sum_capacities(count, others)
    average = (sum(levels) + len(own.layers) * own.capacity) / count
    here = _compute_mean(levels, own.layers) + own.capacity
    if chances.goes >= 1 - average / here:
        return None
    least = max(LEAST_GAIN, pause_s / PAYBACK_S)
    moves: list[tuple[float, Move]] = []
    for layers in _list_places(own, others, levels, sizes, room_bytes):
        gain = _compute_gain(own, levels, layers)
        lack = average - _compute_mean(levels, layers)
        if gain > least and lack > 0:
            moves.append((lack, Move(layers, gain)))
    return _draw(moves, chances.place)


def compute_gain(
    own: Host, others: Sequence[Host], count: int, layers: range
) -> float | None:
    """Return how much more a node would earn elsewhere; None where it must stay.

    Args:
        own: This node.
        others: All others.
        count: Layers of the model.
        layers: Where it would go.
    """
    if is_last_copy(own, others):
        return None
    return _compute_gain(own, _sum_capacities(count, others), layers)


def _compute_gain(own: Host, levels: Sequence[float], layers: range) -> float:
    # Whoever takes more layers is slower at each of them.
    capacity = own.capacity * len(own.layers) / len(layers)
    there = _compute_share(levels, layers, capacity)
    return there / _compute_share(levels, own.layers, own.capacity) - 1


def is_last_copy(own: Host, others: Sequence[Host]) -> bool:
    """Tell whether nobody else serves one of our layers."""
    serving = [host.layers for host in others if not host.is_joining]
    return not all(any(layer in held for held in serving) for layer in own.layers)


def _sum_capacities(count: int, hosts: Sequence[Host]) -> list[float]:
    levels = [0.0] * count
    for host in hosts:
        for layer in host.layers:
            if layer < count:
                levels[layer] += host.capacity
    return levels


def _compute_mean(levels: Sequence[float], layers: range) -> float:
    return sum(levels[layer] for layer in layers) / len(layers)


def _compute_share(levels: Sequence[float], layers: range, capacity: float) -> float:
    """Return our part of what flows through `layers`, summed over them."""
    return sum(capacity / (levels[layer] + capacity) for layer in layers)


def _list_places(
    own: Host,
    others: Sequence[Host],
    levels: Sequence[float],
    sizes: Sequence[int],
    room_bytes: int,
) -> list[range]:
    """Return the ranges that fit and meet what others hold."""
    count = len(sizes)
    sums = list(accumulate(sizes, initial=0))
    borders = {0, count}
    for host in others:
        borders |= {host.layers.start, host.layers.stop}
    gaps = {layer for layer, level in enumerate(levels) if not level}
    places = []
    for start in sorted(borders - {count}):
        for end in range(start + 1, count + 1):
            if sums[end] - sums[start] > room_bytes:
                break
            # Where nobody is a range ends where the room does.
            is_full = end == count or sums[end + 1] - sums[start] > room_bytes
            is_gap = is_full and end - 1 in gaps
            layers = range(start, end)
            if (end in borders or is_gap) and layers != own.layers:
                places.append(layers)
    return places


def _draw(moves: Sequence[tuple[float, Move]], chance: float) -> Move | None:
    """Draw one in proportion to what its place lacks."""
    left = chance * sum(lack for lack, _ in moves)
    for lack, move in moves:
        left -= lack
        if left < 0:
            return move
    return moves[-1][1] if moves else None
