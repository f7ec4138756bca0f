"""A chain on a disk that is full: it stops, says why, and loses nothing."""

import resource
from contextlib import contextmanager

import pytest
from chain_world import ALICE, DAVE, SPEC, World

from chain.checks.conservation import compute_conservation
from chain.checks.database import verify_database
from chain.errors import FailedWrite
from chain.records.transfer import Transfer
from chain.storage.leveldb import LevelStore
from primitives import bls
from primitives.kv import MemoryStore


@contextmanager
def limited_files(size: int):
    """No file of this process grows beyond `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def advance(world: World) -> None:
    """Build and finalize a block of transfers."""
    world.advance(
        *(
            world.sign(ALICE, Transfer(DAVE.public_key, shard, 1), shard)
            for shard in (0, 1, 2)
        )
    )


def advance_until_full(world: World) -> FailedWrite:
    for _ in range(500):
        try:
            advance(world)
        except FailedWrite as failure:
            return failure
    raise AssertionError("the disk never was full")


def verify(store):
    return verify_database(SPEC, store, bls, lambda line: None)


def test_no_final_block_is_lost(tmp_path):
    with LevelStore(tmp_path) as store:
        world = World(store=store)
        advance(world)
        with limited_files(120_000):
            failure = advance_until_full(world)
        assert "cannot write" in str(failure)
        height = world.tree.final_height
        assert height > 1
        # What is in memory is what was acknowledged, and may be read.
        assert compute_conservation(world.tree).is_conserved
        # And nothing is written any more, room or not.
        with pytest.raises(FailedWrite, match="after one that failed"):
            world.finalize(world.tip)
        with pytest.raises(FailedWrite, match="after one that failed"):
            world.tree.save_pending(world.tip.block_hash)
    with LevelStore(tmp_path) as store:
        world = World(store=store)
        assert world.tree.final_height in (height, height + 1)
        assert verify(store).is_sound
        world.nonces = {
            (ALICE.public_key, shard): world.tree.final_height for shard in (0, 1, 2)
        }
        advance(world)
        assert verify(store).is_sound


class FullStore(MemoryStore):
    """A disk that takes `left` writes more."""

    def __init__(self, left: int):
        super().__init__()
        self.left = left

    def write(self, changes, *, sync=False):
        if not self.left:
            raise FailedWrite("no space left on device")
        self.left -= 1
        super().write(changes, sync=sync)


def run_until_full(store: FullStore) -> int:
    """Finalize blocks until a write fails; return the last final height."""
    height = 0
    try:
        world = World(store=store)
        while True:
            block = world.build(world.sign(ALICE, Transfer(DAVE.public_key, 1, 1)))
            world.tree.save_pending(block.block_hash)
            world.finalize(block)
            height = world.tree.final_height
    except FailedWrite:
        return height


@pytest.mark.parametrize("left", range(6))
def test_any_write_may_be_the_first_that_fails(left):
    store = FullStore(left)
    height = run_until_full(store)
    store.left = 1000
    again = World(store=store)
    assert again.tree.final_height == height
    assert verify(store).is_sound
