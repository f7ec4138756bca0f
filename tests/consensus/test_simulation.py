"""Whole networks on a virtual clock: safety always, progress once faults stop."""

import pytest
from consensus_world import World
from storms import assert_progress, run_storm

from primitives import bls
from primitives.hashing import compute_hash


def test_all_online_finalizes_every_view():
    world = World(seed=1)
    world.start()
    world.run(60_000)
    assert len(world.judge.longest) > 45
    assert not world.faults
    views = [view for kind, view in world.judge.certificates if kind == 2]
    assert views == []


def test_same_seed_same_trace():
    traces = []
    for _ in range(2):
        world = World(seed=5)
        world.network.loss = 0.1
        world.start()
        world.run(20_000)
        traces.append(world.trace.hexdigest())
    assert traces[0] == traces[1]


def test_one_offline():
    world = World(seed=2)
    world.start()
    world.nodes[3].crash()
    world.run(60_000)
    assert len(world.judge.longest) > 15


def test_two_of_four_offline_halts_and_heals():
    world = World(seed=3)
    world.start()
    world.run(5_000)
    for node in world.nodes[2:]:
        node.crash()
    world.run(6_000)
    tip = len(world.judge.longest)
    world.run(40_000)
    assert len(world.judge.longest) == tip
    for node in world.nodes[2:]:
        node.start()
    assert_progress(world, 40_000)


@pytest.mark.parametrize("groups", [((0, 1), (2, 3)), ((0,), (1, 2, 3))])
def test_partition_and_heal(groups):
    world = World(seed=4)
    world.start()
    world.run(5_300)
    world.cut_apart(*groups)
    world.run(40_000)
    world.heal()
    assert_progress(world, 40_000)


def test_unclean_shutdown_of_all():
    for seed in range(20):
        world = World(seed=seed)
        world.start()
        world.run(3_000 + 37 * seed)
        for node in world.nodes:
            node.crash(torn=b"\x00\x00\x01")
        world.run(world.now_ms + 500)
        for node in world.nodes:
            node.start()
        assert_progress(world, world.now_ms)


def test_uneven_powers():
    world = World(seed=6, size=5, powers=[50, 10, 10, 10, 20])
    world.start()
    world.nodes[1].crash()
    world.run(40_000)
    assert len(world.judge.longest) > 10


@pytest.mark.parametrize("start", range(0, 120, 20))
def test_storms(start):
    for seed in range(start, start + 20):
        run_storm(seed, size=4 + seed % 4, with_villain=seed % 2 == 1)


def make_bls_key(index):
    return bls.BlsSecretKey(bytes(1) + compute_hash("test-key", bytes([index]))[1:])


def test_storm_with_real_signatures():
    run_storm(7, size=4, with_villain=True, scheme=bls, make_key=make_bls_key)
