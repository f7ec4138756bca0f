"""Power cuts around a boundary: the epoch has ended whole, or not at all."""

import pytest
from chain_world import COIN
from epoch_world import EPOCH_BLOCKS, PEOPLE, EpochWorld
from test_crash import FailingStore, PowerCut

from chain.checks.conservation import compute_conservation

WRITES = 30
"""More batches than the script takes."""


def run_until_cut(store) -> EpochWorld | None:
    """Run over two boundaries until the power goes; None if it went at creation."""
    world = None
    try:
        world = EpochWorld(store=store, is_judged=False)
        world.bond(PEOPLE[5])
        world.unbond(PEOPLE[0], 300)
        while world.epoch < 2:
            pending = world.tree.pending
            block = pending[0] if pending else world.build(signers=(0, 1, 2, 3))
            world.tree.save_pending(block.block_hash)
            if block.height % EPOCH_BLOCKS:
                above = world.build(parent=block, signers=(0, 1, 2, 3))
                world.tree.save_pending(above.block_hash)
            world.finalize(block)
    except PowerCut:
        pass
    return world


@pytest.fixture(scope="module")
def complete() -> EpochWorld:
    world = run_until_cut(FailingStore(WRITES))
    assert world is not None
    assert world.epoch == 2
    return world


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("writes", range(WRITES - 2))
def test_a_cut_at_every_write_leaves_all_of_an_epoch_or_nothing(
    complete, writes, is_applied
):
    disk = FailingStore(writes, is_applied)
    run_until_cut(disk)
    world = EpochWorld(store=disk.survive(), is_judged=False)
    tree, store = world.tree, world.tree.store
    height = tree.final_height
    assert tree.epoch.epoch == height // EPOCH_BLOCKS
    assert tree.get_validators(tree.epoch.epoch) == tree.epoch.validators
    assert tree.get_validators(tree.epoch.epoch + 1) is not None
    assert tree.get_validators(tree.epoch.epoch + 2) is None
    # The tally is the one of the final block, not of a later or an earlier one.
    assert tree.final.seen == tally(world, height)
    assert compute_conservation(tree).is_conserved
    for number in range(1, height + 1):
        block = complete.tree.store.get_block(number)
        if store.get_block(number) == block:
            assert store.get_system_events(number) == (
                complete.tree.store.get_system_events(number)
            )
    # Pending blocks are all of the epoch that runs, and executed again.
    assert {held.header.epoch for held in tree.pending} <= {tree.epoch.epoch}
    # And it goes on, over the next boundary.
    if tree.pending:
        for held in tree.pending:
            world.finalize(held)
    world.end_epoch()
    assert world.is_conserved()


def tally(world, height) -> tuple[int, ...]:
    """Count the epoch's attendance again, from the blocks."""
    counts = [0] * len(world.tree.final.seen)
    first = (height - 1) // EPOCH_BLOCKS * EPOCH_BLOCKS + 1 if height else 1
    for number in range(first, height + 1):
        bitmap = world.tree.store.get_block(number).body.attendance.bitmap
        bits = int.from_bytes(bitmap, "little")
        for index in range(len(counts)):
            counts[index] += bits >> index & 1
    return tuple(counts)


def test_the_script_crosses_what_it_should(complete):
    kinds = {
        event.kind
        for height in (EPOCH_BLOCKS, 2 * EPOCH_BLOCKS)
        for event in complete.tree.store.get_system_events(height)
    }
    assert kinds == {"rewarded", "validator_down"}
    powers = complete.powers(2)
    # A third of 5,000: what two lose, and as much of the newcomer as is left of it.
    assert powers["v0"] == 700
    assert "v4" not in powers
    assert 366 < powers["v5"] < 367
    assert complete.store.left > 2
    assert complete.stake(PEOPLE[0]).unbonding_amount == 300 * COIN
