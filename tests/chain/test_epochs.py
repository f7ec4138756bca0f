"""Epochs: sets that change, seeds that follow, and what stands between two epochs."""

import msgspec
import pytest
from chain_world import COIN
from epoch_world import EPOCH_BLOCKS, PEOPLE, STAKE, UNBONDING_EPOCHS, EpochWorld

from chain.checks.conservation import compute_conservation
from chain.errors import InvalidBlock, MissingParent, StoreError, UnfinalParent
from chain.execution.context import build_context
from chain.ledger.epochs import (
    compute_epoch,
    compute_first_height,
    compute_last_height,
    compute_seed,
)
from chain.ledger.roster import get_stake, put_stake
from chain.ledger.stake import Offence, StakeStatus
from chain.records.block import NO_ATTENDANCE, Block, compute_attendance_root
from chain.records.header import compute_block_hash
from chain.records.keys import build_validators_key
from chain.records.staking import Bond
from chain.records.transfer import Transfer
from chain.rewarding.rewards import pay_rewards
from chain.storage.leveldb import LevelStore
from chain.storage.store import SEEN_KEY
from consensus.book import Tip
from consensus.leader import compute_first_seed, compute_leader
from consensus.randao import compute_mix, compute_reveal_bytes
from p2pchain.sim.chains.committee import hand_bodies
from primitives.codec import encode

replace = msgspec.structs.replace


# -------------------------------------------------------------------- heights


@pytest.mark.parametrize(
    ("height", "epoch"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2)]
)
def test_which_epoch_a_height_is_of(height, epoch):
    assert compute_epoch(height, 4) == epoch
    if height:
        assert compute_first_height(epoch, 4) <= height
        assert height <= compute_last_height(epoch, 4)


# -------------------------------------------------------------- what blocks say


def test_headers_over_four_epochs():
    world = EpochWorld()
    world.bond(PEOPLE[5])
    world.end_epoch(4)
    store = world.tree.store
    headers = [store.get_block(h).header for h in range(1, world.tree.final_height + 1)]
    assert [h.epoch for h in headers] == [e for e in range(4) for _ in range(4)]
    assert [h.parent_view for h in headers[::4]] == [0] * 4
    assert [h.view for h in headers] == [1, 2, 3, 4] * 4
    roots = [h.valset_root for h in headers[::4]]
    # The newcomer votes from epoch 2 on, which is announced in epoch 1.
    assert roots[0] == roots[1] != roots[2] == roots[3]
    assert [h.next_valset_root for h in headers[:12:4]] == roots[1:]
    assert world.powers(2) == {f"v{i}": STAKE for i in range(6)}


def test_seeds_follow_from_the_mix_two_epochs_before():
    world = EpochWorld(is_judged=False)
    first = compute_first_seed(world.spec.chain_id)
    seeds = [world.tree.epoch.seed]
    mixes = []
    for _ in range(4):
        mixes.append(world.end_epoch().header.mix)
        seeds.append(world.tree.epoch.seed)
    assert seeds == [first, first, *(compute_seed(mix) for mix in mixes[:3])]


def test_what_consensus_is_told():
    world = EpochWorld(is_judged=False)
    tree = world.tree
    assert tree.tip == Tip(0, 0, tree.final_hash, None)
    assert (tree.epoch.epoch, tree.epoch.last_height) == (0, EPOCH_BLOCKS)
    assert tree.epoch_first_time_ms is None
    first = world.step()
    assert tree.tip == Tip(1, 1, first.block_hash, tree.final_certificate)
    assert tree.epoch_first_time_ms == first.header.time_ms
    last = world.end_epoch()
    assert tree.tip == Tip(EPOCH_BLOCKS, 0, last.block_hash, None)
    assert (tree.epoch.epoch, tree.epoch.last_height) == (1, 2 * EPOCH_BLOCKS)
    assert tree.epoch_first_time_ms is None
    second = world.step()
    assert tree.epoch_first_time_ms == second.header.time_ms
    assert tree.get_validators(1) == tree.epoch.validators
    assert tree.get_validators(2) is not None
    assert tree.get_validators(3) is None


def test_sets_are_kept_as_long_as_evidence_can_come():
    world = EpochWorld(is_judged=False, evidence_epochs=3, unbonding_epochs=8)
    world.end_epoch(7)
    assert world.epoch == 7
    kept = [e for e in range(20) if world.tree.get_validators(e) is not None]
    assert kept == list(range(7 - 3 - 1, 7 + 2))


def test_an_epoch_of_two_blocks():
    world = EpochWorld(epoch_blocks=2)
    world.end_epoch(5)
    assert world.epoch == 5
    assert world.is_conserved()


# ------------------------------------------------------- between two epochs


def test_nothing_follows_a_boundary_that_is_not_final():
    world = EpochWorld(is_judged=False)
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    boundary = world.build()
    with pytest.raises(UnfinalParent):
        world.build(parent=boundary)
    # Made up by somebody who has the boundary final already.
    ahead = EpochWorld(is_judged=False)
    for height in range(1, EPOCH_BLOCKS):
        data, certificate = world.tree.get_final(height)
        ahead.tree.add(data, world.now_ms)
        ahead.tree.finalize(certificate)
    hand_bodies(boundary, ahead.tree)
    ahead.tree.add(boundary.block_bytes, world.now_ms)
    ahead.tree.finalize(world.certify(boundary))
    child = ahead.build(parent=ahead.tree.final)
    now_ms = child.header.time_ms
    hand_bodies(child, world.tree)
    with pytest.raises(UnfinalParent):
        world.tree.add(child.block_bytes, now_ms)
    # It is nobody's fault: once the boundary is final, the same bytes are good.
    assert issubclass(UnfinalParent, MissingParent)
    assert not issubclass(UnfinalParent, InvalidBlock)
    world.finalize(boundary)
    hand_bodies(child, world.tree)
    world.tree.add(child.block_bytes, now_ms, child.proposal)


def test_any_views_certificate_makes_the_boundary_final():
    world = EpochWorld(is_judged=False)
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    boundary = world.build()
    certificate = world.certify(boundary)
    # Proposed again in view 9, on the certificate of view 4.
    again = replace(
        boundary.proposal, view=9, parent_view=4, parent_hash=boundary.block_hash
    )
    late = replace(certificate, proposal=again, view=9)
    world.tree.finalize(late)
    assert world.tree.tip == Tip(EPOCH_BLOCKS, 0, boundary.block_hash, None)
    assert world.tree.get_final(EPOCH_BLOCKS) == (boundary.block_bytes, late)
    assert world.tree.finalize(certificate) == ()


def test_two_boundaries_and_one_of_them_final():
    world = EpochWorld(is_judged=False)
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    parent = world.tree.final
    one, two = world.build(), world.build(parent=parent, view=7)
    assert one.child_epoch.config.seed == two.child_epoch.config.seed
    world.finalize(two)
    assert world.tree.pending == ()
    assert world.tree.epoch.epoch == 1


def test_a_block_of_the_last_epoch_after_its_end():
    world = EpochWorld(is_judged=False)
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    parent = world.tree.final
    one, two = world.build(), world.build(parent=parent, view=7)
    world.finalize(one)
    hand_bodies(two, world.tree)
    with pytest.raises(InvalidBlock, match="beside the final chain"):
        world.tree.add(two.block_bytes, world.now_ms)


# ---------------------------------------------------------- blocks that lie


def build_first_block(world):
    """Return the first block of the next epoch, held by the builder alone."""
    world.end_epoch()
    return world.build()


@pytest.mark.parametrize("field", ["valset_root", "next_valset_root"])
@pytest.mark.parametrize("steps", [0, EPOCH_BLOCKS - 1, EPOCH_BLOCKS])
def test_roots_of_sets_at_any_place_of_an_epoch(field, steps):
    world = EpochWorld()
    world.bond(PEOPLE[5])
    for _ in range(steps + EPOCH_BLOCKS - 1):
        world.step()
    refuse(world, world.build(), field, **{field: bytes(32)})


def test_the_sets_of_the_neighbouring_epochs_are_others():
    world = EpochWorld()
    world.bond(PEOPLE[5])
    held = build_first_block(world)
    old, new = held.header.valset_root, held.header.next_valset_root
    assert old != new
    refuse(world, held, "valset_root", valset_root=new)
    refuse(world, held, "next_valset_root", next_valset_root=old)


@pytest.mark.parametrize("epoch", [0, 2, 2**32 - 1])
def test_the_first_block_says_its_epoch(epoch):
    world = EpochWorld()
    refuse(world, build_first_block(world), "epoch", epoch=epoch)


def test_views_begin_anew():
    world = EpochWorld()
    held = build_first_block(world)
    assert (held.header.view, held.header.parent_view) == (1, 0)
    refuse(world, held, "parent_view", parent_view=EPOCH_BLOCKS)
    refuse(world, held, "after view", view=0)


def test_leaders_are_drawn_from_the_epochs_own_seed():
    # Epoch 2 is the first one whose seed is not the one before it.
    world = EpochWorld()
    world.end_epoch(2)
    epoch = world.tree.epoch
    old = compute_first_seed(world.spec.chain_id)
    view = next(
        view
        for view in range(1, 100)
        if compute_leader(old, view, epoch.validators) != world.leader(view)
    )
    held = world.build(view=view)
    usurper = compute_leader(old, view, epoch.validators)
    message = compute_reveal_bytes(world.spec.chain_id, epoch.epoch, view)
    reveal = world.keys()[usurper].sign(message)
    mix = compute_mix(world.tree.final.header.mix, reveal)
    refuse(world, held, "leads view", proposer=usurper, reveal=reveal, mix=mix)


def test_the_last_epochs_reveal_is_no_reveal():
    world = EpochWorld()
    last = world.tree.get_block(build_first_block(world).parent_hash).header
    held = world.tree.pending[0]
    refuse(world, held, "reveal", reveal=last.reveal)


def test_the_old_set_does_not_attend_in_the_new_epoch():
    world = EpochWorld()
    world.end_epoch()
    boundary = world.tree.final
    held = world.build()
    # Real votes of everybody for the boundary: still not this epoch's business.
    votes = world.attend(replace_epoch(boundary))
    header = replace(held.header, attendance_root=compute_attendance_root(votes))
    wrong = Block(header, replace(held.block.body, attendance=votes))
    assert held.block.body.attendance == NO_ATTENDANCE
    with pytest.raises(InvalidBlock, match="did not vote for"):
        world.judge.tree.add(encode(wrong), held.header.time_ms)


def replace_epoch(held):
    """Return a held block of which the world thinks that it may be attended."""
    from dataclasses import replace as replace_dataclass

    config = replace_dataclass(held.child_epoch.config, epoch=held.header.epoch)
    epoch = replace_dataclass(held.child_epoch, config=config)
    return replace_dataclass(held, child_epoch=epoch)


def test_a_boundary_without_its_system_step():
    world = EpochWorld()
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    held = world.build()
    stale = world.tree.final.header.roots_root
    assert stale != held.header.roots_root
    refuse(world, held, "roots_root", roots_root=stale)


def test_the_root_chunk_stands_on_the_system_step():
    world = EpochWorld()
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    before = world.tree.final.view.get_root(0)
    held = world.build(world.sign(PEOPLE[7].account, bond_of(7)))
    chunk = held.block.body.headers[0]
    assert chunk.pre_root not in (before, chunk.post_root)
    assert chunk.post_root == held.view.get_root(0)
    world.finalize(held)
    world.step(world.sign(PEOPLE[8].account, bond_of(8)))
    following = world.tree.final.block.body.headers[0]
    assert following.pre_root == chunk.post_root


def bond_of(index) -> Bond:
    person = PEOPLE[index]
    proof = person.key.prove_possession(person.address)
    return Bond(person.name, person.key.public_key, proof, 500 * COIN)


def refuse(world, held, match, **changes):
    """Show the judge the block with a header that says something else."""
    wrong = Block(replace(held.header, **changes), held.block.body)
    with pytest.raises(InvalidBlock, match=match):
        world.judge.tree.add(encode(wrong), held.header.time_ms)
    assert not world.judge.tree.has(compute_block_hash(wrong.header))


# ---------------------------------------------------------- joining, leaving


def test_a_validator_joins_and_leaves():
    world = EpochWorld()
    newcomer = PEOPLE[5]
    before = world.balance(newcomer)
    outcome = world.bond(newcomer)
    assert outcome.ok
    assert world.balance(newcomer) == before - STAKE * COIN - outcome.fee
    assert "v5" not in world.powers()
    world.end_epoch(2)
    assert world.powers()["v5"] == STAKE
    # Its key votes, leads, and earns.
    world.end_epoch()
    assert world.stake(newcomer).rewarded == 10 * COIN
    joined = world.epoch
    assert world.unbond(newcomer, STAKE).ok
    assert world.stake(newcomer).bonded == 0
    world.end_epoch()
    assert "v5" in world.powers()
    world.end_epoch()
    assert "v5" not in world.powers()
    while world.epoch <= joined + UNBONDING_EPOCHS:
        assert world.stake(newcomer).locked == STAKE * COIN
        assert world.is_conserved()
        world.end_epoch()
    assert world.stake(newcomer) is None
    assert ("unbonded", "v5", STAKE * COIN) in world.events()
    books = compute_conservation(world.tree)
    assert books.is_conserved
    assert books.unbonding == 0
    # Account and key are free again.
    assert world.bond(newcomer).ok


def test_a_stake_that_moves_up_and_down():
    world = EpochWorld()
    world.bond(PEOPLE[0], 300)
    world.end_epoch(2)
    assert world.powers()["v0"] == STAKE + 300
    world.unbond(PEOPLE[0], 700)
    world.end_epoch(2)
    assert world.powers()["v0"] == STAKE - 400
    assert list(world.powers()) == ["v0", "v1", "v2", "v3", "v4"]


def test_a_third_of_the_power_changes_per_epoch():
    world = EpochWorld((STAKE,) * 4, epoch_reward=0)
    world.bond(PEOPLE[4], 2000)
    world.bond(PEOPLE[5], 1000)
    world.end_epoch(2)
    total = 4 * STAKE * COIN
    assert world.tree.epoch.validators.total_power == total + total // 3
    assert list(world.powers()) == ["v0", "v1", "v2", "v3", "v4"]
    world.end_epoch()
    assert world.powers()["v4"] == 2000
    assert 0 < world.powers()["v5"] <= 1000
    world.end_epoch()
    assert world.powers()["v5"] == 1000


def test_payouts_wait_for_the_change_limit():
    # Nearly everybody leaves at once: power is let go of a third at a time, and until
    # then the atoms stay where evidence can reach them.
    # With so little that stays, the limit takes longer than unbonding does.
    world = EpochWorld((*(STAKE,) * 4, 100), epoch_reward=0, is_judged=False)
    leavers = PEOPLE[:4]
    for person in leavers:
        assert world.unbond(person, STAKE).ok
    for _ in range(UNBONDING_EPOCHS + 12):
        world.end_epoch()
        first = max(0, world.epoch - 2)
        for person in leavers:
            stake = world.stake(person)
            locked = 0 if stake is None else stake.locked / COIN
            for epoch in range(first, world.epoch + 2):
                assert world.powers(epoch).get(person.name, 0) <= locked
    assert world.is_conserved()


def test_the_last_stake_cannot_go():
    world = EpochWorld((STAKE,) * 2)
    assert world.unbond(PEOPLE[0], STAKE).ok
    outcome = world.unbond(PEOPLE[1], STAKE)
    assert (outcome.ok, outcome.code) == (False, "last_validator")
    world.end_epoch(3)
    assert "v1" in world.powers()


# ------------------------------------------------------------------ downtime


def test_who_misses_half_an_epoch_leaves_and_comes_back():
    world = EpochWorld()
    world.end_epoch()
    world.end_epoch(signers=(0, 1, 2, 3))
    person = PEOPLE[4]
    assert world.stake(person).status == StakeStatus.DOWN
    assert ("validator_down", "v4", 0) in world.events()
    # Two epochs on; in the one between it could not vote itself back.
    assert "v4" in world.powers()
    world.end_epoch()
    assert "v4" not in world.powers()
    assert world.bond(person, 0).ok
    assert world.stake(person).status == StakeStatus.ACTIVE
    world.end_epoch(2)
    assert world.powers()["v4"] == STAKE


def test_downtime_leaves_four():
    world = EpochWorld()
    # Neither 3 nor 4 votes: a quorum of 5 is 4 by number, so they take turns of a half.
    world.end_epoch(signers=(0, 1, 2, 4))
    assert [world.stake(p).status for p in PEOPLE[:5]] == [1, 1, 1, 2, 1]
    world.end_epoch(signers=(0, 1, 3, 4))
    assert [world.stake(p).status for p in PEOPLE[:5]] == [1, 1, 1, 2, 1]
    assert world.events()[-1][0] != "validator_down"


def test_with_four_nobody_leaves():
    world = EpochWorld((STAKE,) * 4)
    world.end_epoch(3, signers=(0, 1, 2))
    assert all(world.stake(p).status == StakeStatus.ACTIVE for p in PEOPLE[:4])
    assert len(world.powers()) == 4


def test_who_waits_outside_counts_for_the_floor():
    world = EpochWorld((STAKE,) * 4)
    world.bond(PEOPLE[4])
    world.end_epoch(signers=(0, 1, 2))
    assert world.stake(PEOPLE[3]).status == StakeStatus.DOWN
    world.end_epoch()
    assert list(world.powers()) == ["v0", "v1", "v2", "v4"]


def test_half_of_the_votes_is_enough():
    world = EpochWorld(epoch_blocks=5)
    for signers in (None, (0, 1, 2, 3), (0, 1, 2, 3), None, None):
        world.step(signers=signers)
    # Four blocks recorded votes, and two of them hers.
    assert world.tree.final.seen == (4, 4, 4, 4, 2)
    assert world.stake(PEOPLE[4]).status == StakeStatus.ACTIVE


# ------------------------------------------------------------------- rewards


def test_rewards_to_the_atom():
    powers = (1000, 900, 800, 700, 600)
    world = EpochWorld(powers, epoch_reward=1_000_003, epoch_blocks=5)
    before = [world.balance(person) for person in PEOPLE[:5]]
    # Four blocks record: all, without 3, without 3, without 4.
    for signers in (None, None, (0, 1, 2, 4), (0, 1, 2, 4), (0, 1, 2, 3)):
        world.step(signers=signers)
    seen = (4, 4, 4, 2, 3)
    assert world.tree.final.seen == seen
    pairs = zip(powers, seen, strict=True)
    expected = [1_000_003 * power * count // (4000 * 4) for power, count in pairs]
    after = [world.balance(person) for person in PEOPLE[:5]]
    assert [b - a for a, b in zip(before, after, strict=True)] == expected
    assert [world.stake(p).rewarded for p in PEOPLE[:5]] == expected
    books = compute_conservation(world.tree)
    assert (books.minted, books.is_conserved) == (sum(expected), True)
    assert world.events() == [
        ("rewarded", f"v{i}", amount) for i, amount in enumerate(expected)
    ]
    world.step()
    assert world.events() == []


def test_a_reward_can_be_spent_in_the_very_block():
    world = EpochWorld()
    payer = PEOPLE[0]
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    before = world.balance(payer)
    # More than there was, less than with the reward: 12 coins for one of five.
    outcome = world.act(payer, Transfer(PEOPLE[9].address, 0, before + COIN))
    assert world.tree.final_height == EPOCH_BLOCKS
    assert outcome.ok
    assert world.balance(payer) == 11 * COIN - outcome.fee
    assert world.is_conserved()


def test_the_convicted_earn_nothing():
    world = EpochWorld()
    ledger = world.ledger()
    offence = Offence(0, 0, STAKE * COIN, 0, is_settled=False)
    convict = replace(
        world.stake(PEOPLE[0]), status=StakeStatus.TOMBSTONED, offence=offence
    )
    put_stake(ledger, convict)
    validators = world.tree.epoch.validators
    context = build_context(world.spec, world.tree.final, 0)
    pay_rewards(ledger, context, validators, (3,) * 5)
    assert get_stake(ledger, PEOPLE[0].address) == convict
    assert get_stake(ledger, PEOPLE[1].address).rewarded == 12 * COIN


def test_without_a_reward_nothing_is_minted():
    world = EpochWorld(epoch_reward=0)
    world.end_epoch(2)
    assert compute_conservation(world.tree).minted == 0
    assert world.events() == []


# ---------------------------------------------------------------- the database


def test_the_tally_survives_a_restart(tmp_path):
    world = EpochWorld(store=LevelStore(tmp_path), is_judged=False)
    world.bond(PEOPLE[5])
    world.end_epoch(2)
    world.step()
    world.step(signers=(0, 1, 2, 3, 4))
    assert world.tree.final.seen == (1, 1, 1, 1, 1, 0)
    pending = world.build(signers=(0, 1, 2, 3, 5))
    world.tree.save_pending(pending.block_hash)
    epoch = world.tree.epoch
    world.store.close()
    tree = world.reopen(LevelStore(tmp_path))
    assert tree.epoch == epoch
    assert tree.final.seen == (1, 1, 1, 1, 1, 0)
    assert tree.get(pending.block_hash).seen == (2, 2, 2, 2, 1, 1)
    world.end_epoch()
    assert world.is_conserved()
    world.store.close()


def test_the_tally_of_blocks_that_become_final_together():
    world = EpochWorld(is_judged=False)
    held = [world.build() for _ in range(3)][-1]
    world.finalize(held)
    assert world.tree.final.seen == (2,) * 5
    assert world.reopen().final.seen == (2,) * 5


def test_a_saved_boundary_is_back_after_a_crash():
    world = EpochWorld(is_judged=False)
    for _ in range(EPOCH_BLOCKS - 1):
        world.step()
    boundary = world.build()
    world.tree.save_pending(boundary.block_hash)
    tree = world.reopen()
    again = tree.get(boundary.block_hash)
    assert again.view.get_roots() == boundary.view.get_roots()
    assert again.child_epoch == boundary.child_epoch
    assert again.events == boundary.events
    tree.finalize(world.certify(again))
    assert tree.epoch == boundary.child_epoch.config


def lose_seen(store):
    store.write({SEEN_KEY: None}, sync=True)


def damage_seen(store):
    store.write({SEEN_KEY: b"nonsense"}, sync=True)


@pytest.mark.parametrize("damage", [lose_seen, damage_seen])
def test_a_database_without_its_tally(damage):
    world = EpochWorld(is_judged=False)
    damage(world.store)
    with pytest.raises(StoreError):
        world.reopen()


def test_the_key_of_a_set_keeps_the_order_of_epochs():
    keys = [build_validators_key(epoch) for epoch in (0, 1, 255, 256, 2**32 - 1)]
    assert keys == sorted(keys)
