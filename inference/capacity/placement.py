"""
Which layers a node should host: what fits and is most needed.

Theory of operation
-------------------
A route is made of whole ranges, each beginning where the one before ends.  So a range
is of use at once only if it begins and ends where others end and begin, and it is
needed most where nobody is.  Of all ranges that fit the best one has, in this order,

    1. most layers that nobody hosts
    2. most ends that meet a range of others, or an end of the model
    3. most layers that one other node hosts; then two; and so on

What is left is the same for everybody, so a number of the node's own decides: nodes
that join together do not all choose the same.

Integers and tuples only: no clock, no network, no disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

COUNTED = 8
"""More providers of a layer are as good as so many."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A range of layers and what it is worth."""

    layers: range
    unserved: int
    """Layers of it that nobody else hosts."""
    ends: int
    """Ends that meet a neighbour, 0 to 2."""


def count_hosts(layer_count: int, held: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return how many of the ranges [start, end) hold each layer."""
    counts = [0] * layer_count
    for start, end in held:
        for layer in range(max(start, 0), min(end, layer_count)):
            counts[layer] += 1
    return tuple(counts)


def choose_layers(
    sizes: Sequence[int],
    held: Sequence[tuple[int, int]],
    room_bytes: int,
    luck: int = 0,
) -> Choice | None:
    """Return the best range that fits; None where not a single layer does.

    Args:
        sizes: Bytes of each layer's weights.
        held: The ranges [start, end) of other nodes.
        room_bytes: For weights.
        luck: Decides between equals.
    """
    count = len(sizes)
    hosts = [min(number, COUNTED) for number in count_hosts(count, held)]
    borders = {0, count} | {end for pair in held for end in pair}
    sums = list(accumulate(sizes, initial=0))
    by_hosts = [
        list(accumulate((number == level for number in hosts), initial=0))
        for level in range(COUNTED + 1)
    ]
    best: tuple[tuple[int, ...], Choice] | None = None
    end = 0
    for start in range(count):
        end = max(end, start)
        while end < count and sums[end + 1] - sums[start] <= room_bytes:
            end += 1
        # A shorter range is better only where it meets a neighbour.
        ends = {end} | {border for border in borders if start < border < end}
        for each in ends - {start}:
            taken = [level[each] - level[start] for level in by_hosts]
            meets = (start in borders) + (each in borders)
            rank = (taken[0], meets, *taken[1:], -((start - luck) % count))
            if best is None or rank > best[0]:
                best = rank, Choice(range(start, each), taken[0], meets)
    return None if best is None else best[1]
