"""Maturing amounts: nothing early, nothing lost, a short queue."""

from hypothesis import given
from hypothesis import strategies as st

from chain.records.account import (
    MATURING_STEPS,
    NO_ACCOUNT,
    Account,
    Maturing,
    compute_ripe,
    compute_with_maturing,
)

payments = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10**12)), max_size=60)


@given(payments, st.integers(0, 200))
def test_amounts_come_in_time_and_the_queue_stays_short(payments, maturity):
    account, height, paid = NO_ACCOUNT, 1, []
    for wait, amount in payments:
        height += wait
        account = compute_ripe(account, height)
        account = compute_with_maturing(account, amount, height, maturity)
        paid.append((height, amount))
        assert len(account.maturing) <= MATURING_STEPS + 1
        total = sum(amount for _, amount in paid)
        assert account.balance + account.maturing_amount == total
        early = sum(a for at, a in paid if at + maturity > height)
        assert account.balance <= total - early
    last = compute_ripe(account, height + maturity + maturity // MATURING_STEPS + 2)
    assert last.maturing == ()
    assert last.balance == sum(amount for _, amount in paid)


def test_without_maturity_the_amount_is_there_at_once():
    assert compute_with_maturing(NO_ACCOUNT, 5, 10, 0) == Account(5, 0, ())


def test_releases_are_rounded_up_to_a_sixteenth():
    account = compute_with_maturing(NO_ACCOUNT, 5, 3, 32)
    assert account.maturing == (Maturing(36, 5),)
    account = compute_with_maturing(account, 6, 4, 32)
    assert account.maturing == (Maturing(36, 11),)
    assert compute_ripe(account, 35) == account
    assert compute_ripe(account, 36) == Account(11, 0, ())
