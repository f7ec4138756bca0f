"""Storms: loss, duplicates, partitions and crashes for a while, then peace."""

import random

from consensus_world import Equivocator, World

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
