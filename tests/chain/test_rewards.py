"""What votes earn and who leaves for missing them, as arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.rewarding.rewards import MIN_VALIDATORS, compute_reward, find_absent


@pytest.mark.parametrize(
    ("power", "seen", "reward"),
    [(1, 9, 33), (1, 8, 29), (2, 9, 66), (3, 9, 100), (3, 0, 0), (0, 9, 0)],
)
def test_rewards_round_down(power, seen, reward):
    assert compute_reward(100, power, 3, seen, 9) == reward


amounts = st.integers(0, 2**62)
powers = st.lists(st.integers(1, 2**56 - 1), min_size=1, max_size=20)


@given(amounts, powers, st.data())
def test_all_rewards_together_are_at_most_the_epochs(epoch_reward, powers, data):
    blocks = data.draw(st.integers(1, 100))
    seen = [data.draw(st.integers(0, blocks)) for _ in powers]
    total = sum(powers)
    rewards = [
        compute_reward(epoch_reward, power, total, count, blocks)
        for power, count in zip(powers, seen, strict=True)
    ]
    assert 0 <= sum(rewards) <= epoch_reward
    if all(count == blocks for count in seen):
        assert epoch_reward - sum(rewards) < len(powers)


@pytest.mark.parametrize(
    ("seen", "active", "leaving"),
    [
        ([10, 10, 10, 10, 10], 5, []),
        ([10, 10, 10, 10, 5], 5, []),
        ([10, 10, 10, 10, 4], 5, [4]),
        ([10, 10, 10, 4, 3], 5, [4]),
        ([10, 10, 10, 4, 3], 6, [4, 3]),
        ([10, 10, 10, 3, 3], 5, [3]),
        ([10, 10, 0, 0, 0], 4, []),
        ([10, 0, 0], 3, []),
        ([10, 10, 10, None, 0], 5, [4]),
        ([10, 10, 10, None, 0], 4, []),
        # Those who wait outside count too: they come in.
        ([0, 0, 0, 0], 8, [0, 1, 2, 3]),
    ],
)
def test_who_leaves(seen, active, leaving):
    assert find_absent(seen, 10, [5] * len(seen), [5] * active) == leaving


counts = st.lists(st.none() | st.integers(0, 11), max_size=20)


@given(counts, st.integers(0, 20))
def test_leave_has_a_floor(seen, others):
    active = sum(count is not None for count in seen) + others
    leaving = find_absent(seen, 11, [5] * len(seen), [5] * active)
    assert len(set(leaving)) == len(leaving)
    assert all(seen[index] is not None for index in leaving)
    assert all(2 * seen[index] < 11 for index in leaving)
    if leaving:
        assert active - len(leaving) >= MIN_VALIDATORS
    worst = [seen[index] for index in leaving]
    assert worst == sorted(worst)
    stayed = [
        count
        for index, count in enumerate(seen)
        if count is not None and index not in leaving
    ]
    if leaving and active - len(leaving) > MIN_VALIDATORS:
        assert all(2 * count >= 11 for count in stayed)


def test_nobody_who_stays_comes_to_hold_a_third():
    # A newcomer makes five heads of four, but not four voters of equal weight.
    bonded = [10, 9, 10, 10, 1]
    assert find_absent([9, 9, 0, 9, 9], 10, bonded, bonded) == []
    assert find_absent([9, 9, 0, 9, 9], 10, [10] * 5, [10] * 5) == [2]
    assert find_absent([9, 9, 9, 9, 0], 10, [10] * 4 + [1], [10] * 4 + [1]) == [4]


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(1, 50)), min_size=1))
def test_a_third_is_never_made(stakes):
    bonded = [bond for _, bond in stakes]
    leaving = find_absent([count for count, _ in stakes], 11, bonded, bonded)
    left = [bond for index, bond in enumerate(bonded) if index not in leaving]
    if leaving:
        assert len(left) >= MIN_VALIDATORS
        assert 3 * max(left) < sum(left)
