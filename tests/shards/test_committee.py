"""Committees: who endorses, how many have to, and how safe that is."""

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_world import SEED, name

from shards.committee import (
    MANDATES,
    MAX_WHOLE_SET,
    compute_bad_chunk_probability,
    draw_committee,
    draw_distinct,
    draw_mandates,
)

powers_lists = st.lists(st.integers(1, 10**9), min_size=1, max_size=40)


@given(powers_lists, st.integers(0, 63), st.integers(1, 10**6))
def test_two_thirds_are_drawn_and_not_one_too_many(powers, shard, view):
    committee = draw_committee(SEED, shard, view, powers)
    total = sum(powers)
    assert list(committee.members) == sorted(set(committee.members))
    assert committee.weights == tuple(powers[i] for i in committee.members)
    assert 3 * committee.weight >= 2 * total
    # Without the last one drawn it was less: so without the heaviest it is, too.
    assert 3 * (committee.weight - max(committee.weights)) < 2 * total
    assert committee.total == total
    assert 3 * committee.needed > total >= 3 * (committee.needed - 1)


@given(powers_lists, st.integers(1, 1000), st.data())
def test_a_certificate_has_an_honest_signer_and_honest_members_suffice(
    powers, view, data
):
    """With less than a third faulty: none without the honest, enough with them."""
    committee = draw_committee(SEED, 1, view, powers)
    total = sum(powers)
    faulty = set()
    for index in data.draw(st.permutations(range(len(powers)))):
        if 3 * sum(powers[i] for i in {*faulty, index}) < total:
            faulty.add(index)
    assert not committee.is_enough(faulty)
    assert committee.is_enough(set(committee.members) - faulty)


@given(powers_lists, st.integers(1, 1000))
def test_the_draw_depends_on_seed_shard_and_view_alone(powers, view):
    draw = draw_committee(SEED, 1, view, powers)
    assert draw == draw_committee(SEED, 1, view, tuple(powers))
    drawn = {
        draw_committee(seed, shard, v, [1] * 40).members
        for seed in (SEED, name("another"))
        for shard in (1, 2)
        for v in (view, view + 1)
    }
    assert len(drawn) == 8


def test_four_equal_validators():
    """The devnet: three of four are drawn, two of these are enough."""
    committee = draw_committee(SEED, 1, 1, [100] * 4)
    assert len(committee.members) == 3
    assert committee.needed == 134
    for pair in combinations(committee.members, 2):
        assert committee.is_enough(pair)
    assert not any(committee.is_enough([i]) for i in range(4))
    outsider = ({0, 1, 2, 3} - set(committee.members)).pop()
    assert not committee.is_enough([committee.members[0], outsider])
    assert outsider not in committee
    assert committee.members[0] in committee


def test_one_validator_alone():
    committee = draw_committee(SEED, 1, 1, [7])
    assert committee.members == (0,)
    assert committee.is_enough([0])
    assert not committee.is_enough([])


def test_a_share_of_the_draws_goes_with_the_stake():
    counts = [0] * 12
    powers = [30] * 4 + [10] * 8
    for view in range(2000):
        for index in draw_committee(SEED, 3, view, powers).members:
            counts[index] += 1
    assert min(counts[:4]) > 1.25 * max(counts[4:])
    assert max(counts[4:]) < 1.15 * min(counts[4:])


def test_large_sets_draw_mandates():
    powers = [5] * (MAX_WHOLE_SET + 1)
    committee = draw_committee(SEED, 1, 9, powers)
    assert sum(committee.weights) == MANDATES == committee.total
    assert committee.needed == 65
    assert list(committee.members) == sorted(set(committee.members))
    assert not committee.is_enough(committee.members[: len(committee.members) // 2])
    assert committee.is_enough(committee.members)


@given(powers_lists, st.integers(1, 200))
def test_mandates_fall_where_the_stake_is(powers, count):
    committee = draw_mandates(SEED, powers, count)
    assert sum(committee.weights) == count
    assert 3 * committee.needed > 2 * count >= 3 * (committee.needed - 1)
    assert all(0 <= index < len(powers) for index in committee.members)


def test_mandates_follow_the_stake():
    committee = draw_mandates(SEED, [1, 10**6, 1], 96)
    assert committee.members == (1,)
    assert committee.weights == (96,)


@given(powers_lists, st.integers(0, 10))
def test_distinct_draws(powers, wanted):
    drawn = draw_distinct(SEED, powers, wanted)
    assert len(drawn) == len(set(drawn)) == min(wanted, len(powers))
    assert drawn == draw_distinct(SEED, powers, len(powers))[: len(drawn)]


@pytest.mark.parametrize(
    ("mandates", "probability"), [(68, 7.85e-9), (96, 6.42e-12), (128, 5.55e-15)]
)
def test_the_figures_of_the_design(mandates, probability):
    found = compute_bad_chunk_probability(1000, mandates)
    assert found == pytest.approx(probability, rel=1e-2)


def test_the_binomial_tail_against_a_walk_over_all_outcomes():
    """Slow and obvious: the distribution, mandate by mandate."""
    for mandates, faulty in [(9, Fraction(1, 3)), (12, Fraction(1, 2)), (7, 0.25)]:
        chances = [Fraction(1)]
        for _ in range(mandates):
            part = Fraction(faulty)
            stay = [chance * (1 - part) for chance in chances] + [Fraction(0)]
            rise = [Fraction(0)] + [chance * part for chance in chances]
            chances = [a + b for a, b in zip(stay, rise, strict=True)]
        tail = sum(c for k, c in enumerate(chances) if 3 * k > 2 * mandates)
        found = compute_bad_chunk_probability(500, mandates, faulty)
        assert found == pytest.approx(float(tail), rel=1e-12)


@given(st.integers(1, 9), st.fractions(0, 1, max_denominator=12))
def test_the_hypergeometric_tail_against_every_committee(count, faulty):
    bad = int(faulty * count)
    drawn = -(-2 * count // 3)
    wrong = sum(
        3 * sum(member < bad for member in members) > count
        for members in combinations(range(count), drawn)
    )
    found = compute_bad_chunk_probability(count, faulty=faulty)
    assert found == pytest.approx(wrong / comb(count, drawn))


@given(st.integers(1, MAX_WHOLE_SET))
def test_up_to_192_validators_a_bad_chunk_is_impossible(count):
    assert compute_bad_chunk_probability(count) == 0
    assert compute_bad_chunk_probability(count, faulty=1) == 1


@pytest.mark.parametrize("faulty", [-0.1, 1.1])
def test_parts_that_are_none(faulty):
    with pytest.raises(ValueError):
        compute_bad_chunk_probability(4, faulty=faulty)
