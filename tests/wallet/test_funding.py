"""Plans over shards: exact, never more than there is, as few moves as possible."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.errors import InsufficientFunds
from wallet.funding import Move, compute_spendable, plan_funding, plan_send

BALANCES = st.dictionaries(st.integers(0, 6), st.integers(0, 100), max_size=6)
AMOUNTS = st.integers(1, 250)
FEES = st.integers(0, 20)


def compute_fewest(balances, amount, fee):
    """Return the size of the smallest set of sources that can pay, or None."""
    spendable = [balance - fee for balance in balances.values() if balance > fee]
    for size in range(1, len(spendable) + 1):
        if any(sum(chosen) >= amount for chosen in combinations(spendable, size)):
            return size
    return None


def apply_moves(balances, moves, fee):
    """Return the balances after the moves, refusing any that does not cover itself."""
    after = dict(balances)
    for move in moves:
        after[move.source] = after.get(move.source, 0) - move.amount_atoms - fee
        assert after[move.source] >= 0
    for move in moves:
        after[move.destination] = after.get(move.destination, 0) + move.amount_atoms
    return after


def test_one_shard_pays_alone_if_it_can():
    assert plan_send({0: 100, 1: 500}, 90, 5) == (Move(0, 0, 90),)
    assert plan_send({0: 90, 1: 500}, 90, 5) == (Move(1, 0, 90),)
    assert plan_send({0: 90, 1: 500}, 90, 5, destination=1) == (Move(1, 1, 90),)


def test_several_shards_pay_together():
    assert plan_send({0: 50, 1: 60, 2: 3}, 100, 5) == (Move(1, 0, 55), Move(0, 0, 45))


def test_an_empty_account_cannot_pay():
    with pytest.raises(InsufficientFunds, match=r"needed: 1 atoms; .* can pay 0 atoms"):
        plan_send({}, 1, 0)


def test_fees_count():
    with pytest.raises(InsufficientFunds) as caught:
        plan_send({0: 50, 1: 50}, 91, 5)
    assert (caught.value.needed_atoms, caught.value.available_atoms) == (91, 90)


def test_channels_in_two_shards_are_funded_from_the_root():
    moves = plan_funding({0: 1000, 1: 10}, {1: 200, 2: 300}, 5)
    assert moves == (Move(0, 2, 300), Move(0, 1, 190))


def test_nothing_moves_when_all_is_there():
    assert plan_funding({0: 10, 1: 200}, {1: 200, 0: 10}, 5) == ()
    assert plan_funding({}, {}, 5) == ()


def test_a_need_is_not_taken_to_fill_another():
    with pytest.raises(InsufficientFunds):
        plan_funding({1: 100, 2: 100}, {1: 100, 2: 101}, 1)


def test_a_move_becomes_a_transfer():
    payload = Move(1, 0, 55).build_payload(b"r" * 32)
    assert (payload.recipient, payload.shard, payload.amount) == (b"r" * 32, 0, 55)


@given(BALANCES, AMOUNTS, FEES, st.integers(0, 6))
def test_a_payment_is_exact_and_minimal(balances, amount, fee, destination):
    fewest = compute_fewest(balances, amount, fee)
    if fewest is None:
        with pytest.raises(InsufficientFunds) as caught:
            plan_send(balances, amount, fee, destination=destination)
        assert caught.value.available_atoms < amount
        return
    moves = plan_send(balances, amount, fee, destination=destination)
    assert sum(move.amount_atoms for move in moves) == amount
    assert all(move.amount_atoms > 0 for move in moves)
    assert all(move.destination == destination for move in moves)
    assert len({move.source for move in moves}) == len(moves) == fewest
    for move in moves:
        assert move.amount_atoms + fee <= balances[move.source]


@given(BALANCES, FEES)
def test_everything_can_be_spent_and_not_one_atom_more(balances, fee):
    most = compute_spendable(balances, fee)
    if most:
        assert sum(m.amount_atoms for m in plan_send(balances, most, fee)) == most
    with pytest.raises(InsufficientFunds):
        plan_send(balances, most + 1, fee)


@given(BALANCES, st.integers(0, 6), AMOUNTS, FEES)
def test_funding_one_shard_is_exact_and_minimal(balances, shard, need, fee):
    others = {key: value for key, value in balances.items() if key != shard}
    missing = need - balances.get(shard, 0)
    fewest = 0 if missing <= 0 else compute_fewest(others, missing, fee)
    if fewest is None:
        with pytest.raises(InsufficientFunds):
            plan_funding(balances, {shard: need}, fee)
        return
    moves = plan_funding(balances, {shard: need}, fee)
    assert len(moves) == fewest
    after = apply_moves(balances, moves, fee)
    assert after.get(shard, 0) == max(need, balances.get(shard, 0))


@given(BALANCES, st.dictionaries(st.integers(0, 6), AMOUNTS, max_size=3), FEES)
def test_funding_several_shards_leaves_all_needs_met(balances, needs, fee):
    try:
        moves = plan_funding(balances, needs, fee)
    except InsufficientFunds:
        return
    after = apply_moves(balances, moves, fee)
    for shard, need in needs.items():
        assert after.get(shard, 0) >= need
    spent = fee * len(moves)
    assert sum(after.values()) == sum(balances.values()) - spent
