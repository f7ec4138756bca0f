"""Slashing: what is taken, from whom, when, and that every atom is in the books."""

from fractions import Fraction

import msgspec
import pytest
from evidence_court import OTHER_CHAIN, Court, make_vote_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from slashing_world import (
    EVIDENCE_EPOCHS,
    UNBONDING_EPOCHS,
    SlashingWorld,
    account_of,
)

from chain.errors import InvalidBlock
from chain.ledger.ledger import credit
from chain.ledger.stake import StakeStatus
from chain.records.keys import build_validators_key
from chain.rewarding.slashing import (
    compute_floor,
    compute_penalty,
    compute_reward,
    find_culprits,
)
from consensus.messages import Kind
from primitives.codec import encode

amounts = st.integers(0, 2**62)

# The arithmetic


@pytest.mark.parametrize(
    ("stake", "convicted", "power", "penalty"),
    [
        (100, 100, 1000, 30),  # One of ten.
        (100, 100, 300, 100),  # A third.
        (100, 500, 1000, 100),  # Half the power together.
        (100, 100, 100_000, 5),  # A thousandth: the floor.
        (100, 100, 6000, 5),  # A sixtieth is where the floor ends.
        (100, 100, 5999, 6),  # Rounded up.
        (1, 1, 10**9, 1),  # Nothing is too small to lose an atom.
        (0, 0, 1000, 0),
        (0, 500, 1000, 0),
        (100, 10_000, 1000, 100),  # Those who left count, but never beyond everything.
    ],
)
def test_penalties(stake, convicted, power, penalty):
    assert compute_penalty(stake, convicted, power) == penalty


@given(amounts, amounts, st.integers(1, 2**63))
def test_a_penalty_is_between_the_floor_and_everything(stake, others, power):
    penalty = compute_penalty(stake, stake + others, power)
    assert compute_floor(stake) <= penalty <= stake
    exact = min(
        Fraction(stake),
        max(Fraction(stake, 20), Fraction(3 * (stake + others) * stake, power)),
    )
    assert exact <= penalty < exact + 1


@given(amounts, amounts, amounts, st.integers(1, 2**63))
def test_more_culprits_never_cost_less(stake, some, more, power):
    few = compute_penalty(stake, stake + some, power)
    assert few <= compute_penalty(stake, stake + some + more, power)


@given(amounts)
def test_a_reward_is_a_twentieth_of_a_twentieth(stake):
    floor = compute_floor(stake)
    assert 20 * floor >= stake > 20 * (floor - 1)
    assert 20 * compute_reward(floor) <= floor
    assert stake == 0 or compute_reward(floor) < floor


# Conviction


def test_a_conviction_takes_five_percent_and_locks_the_rest():
    world = SlashingWorld((1000,) * 10)
    evidence = world.votes(3)
    world.include(evidence, proposer=7)
    stake = world.stake(3)
    assert stake.status == StakeStatus.TOMBSTONED
    assert (stake.bonded, stake.unbonding, stake.slashed) == (950, (), 50)
    assert stake.offence.epoch == stake.offence.slashed_epoch == world.epoch
    assert (stake.offence.stake, stake.offence.penalty) == (1000, 50)
    assert not stake.offence.is_settled
    assert (world.balance(7), world.burned) == (2, 48)
    assert world.count_atoms() == world.supply
    assert [(e.kind, e.addresses, e.amount) for e in world.events] == [
        ("slashed", (account_of(3),), 50),
        ("slash_reward", (account_of(7),), 2),
    ]


def test_what_unbonds_is_taken_and_locked_too():
    world = SlashingWorld((1000,) * 10, unbonding={3: ((400, 31), (600, 40))})
    world.include(world.votes(3))
    stake = world.stake(3)
    assert (stake.bonded, stake.unbonding) == (1900, ())
    assert stake.offence.stake == 2000
    world.skip(2)  # The first part would be due.
    assert world.stake(3).locked == 1900
    assert world.balance(3) == 0
    assert world.count_atoms() == world.supply


@pytest.mark.parametrize("status", [StakeStatus.ACTIVE, StakeStatus.DOWN])
def test_downtime_does_not_protect(status):
    world = SlashingWorld()
    down = msgspec.structs.replace(world.stake(3), status=status)
    world.put_record(b"s" + account_of(3), down)
    world.include(world.votes(3))
    assert world.stake(3).status == StakeStatus.TOMBSTONED


def test_certificates_convict_everybody_in_both():
    world = SlashingWorld()
    signers = (1, 2, 4, 5, 6, 7, 8)
    world.include(world.certificates(signers), proposer=9)
    for index in range(10):
        is_convicted = world.stake(index).status == StakeStatus.TOMBSTONED
        assert is_convicted == (index in signers)
    assert world.burned + world.balance(9) == 7 * 5
    assert world.count_atoms() == world.supply


def test_who_left_is_convicted_while_atoms_remain():
    world = SlashingWorld((100,) * 9 + (0,), unbonding={9: ((100, 45),)})
    world.put_set(world.epoch, range(9))
    world.include(world.votes(9, world.epoch - 2), proposer=1)
    stake = world.stake(9)
    assert (stake.bonded, stake.unbonding, stake.slashed) == (95, (), 5)
    assert world.count_atoms() == world.supply


def test_a_stake_with_nothing_left_is_tombstoned_for_nothing():
    world = SlashingWorld((100,) * 9 + (0,))
    world.include(world.votes(9))
    stake = world.stake(9)
    assert stake.status == StakeStatus.TOMBSTONED
    assert (stake.locked, stake.slashed, world.burned) == (0, 0, 0)
    world.skip(EVIDENCE_EPOCHS + 1)
    assert world.stake(9).offence.is_settled
    assert world.count_atoms() == world.supply


def test_a_stake_that_was_paid_out_is_out_of_reach():
    world = SlashingWorld((100,) * 9 + (0,))
    world.end_epoch()
    assert world.stake(9) is None
    with pytest.raises(InvalidBlock, match="could still be convicted"):
        world.include(world.votes(9, world.epoch - 1))


# What a block may not hold


def test_a_tombstoned_validator_is_not_convicted_again():
    world = SlashingWorld()
    evidence = world.votes(3)
    world.include(evidence)
    stakes, burned = world.stakes(), world.burned
    later = world.votes(3, world.epoch - 1)
    other = world.certificates(range(7))
    for replayed in (evidence, later):
        with pytest.raises(InvalidBlock, match="could still be convicted"):
            world.include(replayed)
    assert (world.stakes(), world.burned) == (stakes, burned)
    world.include(other)
    assert world.stake(3) == stakes[3]
    assert world.stake(0).status == StakeStatus.TOMBSTONED


def test_one_block_does_not_convict_twice():
    world = SlashingWorld()
    for second in (world.votes(3), world.votes(3, world.epoch - 1)):
        with pytest.raises(InvalidBlock, match="evidence 1"):
            world.include(world.votes(3), second)
    assert world.stake(3).status == StakeStatus.ACTIVE
    world.include(world.votes(3), world.votes(4))
    assert world.stake(4).status == StakeStatus.TOMBSTONED


def test_evidence_grows_old():
    world = SlashingWorld()
    oldest = world.epoch - EVIDENCE_EPOCHS
    world.include(world.votes(3, oldest))
    for epoch in (oldest - 1, world.epoch + 1, 0, 2**32 - 1):
        with pytest.raises(InvalidBlock, match=f"of epoch {epoch}"):
            world.include(world.votes(4, epoch))
    world.end_epoch()
    with pytest.raises(InvalidBlock, match=f"of epoch {oldest}"):
        world.include(world.votes(4, oldest))
    world.include(world.votes(4, oldest + 1))


def test_the_set_of_the_votes_epoch_judges():
    world = SlashingWorld()
    before = world.epoch - 3
    # Validator 3 of today had index 6 when it voted twice.
    order = tuple(reversed(range(10)))
    world.put_set(before, order)
    with pytest.raises(InvalidBlock):
        world.include(world.votes(3, before))
    then = Court(10, scheme=world.court.scheme)
    then.keys = [world.court.keys[index] for index in order]
    world.include(make_vote_pair(then, 6, before))
    assert world.stake(3).status == StakeStatus.TOMBSTONED
    assert world.stake(6).status == StakeStatus.ACTIVE


@pytest.mark.parametrize("data", [b"\x00", b"noise", encode((1, 2))])
def test_noise_is_no_evidence(data):
    with pytest.raises(InvalidBlock, match="not evidence"):
        SlashingWorld().include(data)


def test_forgeries_are_no_evidence():
    world = SlashingWorld()
    evidence = world.votes(3)
    forged = msgspec.structs.replace(evidence.second, signature=b"\x22" * 96)
    with pytest.raises(InvalidBlock, match="did not sign"):
        world.include(type(evidence)(evidence.first, forged))
    elsewhere = Court(10, chain=OTHER_CHAIN, scheme=world.court.scheme)
    with pytest.raises(InvalidBlock, match="did not sign"):
        world.include(make_vote_pair(elsewhere, 3, world.epoch))


def test_notarize_and_nullify_are_no_evidence():
    world = SlashingWorld()
    legal = world.court.certify(Kind.NULLIFICATION, (world.epoch, 7), range(10))
    pair = world.certificates(range(10))
    low, high = sorted((legal, pair.first), key=encode)
    with pytest.raises(InvalidBlock, match="beside each other"):
        world.include(type(pair)(low, high))


def test_each_piece_is_verified_once():
    world = SlashingWorld()
    evidence = world.votes(3)
    world.court.scheme.pairings = 0
    state = dict(world.state)
    world.include(evidence)
    assert world.court.scheme.pairings == 2
    world.state = state
    world.include(evidence)
    assert world.court.scheme.pairings == 2


def test_nobody_is_verified_who_is_convicted_already():
    world = SlashingWorld()
    world.include(world.votes(3))
    world.court.scheme.pairings = 0
    with pytest.raises(InvalidBlock):
        world.include(world.votes(3, world.epoch - 1))
    assert world.court.scheme.pairings == 0


# The end of the window


def settle(world, index):
    """Go to the end of the epoch in which a stake's window closes."""
    epoch = world.stake(index).offence.slashed_epoch + EVIDENCE_EPOCHS
    world.skip(epoch - world.epoch + 1)
    return world.stake(index)


def test_one_of_ten_loses_thirty_percent():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(3), proposer=0)
    slashed_epoch = world.epoch
    world.skip(EVIDENCE_EPOCHS)
    assert not world.stake(3).offence.is_settled
    world.end_epoch()
    stake = world.stake(3)
    assert stake.offence.is_settled
    assert (stake.bonded, stake.slashed, stake.offence.penalty) == (0, 300, 300)
    [entry] = stake.unbonding
    assert (entry.amount, entry.due_epoch) == (700, slashed_epoch + UNBONDING_EPOCHS)
    assert (world.burned, world.balance(0)) == (298, 2)
    assert world.count_atoms() == world.supply


def test_what_is_left_is_paid_out():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(3), proposer=0)
    due = world.epoch + UNBONDING_EPOCHS
    world.skip(UNBONDING_EPOCHS)
    assert (world.epoch, world.balance(3)) == (due, 0)
    world.end_epoch()
    assert world.balance(3) == 700
    assert world.find(3) is None
    assert world.count_atoms() == world.supply


def test_a_third_loses_everything():
    world = SlashingWorld((1000,) * 9)
    for index in (1, 2, 3):
        world.include(world.votes(index), proposer=0)
        world.end_epoch()
    for index in (1, 2, 3):
        stake = settle(world, index)
        assert (stake.locked, stake.slashed, stake.unbonding) == (0, 1000, ())
    assert world.burned == 3000 - world.balance(0)
    assert world.balance(0) == 6
    assert world.count_atoms() == world.supply


def test_a_tiny_one_loses_five_percent():
    world = SlashingWorld((100_000, 100_000, 100_000, 1000))
    world.include(world.votes(3), proposer=0)
    assert settle(world, 3).slashed == 50
    assert world.count_atoms() == world.supply


def test_later_convictions_count_for_earlier_ones():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(1))
    world.skip(EVIDENCE_EPOCHS)
    world.include(world.votes(2))  # At the last moment: in the settling epoch.
    assert settle(world, 1).slashed == 600
    world.include(world.votes(3))  # Too late for the first, not for the second.
    assert settle(world, 2).slashed == 900
    assert settle(world, 3).slashed == 600
    assert world.count_atoms() == world.supply


def test_who_was_convicted_long_before_does_not_count():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(1))
    world.skip(EVIDENCE_EPOCHS + 1)
    world.include(world.votes(2))
    assert settle(world, 2).slashed == 300


def test_an_empty_record_stays_while_others_need_it():
    world = SlashingWorld((1000, 1000, 1000))
    world.include(world.votes(1))
    first = world.epoch
    world.skip(EVIDENCE_EPOCHS)
    world.include(world.votes(2))
    world.end_epoch()
    assert world.stake(1).locked == 0  # A third and more: all burned.
    while world.epoch <= first + 2 * EVIDENCE_EPOCHS:
        assert world.stake(1) is not None
        world.end_epoch()
    assert world.stake(1) is None
    assert world.stake(2).slashed == 1000


def test_the_power_of_the_epoch_of_inclusion_counts():
    world = SlashingWorld((1000,) * 10)
    larger = world.add_newcomer(77, 10_000)
    world.put_record(build_validators_key(world.epoch), larger)
    world.include(world.votes(1))
    assert settle(world, 1).slashed == 150


def test_settling_happens_once():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(1))
    settle(world, 1)
    burned, stake = world.burned, world.stake(1)
    world.skip(3)
    assert (world.burned, world.stake(1)) == (burned, stake)


# Who reports


def test_the_culprit_earns_nothing_by_reporting_itself():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(3), proposer=3)
    assert (world.balance(3), world.burned) == (0, 50)
    assert world.count_atoms() == world.supply


def test_a_convict_that_still_leads_earns_nothing():
    world = SlashingWorld((1000,) * 10)
    world.include(world.votes(3), proposer=0)
    world.include(world.votes(4), proposer=3)
    assert (world.balance(3), world.burned) == (0, 98)


def test_a_leader_without_a_stake_earns_nothing():
    world = SlashingWorld((1000,) * 9 + (0,))
    world.end_epoch()
    assert world.stake(9) is None
    world.include(world.votes(3), proposer=9)
    assert (world.balance(9), world.burned) == (0, 50)
    assert world.count_atoms() == world.supply


def test_rewards_join_the_balance():
    world = SlashingWorld((1000,) * 10)
    ledger = world.open()
    credit(ledger, world.context, account_of(7), 5)
    world._close(ledger)
    world.include(world.votes(3), proposer=7)
    assert world.balance(7) == 7


stakes_of_ten = st.lists(st.integers(1, 10**6), min_size=4, max_size=10)


@settings(max_examples=60)
@given(stakes_of_ten, st.data())
def test_slashing_oneself_never_pays(powers, data):
    """However an owner of several validators plays it, a reward is never a gain."""
    world = SlashingWorld(tuple(powers))
    indices = st.integers(0, len(powers) - 1)
    owned = data.draw(st.sets(indices, min_size=1))
    culprits = data.draw(st.sets(st.sampled_from(sorted(owned)), min_size=1))
    before = sum(powers[index] for index in owned)
    for index in sorted(culprits):
        world.include(
            world.votes(index), proposer=data.draw(st.sampled_from(sorted(owned)))
        )
    at_once = sum(world.stake(i).locked + world.balance(i) for i in owned)
    lost = sum(powers[index] for index in culprits)
    assert 400 * (before - at_once) >= 19 * lost
    world.skip(UNBONDING_EPOCHS + 1)
    left = sum(world.balance(i) for i in owned)
    left += sum(
        stake.locked
        for stake in world.stakes()
        if stake.account in set(map(account_of, owned))
    )
    assert 400 * (before - left) >= 19 * lost
    assert world.count_atoms() == world.supply


# Order


@settings(max_examples=60)
@given(stakes_of_ten, st.data())
def test_the_order_of_reports_does_not_matter(powers, data):
    """The same convictions in the same epochs cost the same, in whatever order."""
    size = len(powers)
    culprits = data.draw(st.sets(st.integers(1, size - 1), max_size=size - 1))
    # One block or several, votes or certificates, in any order within an epoch.
    when = {i: data.draw(st.integers(0, 2 * EVIDENCE_EPOCHS)) for i in culprits}
    orders = [data.draw(st.permutations(sorted(culprits))) for _ in range(2)]
    outcomes = []
    for order in orders:
        world = SlashingWorld(tuple(powers))
        first = world.epoch
        for epoch in range(3 * EVIDENCE_EPOCHS + 2):
            for index in order:
                if when[index] == epoch:
                    world.include(world.votes(index, first + epoch), proposer=0)
            world.end_epoch()
            assert world.count_atoms() == world.supply
        balances = [world.balance(index) for index in range(size)]
        outcomes.append((world.stakes(), balances, world.burned))
    assert outcomes[0] == outcomes[1]


@settings(max_examples=40)
@given(st.data())
def test_atoms_are_conserved_whatever_is_reported(data):
    powers = tuple(data.draw(stakes_of_ten))
    parts = st.lists(
        st.tuples(st.integers(1, 1000), st.integers(30, 50)), max_size=3
    ).map(lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[1])))
    unbonding = {i: data.draw(parts) for i in range(len(powers))}
    world = SlashingWorld(powers, unbonding=unbonding)
    for _ in range(data.draw(st.integers(1, 12))):
        signer = data.draw(st.integers(0, len(powers) - 1))
        epoch = world.epoch - data.draw(st.integers(0, EVIDENCE_EPOCHS))
        key = world.court.keys[signer].public_key
        culprits = find_culprits(world.open(), [key])
        proposer = data.draw(st.integers(0, len(powers) - 1))
        if culprits:
            world.include(world.votes(signer, epoch), proposer=proposer)
        else:
            with pytest.raises(InvalidBlock):
                world.include(world.votes(signer, epoch), proposer=proposer)
        assert world.count_atoms() == world.supply
        world.skip(data.draw(st.integers(0, 5)))
        assert world.count_atoms() == world.supply
