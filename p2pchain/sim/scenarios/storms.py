"""
Storms: one draw per seed of what may go wrong, then chaos for a while, then peace.

Swarm testing: a run in which everything goes wrong at once finds little, because each
fault hides the others.  So a seed first draws which kinds of faults exist in its world
at all, and only then when they happen.
"""

import random
from dataclasses import dataclass

from p2pchain.sim.invariants.progress import assert_progress
from p2pchain.sim.invariants.shard_progress import assert_shard_progress
from p2pchain.sim.machine.disk import Fuse
from p2pchain.sim.machine.log_file import draw_junk
from p2pchain.sim.network import Weather
from p2pchain.sim.node import Node
from p2pchain.sim.scenarios.followers import leave_shards_out
from p2pchain.sim.signatures import KeyRing
from p2pchain.sim.villains.cast import CAST, CHUNK_CAST
from p2pchain.sim.villains.twin import Twin, add_twin
from p2pchain.sim.world import ALPHABET, Setup, World

MAX_SKEW_MS = 400
"""Two clocks differ by less than a block's time may be ahead."""
MAX_DRIFT = 0.02
STEPS = 8
STEP_MS = (500, 4000)
PEACE_MS = 3000
"""Ordinary life at the end of every storm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Which kinds of faults a storm knows."""

    crashes: bool
    fuses: bool
    partitions: bool
    one_way: bool
    weather: bool
    slow: bool
    losses: bool


def draw_setup(luck: random.Random, chain: str) -> Setup:
    """Return a world for a storm."""
    size = luck.choice((4, 4, 4, 5, 6, 7))
    is_moving = luck.random() < 0.4
    count = 0 if luck.random() < 0.35 else (size - 1) // 3
    if chain == "tree":
        # Who was down leaves the set: of few that stay two may be too many.
        count = min(count, 1)
    weak = luck.sample(ALPHABET[:size], count)
    frail = weak[:1] if luck.random() < 0.4 else []
    powers: tuple[int, ...] = ()
    if luck.random() < 0.3 and not weak:
        powers = tuple(luck.choice((10, 20, 30, 50)) for _ in range(size))
    return Setup(
        size=size,
        powers=powers,
        listeners=luck.choice((0, 0, 1, 2)),
        chain=chain,
        epoch_blocks=luck.choice((2, 3, 5, 8)),
        is_moving=is_moving,
        villains=frozenset(weak[len(frail) :]),
        frail=frozenset(frail),
        disk_ms=luck.choice(((0, 0), (0, 5), (1, 60))),
        is_relaying=luck.random() < 0.3,
        compact_bytes=luck.choice((1500, 6000, 10**6)),
        is_skewed=luck.random() < 0.3,
        work_ms=luck.choice(((0, 0), (1, 300))) if chain == "tree" else (0, 0),
        is_resharding=chain == "tree" and luck.random() < 0.4,
    )


def draw_faults(luck: random.Random) -> Faults:
    """Return which faults a storm knows."""
    return Faults(
        crashes=luck.random() < 0.5,
        fuses=luck.random() < 0.4,
        partitions=luck.random() < 0.4,
        one_way=luck.random() < 0.25,
        weather=luck.random() < 0.6,
        slow=luck.random() < 0.2,
        losses=luck.random() < 0.6,
    )


def draw_weather(luck: random.Random) -> Weather:
    """Return how badly messages travel."""
    return Weather(
        delay_ms=(1, luck.choice((50, 400, 1500))),
        loss=luck.choice((0, 0.05, 0.3)),
        duplication=luck.choice((0, 0.2)),
        spikes=luck.choice((0, 0.05)),
    )


def build_storm_world(
    luck: random.Random, seed: int, chain: str, keys: KeyRing | None
) -> World:
    """Return a world with its villains in place and its clocks set."""
    setup = draw_setup(luck, chain)
    if chain == "tree":
        setup = leave_shards_out(setup, seed)
    world = World(seed, setup, keys)
    for name in sorted(world.setup.villains):
        cast = CAST | CHUNK_CAST if chain == "tree" else CAST
        kind = cast[luck.choice(sorted(cast))]
        villain = world.corrupt(name, kind)
        if isinstance(villain, Twin):
            add_twin(villain)
    if world.setup.is_skewed:
        for node in world.nodes.values():
            node.clock.offset_ms = luck.randint(0, MAX_SKEW_MS)
            node.clock.rate = 1 + luck.uniform(-MAX_DRIFT, MAX_DRIFT) / 10
    return world


def run_storm(seed: int, chain: str = "list", keys: KeyRing | None = None) -> World:
    """Run one seed.

    Raises:
        InvariantBroken: A theorem does not hold.
    """
    luck = random.Random(f"storm {seed}")
    world = build_storm_world(luck, seed, chain, keys)
    faults = draw_faults(luck)
    if faults.weather:
        world.network.weather = draw_weather(luck)
    world.start()
    for _ in range(STEPS):
        world.run_for(luck.randint(*STEP_MS))
        _strike(luck, world, faults)
    calm(world)
    assert_progress(world)
    assert_shard_progress(world)
    world.run_for(PEACE_MS)
    world.judge.on_end()
    return world


def calm(world: World) -> None:
    """End all faults: links are well, everybody is up."""
    world.network.heal()
    for node in list(world.nodes.values()):
        node.disk.fuse = None
        node.sends_left = None
        if not node.is_up:
            node.start()


def _strike(luck: random.Random, world: World, faults: Faults) -> None:
    """Let one thing go wrong, or mend one."""
    actions = []
    if faults.crashes:
        actions += [_crash_or_start, _crash_or_start, _crash_all]
    if faults.fuses:
        actions += [_put_fuse, _put_fuse, _start_all]
    if faults.partitions:
        actions += [_cut_apart, _mend]
    if faults.one_way:
        actions += [_cut_one_way, _mend]
    if faults.weather:
        actions += [_change_weather]
    if faults.slow:
        actions += [_slow_down]
    if faults.losses and world.setup.frail:
        actions += [_lose_file, _start_all]
    if actions:
        luck.choice(actions)(luck, world)


def _draw_honest(luck: random.Random, world: World) -> Node:
    return luck.choice(world.honest)


def _crash_or_start(luck: random.Random, world: World) -> None:
    node = _draw_honest(luck, world)
    if node.is_up:
        node.crash()
    else:
        node.start()


def _crash_all(luck: random.Random, world: World) -> None:
    for node in world.honest:
        if node.is_up:
            node.crash()
    world.run_for(luck.randint(0, 1000))
    _start_all(luck, world)


def _start_all(luck: random.Random, world: World) -> None:
    for node in world.honest:
        if not node.is_up:
            node.start()


def _put_fuse(luck: random.Random, world: World) -> None:
    node = _draw_honest(luck, world)
    if not node.is_up:
        node.start()
    elif luck.random() < 0.3:
        node.sends_left = luck.randrange(12)
    else:
        share = luck.choice((0.0, 1.0, luck.random()))
        node.disk.fuse = Fuse(luck.randrange(6), share, draw_junk(luck))


def _cut_apart(luck: random.Random, world: World) -> None:
    names = list(world.nodes)
    luck.shuffle(names)
    place = luck.randrange(1, len(names))
    world.network.cut_apart(names[:place], names[place:])


def _cut_one_way(luck: random.Random, world: World) -> None:
    names = list(world.nodes)
    links = [(a, b) for a in names for b in names if a != b]
    world.network.cut |= set(luck.sample(links, luck.randint(1, len(links) // 3)))


def _mend(luck: random.Random, world: World) -> None:
    world.network.cut = set()


def _change_weather(luck: random.Random, world: World) -> None:
    world.network.weather = draw_weather(luck)


def _slow_down(luck: random.Random, world: World) -> None:
    node = _draw_honest(luck, world)
    world.network.slow = {node.name: luck.choice((0, 200, 800))}


def _lose_file(luck: random.Random, world: World) -> None:
    node = world.nodes[luck.choice(sorted(world.setup.frail))]
    if node.is_up:
        node.crash()
    if luck.random() < 0.5:
        node.wipe_database()
    if luck.random() < 0.5:
        node.lose_log()
    if world.setup.chain == "tree" and luck.random() < 0.5:
        node.lose_chunk_log()
