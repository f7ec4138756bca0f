"""The choice of the set two epochs on: what it may change, and in which order."""

from hypothesis import example, given
from hypothesis import strategies as st

from chain.rewarding.selection import Candidate, select_validators
from consensus.validators import MAX_VALIDATORS, Validator, ValidatorSet


def key_of(number: int) -> bytes:
    return number.to_bytes(48, "big")


def account_of(number: int) -> bytes:
    """Return an account whose order is not that of the keys."""
    return bytes([number * 7 % 251]) + number.to_bytes(31, "big")


def make_set(powers: dict[int, int]) -> ValidatorSet:
    return ValidatorSet(tuple(Validator(key_of(n), p) for n, p in powers.items()))


def make_candidates(powers: dict[int, int]) -> list[Candidate]:
    return [Candidate(account_of(n), key_of(n), p) for n, p in powers.items()]


def select(current: dict[int, int], stakes: dict[int, int], convicted=()):
    chosen = select_validators(
        make_set(current), make_candidates(stakes), {key_of(n) for n in convicted}
    )
    return {int.from_bytes(v.public_key, "big"): v.power for v in chosen.validators}


FOUR = {1: 90, 2: 90, 3: 90, 4: 90}
"""A third of it is 120."""


def test_nothing_changes():
    assert list(select(FOUR, FOUR).items()) == list(FOUR.items())


def test_members_keep_their_order():
    stakes = {4: 99, 3: 90, 2: 80, 1: 91}
    assert list(select(FOUR, stakes).items()) == [(1, 91), (2, 80), (3, 90), (4, 99)]


def test_newcomers_come_last_the_largest_first():
    stakes = FOUR | {5: 20, 6: 30, 7: 20}
    first, second = sorted((5, 7), key=account_of)
    assert list(select(FOUR, stakes)) == [1, 2, 3, 4, 6, first, second]


def test_what_is_clipped():
    assert select(FOUR, FOUR | {5: 100, 6: 50}) == FOUR | {5: 100, 6: 20}
    assert select(FOUR, FOUR | {5: 150, 6: 50}) == FOUR | {5: 120}
    assert select(FOUR, {1: 90, 2: 90}) == {1: 90, 2: 90, 4: 60}


def test_losses_come_before_gains():
    assert select(FOUR, {2: 90, 3: 90, 4: 90, 5: 90}) == {2: 90, 3: 90, 4: 90, 5: 30}


def test_the_convicted_lose_first():
    stakes = {2: 90}
    assert select(FOUR, stakes, convicted=[4]) == {1: 60, 2: 90, 3: 90}
    assert select(FOUR, stakes, convicted=[3]) == {1: 60, 2: 90, 4: 90}
    assert select(FOUR, stakes, convicted=[3, 4]) == {1: 90, 2: 90, 4: 60}


def test_convicted_strangers_do_not_matter():
    assert select(FOUR, FOUR, convicted=[9]) == FOUR


def test_nobody_wants_to_stay():
    powers = FOUR
    for _ in range(30):
        powers = select(powers, {})
    assert sum(powers.values()) == 2
    assert select({1: 1}, {}) == {1: 1}


def test_the_largest_128():
    members = dict.fromkeys(range(MAX_VALIDATORS), 1000)
    stakes = members | {500: 1001, 501: 999}
    chosen = select(members, stakes)
    assert len(chosen) == MAX_VALIDATORS
    out = max(range(MAX_VALIDATORS), key=account_of)
    assert set(chosen) == (set(members) - {out}) | {500}


def test_a_place_is_free_only_when_it_is_empty():
    # The one who has to go is too large to go at once, so nobody comes.
    members = dict.fromkeys(range(MAX_VALIDATORS - 1), 10) | {200: 10_000}
    stakes = dict.fromkeys(range(MAX_VALIDATORS - 1), 10) | {300: 20_000}
    chosen = select(members, stakes)
    assert len(chosen) == MAX_VALIDATORS
    assert 300 not in chosen
    assert chosen[200] == 10_000 - (10_000 + 1270) // 3


numbers = st.integers(1, 12)
powers = st.one_of(st.integers(1, 12), st.integers(1, 2**56 - 1))
stakes = st.dictionaries(numbers, powers, max_size=12)
members = st.dictionaries(numbers, powers, min_size=1, max_size=12)


@given(members, stakes, st.sets(numbers))
@example({1: 1, 2: 1}, {}, set())
def test_limits(current, wanted, convicted):
    wanted = {n: p for n, p in wanted.items() if n not in convicted}
    chosen = select(current, wanted, convicted)
    assert chosen
    make_set(chosen).validate()
    everybody = current.keys() | chosen.keys()
    moves = [chosen.get(n, 0) - current.get(n, 0) for n in everybody]
    assert sum(map(abs, moves)) <= sum(current.values()) // 3
    for number in everybody:
        low, high = sorted((current.get(number, 0), wanted.get(number, 0)))
        assert low <= chosen.get(number, 0) <= high
    # Nobody gains while somebody still has power to lose.
    if any(move > 0 for move in moves):
        assert all(chosen[n] <= wanted.get(n, 0) for n in current if n in chosen)
    # A convict loses before anybody who is not.
    if any(n in chosen for n in convicted):
        assert all(chosen.get(n) == current[n] for n in current.keys() - convicted)
    stayed = [n for n in current if n in chosen]
    assert list(chosen)[: len(stayed)] == stayed


@given(members, stakes, st.sets(numbers), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(current, wanted, convicted, luck):
    candidates = make_candidates(wanted)
    convicts = {key_of(n) for n in convicted}
    expected = select_validators(make_set(current), candidates, convicts)
    luck.shuffle(candidates)
    assert select_validators(make_set(current), candidates, convicts) == expected


@given(members, st.dictionaries(numbers, st.integers(1, 1000), min_size=1))
def test_it_ends_at_what_is_wanted(current, wanted):
    current = {n: 1 + p % 1000 for n, p in current.items()}
    reached = current
    for _ in range(200):
        reached = select(reached, wanted)
    # With a total of one or two atoms a third of it is nothing.
    assert reached == wanted or sum(reached.values()) <= 2
