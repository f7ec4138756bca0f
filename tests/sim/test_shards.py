"""Layer shards in simulated networks: stories, and a crash in every write of a desk."""

import pytest

from p2pchain.sim.disk import Fuse
from p2pchain.sim.progress import assert_progress
from p2pchain.sim.runner import Job, run_job
from p2pchain.sim.scenarios import get_scenario
from p2pchain.sim.schedule import calm
from p2pchain.sim.shardprogress import assert_shard_progress
from p2pchain.sim.shardscenarios import SHARD_SCENARIOS
from p2pchain.sim.world import Setup, World

SEEDS = {"shards-spoiler": 3, "shards-lost-chunk-log": 1}
"""Of the one run that every test run has; 0 where nothing is said."""
CRASH_EVERY = 5
"""Of all writes in the crash test; the others are for the slow one."""


@pytest.mark.parametrize("name", sorted(SHARD_SCENARIOS))
def test_scenario(name):
    outcome = run_job(Job(SEEDS.get(name, 0), name, "tree", False))
    assert not outcome.failure, f"{outcome.failure}\n{outcome.job.command}"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHARD_SCENARIOS))
def test_many_seeds(name):
    for seed in range(20):
        outcome = run_job(Job(seed, name, "tree", False))
        assert not outcome.failure, f"{outcome.failure}\n{outcome.job.command}"


def test_cheats_lose_their_stakes():
    """Evidence about chunks goes from desks into blocks."""
    world = get_scenario("shards-double-producer")(0, "tree", None)
    key = world.signers["d"].public_key
    assert all(node.chain.is_convicted(key) for node in world.honest)


def run_until_cut(fuse: Fuse, until_ms: int = 4500) -> bool:
    """One of four loses power at the fuse, comes back, and everybody goes on."""
    world = World(3, Setup(chain="tree", epoch_blocks=4))
    world.start()
    node = world.nodes["b"]
    node.disk.fuse = fuse
    world.run(until_ms, lambda: not node.is_up)
    was_cut = not node.is_up
    calm(world)
    assert_progress(world)
    assert_shard_progress(world)
    world.judge.on_end()
    return was_cut


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_crash_in_many_writes(share):
    number = round(2 * share)
    while run_until_cut(Fuse(number, share)):
        number += CRASH_EVERY
    assert number >= 4 * CRASH_EVERY


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_crash_in_every_write(share):
    number = 0
    while run_until_cut(Fuse(number, share), 15_000):
        number += 1
    assert number > 50
