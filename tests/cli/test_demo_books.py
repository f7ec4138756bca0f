"""The demo's books: what was paid is what was earned, whatever else happens."""

import pytest

from p2pchain.cli.demo import Wealth, compute_change, validate_books
from p2pchain.errors import NodeFailed

PAYER, FIRST, SECOND = "payer", "first", "second"


def build_changes(**rewards: int) -> dict[str, Wealth]:
    """An answer for 1,000 atoms: 400 and 600, everybody burned 10 of fees."""
    moved = {PAYER: -1000, FIRST: 400, SECOND: 600}
    return {
        name: Wealth(atoms - 10 + rewards.get(name, 0), 10, rewards.get(name, 0))
        for name, atoms in moved.items()
    }


@pytest.mark.parametrize(
    "rewards", [{}, {FIRST: 7}, {FIRST: 10**9, SECOND: 1}, {PAYER: 5, SECOND: 3}]
)
def test_an_epoch_may_end_in_the_middle_of_an_answer(rewards) -> None:
    validate_books(PAYER, build_changes(**rewards), 1000)


def test_money_from_nowhere_is_seen() -> None:
    changes = build_changes(**{FIRST: 7})
    first = changes[FIRST]
    changes[FIRST] = Wealth(first.atoms + 1, first.fees, first.rewards)
    with pytest.raises(NodeFailed, match="do not balance"):
        validate_books(PAYER, changes, 1000)


def test_a_reward_that_was_not_paid_is_seen() -> None:
    changes = build_changes(**{FIRST: 7})
    first = changes[FIRST]
    changes[FIRST] = Wealth(first.atoms - 7, first.fees, first.rewards)
    with pytest.raises(NodeFailed, match="do not balance"):
        validate_books(PAYER, changes, 1000)


def test_an_answer_has_one_price() -> None:
    with pytest.raises(NodeFailed, match="cost 999, the payees got 1000"):
        validate_books(PAYER, build_changes(), 999)


def test_a_change_is_the_difference() -> None:
    assert compute_change(Wealth(5, 1, 2), Wealth(9, 2, 4)) == Wealth(4, 1, 2)
