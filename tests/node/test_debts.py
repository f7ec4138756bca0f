"""What a hop may be believed to be owed."""

from types import SimpleNamespace

import pytest

from p2pchain.node.gateway.debts import MAX_HOPS, Debts

PLAN = SimpleNamespace(
    peer_id=b"a", start=0, end=4, input_price=10, output_price=40, unit_price=20
)
STEP = 4 * 128 * 10 // 20
"""Units of a full prefill step."""


def build_summary(unpaid, paid=0, peer=b"a", steps=1):
    plan = SimpleNamespace(peer_id=peer)
    hop = SimpleNamespace(
        plan=plan, unpaid_units=unpaid, arrears_units=paid, steps=steps
    )
    return SimpleNamespace(hops=(hop,))


@pytest.mark.parametrize(
    ("units", "may"),
    [(0, False), (-1, False), (1, True), (STEP, True), (STEP + 1, False)],
)
def test_of_what_is_not_known_one_step(units, may):
    assert Debts().is_plausible(PLAN, units) is may


def test_what_sessions_left_unpaid_together():
    debts = Debts()
    for _ in range(3):
        debts.note(build_summary(STEP))
    debts.note(None)
    assert debts.is_plausible(PLAN, 3 * STEP)
    assert not debts.is_plausible(PLAN, 3 * STEP + 1)
    debts.note(build_summary(0, paid=3 * STEP))
    # It was paid, and asks again: now we know better.
    assert not debts.is_plausible(PLAN, 1)
    # What it asked for beyond that is no credit for later.
    debts.note(build_summary(0, paid=STEP))
    debts.note(build_summary(STEP + 1))
    assert debts.is_plausible(PLAN, STEP + 1)


def test_a_hop_that_refuses_has_not_served():
    debts = Debts()
    debts.note(build_summary(0, steps=0))
    assert debts.is_plausible(PLAN, STEP)
    debts.note(build_summary(0))
    assert not debts.is_plausible(PLAN, 1)


def test_few_hops_are_remembered():
    debts = Debts()
    for number in range(MAX_HOPS + 9):
        debts.note(build_summary(9, peer=b"%d" % number))
    assert len(debts._units) == MAX_HOPS
