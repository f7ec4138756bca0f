"""
Committees: who re-executes and endorses the chunk of a slot.

Theory of operation
-------------------
A committee is drawn from ALL validators, never from the hosts of a shard: whoever
cheaply hosts two thirds of a range could otherwise mint money.  The draw depends on the
epoch's seed, the shard and the view and on nothing that a producer chooses, so a
producer cannot try chunks until it likes the judges.

There are two regimes.

    up to 192 validators   draw members without replacement, by stake, until they hold
                           at least 2/3 of all stake; a certificate needs endorsements
                           by strictly more than 1/3 of ALL stake.
    more                   draw 96 mandates with replacement, by stake; a certificate
                           needs strictly more than 2/3 of them.

In the first one a bad chunk is not improbable but impossible while less than a third
of the stake is faulty: more than a third signed, so an honest one did.  And a good
chunk is never short of endorsers: of two thirds less than one is faulty, so more than a
third is left.  In the second one a bad chunk needs 65 mandates of 96 in faulty hands,
which at a third faulty has the probability 6.4e-12.

    mandates   needed   P(bad chunk) at 1/3 faulty
          68       46   7.8e-9
          96       65   6.4e-12
         128       86   5.6e-15

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, comb, floor

from primitives.hashing import compute_hash
from primitives.seeded import compute_draw
from primitives.types import ShardId, View

MAX_WHOLE_SET = 192
"""Validators up to which two thirds of the stake endorse; beyond, 96 mandates are
fewer than two thirds of the set and still safe enough."""

MANDATES = 96
"""A bad chunk once in 1.5e11 slots, if a third of the stake is faulty: with a slot per
second and 64 shards, once in 77 years."""


@dataclass(frozen=True, slots=True)
class Committee:
    """Who may endorse the chunk of one slot, and how many have to."""

    members: tuple[int, ...]
    """Indices in the epoch's set, ascending."""
    weights: tuple[int, ...]
    """Of each member: its stake in atoms, or its mandates."""
    needed: int
    """Weight that makes a certificate; in the unit of the weights."""
    total: int
    """What `needed` is a part of: the stake of ALL validators, or all mandates."""

    def __contains__(self, index: int) -> bool:
        return index in self.members

    @property
    def weight(self) -> int:
        """Of all members together."""
        return sum(self.weights)

    def compute_weight(self, indices: Iterable[int]) -> int:
        """Return the weight of the members among distinct `indices`."""
        chosen = set(indices)
        return sum(
            weight
            for member, weight in zip(self.members, self.weights, strict=True)
            if member in chosen
        )

    def is_enough(self, indices: Iterable[int]) -> bool:
        """Tell whether endorsements by `indices` make a certificate."""
        return self.compute_weight(indices) >= self.needed


def draw_committee(
    seed: bytes, shard: ShardId, created_view: View, powers: Sequence[int]
) -> Committee:
    """Return the committee of a slot.

    Args:
        seed: Of the slot's epoch.
        shard: Whose chunk is judged.
        created_view: Of the slot.
        powers: Of the epoch's validators, in their order; none is zero.
    """
    slot_seed = compute_hash(
        "committee", seed, shard.to_bytes(8, "big"), created_view.to_bytes(8, "big")
    )
    if len(powers) <= MAX_WHOLE_SET:
        return _draw_two_thirds(slot_seed, powers)
    return draw_mandates(slot_seed, powers, MANDATES)


def draw_mandates(slot_seed: bytes, powers: Sequence[int], count: int) -> Committee:
    """Return a committee of `count` mandates, drawn by stake with replacement."""
    total_power = sum(powers)
    points = sorted(compute_draw(slot_seed, total_power, i) for i in range(count))
    mandates: dict[int, int] = {}
    index, end = 0, powers[0]
    for point in points:
        while point >= end:
            index += 1
            end += powers[index]
        mandates[index] = mandates.get(index, 0) + 1
    return Committee(
        members=tuple(mandates),
        weights=tuple(mandates.values()),
        needed=2 * count // 3 + 1,
        total=count,
    )


def draw_distinct(seed: bytes, powers: Sequence[int], wanted: int) -> tuple[int, ...]:
    """Return up to `wanted` different indices, drawn by stake, in the order drawn."""
    left = dict(enumerate(powers))
    total = sum(powers)
    drawn: list[int] = []
    while left and len(drawn) < wanted:
        index = _pick(compute_draw(seed, total, len(drawn)), left)
        total -= left.pop(index)
        drawn.append(index)
    return tuple(drawn)


def compute_bad_chunk_probability(
    count: int, mandates: int = MANDATES, faulty: Fraction | float = Fraction(1, 3)
) -> float:
    """Return how probable it is that faulty endorsers alone certify a chunk.

    Exact: sums of integers, divided once at the end.

    Args:
        count: Validators, for the smaller regime of equal stake.
        mandates: Of the larger regime.
        faulty: Part of the stake that is faulty, 0 to 1.
    """
    part = Fraction(faulty)
    if not 0 <= part <= 1:
        raise ValueError(f"a part of {faulty} is not one")
    if count <= MAX_WHOLE_SET:
        return float(_compute_hypergeometric_tail(count, floor(part * count)))
    return float(_compute_binomial_tail(mandates, part))


def _compute_hypergeometric_tail(count: int, bad: int) -> Fraction:
    """P(more than count/3 of the ceil(2 count/3) members drawn are among the bad)."""
    drawn = ceil(Fraction(2 * count, 3))
    needed = count // 3 + 1
    ways = sum(
        comb(bad, k) * comb(count - bad, drawn - k)
        for k in range(needed, min(bad, drawn) + 1)
    )
    return Fraction(ways, comb(count, drawn))


def _compute_binomial_tail(mandates: int, part: Fraction) -> Fraction:
    """P(more than 2/3 of the mandates, each faulty with probability `part`, are)."""
    bad, good, whole = part.numerator, part.denominator, part.denominator
    good -= bad
    needed = 2 * mandates // 3 + 1
    ways = sum(
        comb(mandates, k) * bad**k * good ** (mandates - k)
        for k in range(needed, mandates + 1)
    )
    return Fraction(ways, whole**mandates)


def _draw_two_thirds(slot_seed: bytes, powers: Sequence[int]) -> Committee:
    """Draw members by stake without replacement until they hold 2/3 of it."""
    total_power = sum(powers)
    left = dict(enumerate(powers))
    remaining = total_power
    number = 0
    while 3 * (total_power - remaining) < 2 * total_power:
        index = _pick(compute_draw(slot_seed, remaining, number), left)
        remaining -= left.pop(index)
        number += 1
    members = tuple(index for index in range(len(powers)) if index not in left)
    return Committee(
        members=members,
        weights=tuple(powers[index] for index in members),
        needed=total_power // 3 + 1,
        total=total_power,
    )


def _pick(point: int, left: dict[int, int]) -> int:
    """Return in whose stretch a point falls when the powers lie side by side."""
    for index, power in left.items():
        point -= power
        if point < 0:
            return index
    raise AssertionError("the point is below the sum of the powers")
