"""Layer shards in simulated networks: stories, and a crash in every write of a desk."""

import pytest

from chain.queries.foreign_packets import take_packets
from chain.storage.store import build_key
from chain.tree.following import Follow
from p2pchain.sim.chains import tree_chain as treechain
from p2pchain.sim.invariants.progress import assert_progress
from p2pchain.sim.invariants.shard_progress import assert_shard_progress
from p2pchain.sim.machine.disk import Fuse
from p2pchain.sim.runner import Job, run_job
from p2pchain.sim.scenarios.scenarios import get_scenario
from p2pchain.sim.scenarios.shard_scenarios import SHARD_SCENARIOS
from p2pchain.sim.scenarios.storms import calm
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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_crash_in_every_write_of_a_change_of_mind(share):
    """A node that followed everything follows one shard from now on."""
    number = 0
    while True:
        world = World(5, Setup(chain="tree", epoch_blocks=4))
        world.start()
        world.run(4500)
        node = world.nodes["b"]
        node.crash()
        node.follow = Follow(frozenset({2}))
        node.disk.fuse = Fuse(number, share)
        node.start()
        was_cut = not node.is_up
        calm(world)
        assert_progress(world)
        assert node.chain.tree.followed == {0, 2}
        assert not list(node.disk.database.iterate(build_key(b"S", (1, 2))))
        world.judge.on_end()
        if not was_cut:
            break
        number += 1
    assert number >= 2


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("number", range(3))
def test_crash_in_a_write_of_packets_from_elsewhere(number, share, monkeypatch):
    """Or shortly after it, for nobody waits until they are on disk."""
    follows = {"b": frozenset({1}), "c": frozenset({2})}
    world = World(7 + number, Setup(chain="tree", epoch_blocks=4, follows=follows))
    node, given = world.nodes["b"], []

    def take(tree, missing, packets):
        if packets and node.chain.tree is tree:
            given.append(missing)
            if len(given) == 1 + 2 * number:
                node.disk.fuse = Fuse(0, share)
        return take_packets(tree, missing, packets)

    monkeypatch.setattr(treechain, "take_packets", take)
    world.start()
    world.run(30_000, lambda: not node.is_up)
    assert not node.is_up
    calm(world)
    assert_progress(world)
    assert_shard_progress(world)
    world.judge.on_end()


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
