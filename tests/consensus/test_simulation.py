"""Whole networks on a virtual clock: safety always, progress once faults stop."""

import random

import pytest
from world import Equivocator, World

from primitives import bls
from primitives.hashing import compute_hash

LATE = 10 * 1000
"""10 (Delta + beta): the tip must advance within this once faults stop."""
VILLAIN_LATE = 4 * LATE
"""A villain may lead several views in a row, and each costs all its timers."""


def assert_progress(world, since_ms):
    """The tip advances soon and everybody who is up has the same one."""
    before = len(world.judge.longest)
    limit = since_ms + (VILLAIN_LATE if world.villains else LATE)
    while world.now_ms < limit and len(world.judge.longest) == before:
        world.run(world.now_ms + 500)
    assert len(world.judge.longest) > before, "no progress"
    world.run(world.now_ms + LATE / 2)
    for node in world.honest_nodes:
        assert len(node.chain) >= before, f"node {node.name} did not catch up"


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


def run_storm(seed, size, with_villain, **options):
    """Loss, duplicates, partitions and crashes for a while, then peace."""
    world = World(seed, size=size, **options)
    luck = random.Random(f"storm {seed}")
    if with_villain:
        Equivocator(world, luck.randrange(size))
    world.network.delay_ms = (1, luck.choice((50, 400, 1500)))
    world.network.loss = luck.choice((0, 0.05, 0.3))
    world.network.duplication = luck.choice((0, 0.2))
    world.start()
    honest = [node.name for node in world.honest_nodes]
    for step in range(8):
        world.run(2_500 * (step + 1))
        action = luck.randrange(4)
        if action == 0:
            names = list(range(size))
            luck.shuffle(names)
            half = luck.randrange(1, size)
            world.cut_apart(names[:half], names[half:])
        elif action == 1:
            world.network.cut = set()
        else:
            node = world.nodes[luck.choice(honest)]
            if node.is_up:
                node.crash(torn=luck.choice((b"", b"\0\0\0\x50torn")))
            else:
                node.start()
    world.heal()
    for node in world.honest_nodes:
        if not node.is_up:
            node.start()
    assert_progress(world, world.now_ms)
    world.run(world.now_ms + 2_000)
    lengths = [len(node.chain) for node in world.honest_nodes]
    assert max(lengths) - min(lengths) <= 2
    return world


@pytest.mark.parametrize("start", range(0, 120, 20))
def test_storms(start):
    for seed in range(start, start + 20):
        run_storm(seed, size=4 + seed % 4, with_villain=seed % 2 == 1)


def make_bls_key(index):
    return bls.BlsSecretKey(bytes(1) + compute_hash("test-key", bytes([index]))[1:])


def test_storm_with_real_signatures():
    run_storm(7, size=4, with_villain=True, scheme=bls, make_key=make_bls_key)
