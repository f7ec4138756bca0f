"""
Scenarios about layer shards: what becomes of chunks, packets and layouts.

All of them run on the real chain.  As with the others, each is one story, and first of
all a place in which a weakened rule shows.
"""

from collections.abc import Callable

from p2pchain.sim.chains.tree_chain import TreeChain
from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.invariants.progress import assert_progress
from p2pchain.sim.invariants.shard_progress import assert_shard_progress
from p2pchain.sim.machine.disk import Fuse
from p2pchain.sim.machine.log_file import draw_junk
from p2pchain.sim.network import Weather
from p2pchain.sim.scenarios.followers import leave_shards_out
from p2pchain.sim.scenarios.storms import PEACE_MS, calm
from p2pchain.sim.signatures import KeyRing
from p2pchain.sim.villains.cast import CHUNK_CAST
from p2pchain.sim.villains.chunk_withholder import SilentProducer, StaleKeeper
from p2pchain.sim.villains.conspirator import TARGET, Conspirator
from p2pchain.sim.villains.lying_producer import StubbornLiar
from p2pchain.sim.villains.trapper import Trapper
from p2pchain.sim.world import Setup, World
from shards.messages import Certified, Endorsement, Message, ProducedChunk

Scenario = Callable[[int, str, KeyRing | None], World]

WARM_UP_MS = 5000


def run_calm(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Nothing goes wrong: most blocks hold a chunk of each shard."""
    world = _start(seed, Setup(chain="tree", epoch_blocks=6), keys)
    world.run(25_000)
    shards = world.judge.shards
    _require(shards.included >= world.judge.height, f"{shards.included} chunks")
    _require(not world.judge.blamed, f"blamed: {world.judge.blamed}")
    return finish(world)


def run_slow_work(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Chunks take as long to make and to judge as a view, and come late or not."""
    setup = Setup(chain="tree", epoch_blocks=8, work_ms=(50, 900), disk_ms=(1, 60))
    world = _start(seed, setup, keys)
    world.network.chunk_filter = lambda sender, receiver, message: (
        world.luck.random() > 0.25
    )
    world.run(25_000)
    _require(world.judge.shards.included > 5, "no chunk at all")
    return finish(world)


def run_packets_apart(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Packets are under way while the net falls apart, and while chunks do not pass."""
    world = _start(seed, Setup(chain="tree", epoch_blocks=7), keys)
    world.run(WARM_UP_MS)
    for groups in (("ab", "cd"), ("a", "bcd"), ("abc", "d")):
        world.network.cut_apart(*groups)
        world.run_for(world.luck.randint(2000, 7000))
        world.network.cut = set()
        world.network.chunk_filter = lambda sender, receiver, message: sender < receiver
        world.run_for(world.luck.randint(1000, 4000))
        world.network.chunk_filter = None
    return finish(world)


def run_desk_crashes(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Somebody is always about to lose power in a write, or between two messages."""
    setup = Setup(chain="tree", epoch_blocks=8, disk_ms=(0, 120), compact_bytes=3000)
    world = _start(seed, setup, keys)
    world.run(2000)
    for _ in range(24):
        node = world.luck.choice(world.honest)
        if not node.is_up:
            node.start()
        elif world.luck.random() < 0.3:
            node.sends_left = world.luck.randrange(9)
        else:
            share = world.luck.choice((0.0, 1.0, world.luck.random()))
            node.disk.fuse = Fuse(world.luck.randrange(4), share, draw_junk(world.luck))
        world.run_for(world.luck.randint(200, 1500))
    return finish(world)


def run_lost_chunk_log(seed: int, chain: str, keys: KeyRing | None) -> World:
    """A validator loses what it signed about chunks, perhaps with its database."""
    setup = Setup(chain="tree", epoch_blocks=6, frail=frozenset("d"))
    world = _start(seed, setup, keys)
    world.network.weather = Weather((1, 400), duplication=0.3, spikes=0.1)
    world.run(WARM_UP_MS + world.luck.randrange(12_000))
    node = world.nodes["d"]
    node.crash()
    node.lose_chunk_log()
    if seed % 2:
        node.wipe_database()
    node.start()
    assert node.desk is not None
    _require(not node.desk.is_signing, "it signs at once")
    world.run_for(25_000)
    _require(node.desk.is_signing, "it never signs again")
    return finish(world)


def run_trap(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Somebody endorses a chunk, loses all it ever wrote, and is shown another one."""
    setup = Setup(
        chain="tree",
        size=5,
        epoch_blocks=9,
        villains=frozenset("d"),
        frail=frozenset("e"),
    )
    world = World(seed, setup, keys)
    world.corrupt("d", Trapper)
    victim = world.nodes["e"]
    trapped: list[Endorsement] = []

    def is_passed(sender: str, receiver: str, message: Message) -> bool:
        is_late = world.now_ms > 11_000 + 500 * (seed % 8)
        if is_late and sender == "e" and isinstance(message, Endorsement):
            villain = world.nodes["d"].desk
            assert villain is not None
            bait = world.judge.produced[message.chunk_hash]
            if bait.header.producer == villain.desk.index:
                trapped.append(message)
        return not trapped or sender == "d" or receiver == "e"

    world.network.chunk_filter = is_passed
    world.start()
    world.run(30_000, lambda: bool(trapped))
    victim.crash()
    victim.lose_chunk_log()
    victim.wipe_database()
    victim.start()
    world.run_for(9000)
    world.network.chunk_filter = None
    world.run_for(25_000)
    assert victim.desk is not None
    _require(victim.desk.is_signing, "it never signs again")
    return finish(world)


def run_epoch_change(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Epochs of three blocks, with new validators, and chunks that come late."""
    setup = Setup(
        chain="tree",
        size=5,
        listeners=1,
        epoch_blocks=3,
        is_moving=True,
        work_ms=(1, 500),
        is_relaying=seed % 2 == 0,
    )
    world = _start(seed, setup, keys)
    world.network.weather = Weather((1, 300), duplication=0.2, spikes=0.05)
    world.run(30_000)
    return finish(world)


def run_resharding(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Shards are split, models come and go, while everybody pays everybody."""
    setup = Setup(chain="tree", epoch_blocks=3, is_resharding=True)
    world = _start(seed, setup, keys)
    layouts = set()
    for _ in range(45):
        world.run_for(1000)
        chain_ = world.nodes["a"].chain
        assert isinstance(chain_, TreeChain)
        layouts.add(chain_.tree.layout.shard_ids)
    _require(len(layouts) > 1, "the layout never changed")
    return finish(world)


def run_resharding_apart(seed: int, chain: str, keys: KeyRing | None) -> World:
    """The same, while nodes crash and the net falls apart."""
    setup = Setup(chain="tree", epoch_blocks=3, is_resharding=True, disk_ms=(0, 60))
    world = _start(seed, setup, keys)
    for _ in range(9):
        world.run_for(world.luck.randint(1000, 5000))
        node = world.luck.choice(world.honest)
        kind = world.luck.randrange(3)
        if kind == 0:
            node.crash()
            world.run_for(world.luck.randint(100, 2000))
            node.start()
        elif kind == 1:
            world.network.cut_apart("ab", "cd")
            world.run_for(world.luck.randint(500, 3000))
            world.network.cut = set()
        else:
            world.network.weather = Weather((1, 400), loss=0.1, spikes=0.05)
    return finish(world)


def run_taking_on(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Two of four change their minds about what to follow, while they run and crash."""
    setup = Setup(
        chain="tree",
        epoch_blocks=4,
        is_adopting=True,
        follows={"b": frozenset({1}), "c": frozenset({2})},
    )
    world = World(seed, setup, keys)
    world.start()
    world.run(WARM_UP_MS)
    choices = (frozenset({1}), frozenset({2}), None, frozenset[int]())
    for _ in range(8):
        node = world.nodes[world.luck.choice("bc")]
        if world.luck.random() < 0.6:
            node.change_follow(world.luck.choice(choices))
        if not node.is_up:
            node.start()
        elif world.luck.random() < 0.4:
            share = world.luck.choice((0.0, 1.0, world.luck.random()))
            number = world.luck.randrange(25)
            node.disk.fuse = Fuse(number, share, draw_junk(world.luck))
        world.run_for(world.luck.randint(1000, 6000))
    calm(world)
    for name in "bc":
        world.nodes[name].change_follow(None)

    def is_whole() -> bool:
        chains = [world.nodes[name].chain for name in "bc"]
        return all(
            isinstance(chain_, TreeChain)
            and chain_.tree.followed >= set(chain_.tree.layout.shard_ids)
            for chain_ in chains
        )

    world.run_for(60_000, is_whole)
    _require(is_whole(), "a shard that is wanted is not taken on")
    return finish(world)


def run_no_hosts(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Nobody hosts the shards, and two of seven validators are away: custodians do."""
    # Everybody follows everything: a custodian that does not is none.
    setup = Setup(chain="tree", size=7, epoch_blocks=6, is_hosting=False)
    world = World(seed, setup, keys)
    world.start()
    world.run(2000)
    for name in world.luck.sample("abcdefg", 2):
        world.nodes[name].crash()
    before = world.judge.shards.included
    world.run_for(40_000)
    _require(world.judge.shards.included > before + 5, "the shards stand still")
    return finish(world)


def run_silent_hosts(seed: int, chain: str, keys: KeyRing | None) -> World:
    """The only hosts of the shards never produce anything: custodians have to."""
    names = frozenset("fg")
    setup = Setup(chain="tree", size=7, epoch_blocks=4, villains=names, hosts=names)
    world = World(seed, setup, keys)
    for name in sorted(names):
        world.corrupt(name, SilentProducer)
    world.start()
    world.run(30_000)
    return finish(world)


def run_hostile_hosts(seed: int, chain: str, keys: KeyRing | None) -> World:
    """The only hosts fill their slots with what is of no use, always in one way."""
    names = frozenset("fg")
    setup = Setup(
        chain="tree",
        size=7,
        epoch_blocks=4 if seed % 2 else 12,
        villains=names,
        hosts=names,
        is_relaying=seed % 3 == 0,
    )
    world = World(seed, setup, keys)
    for name in sorted(names):
        world.corrupt(name, StubbornLiar)
    world.start()
    world.run(30_000)
    return finish(world)


def run_conspiracy(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Three of seven vouch for wrong chunks of one shard: it halts, and they pay.

    Some of the others do not follow that shard, and put such a chunk into a block.
    That a lie in a block halts the shard is an invariant; here it must halt as well
    when an honest node has seen the lie and its certificate.
    """
    setup = Setup(
        chain="tree",
        size=7,
        epoch_blocks=6,
        villains=frozenset("efg"),
        is_bound_broken=True,
        follows={"b": frozenset({1}), "c": frozenset({2}), "d": frozenset({2})},
    )
    world = World(seed, setup, keys)
    villains = [world.corrupt(name, Conspirator) for name in sorted(setup.villains)]
    world.start()

    def is_over() -> bool:
        return all(
            isinstance(node.chain, TreeChain) and TARGET in node.chain.halted
            for node in world.honest
        )

    world.run(90_000, is_over)
    if world.judge.wrong:
        # The last one may have been certified just now.
        world.run_for(15_000, is_over)
    witness = world.nodes["a"].chain
    assert isinstance(witness, TreeChain)
    if not is_over():
        # By luck no committee was theirs; or fellows alone have seen the lie.
        is_harmless = seed % 2 == 1 and TARGET in witness.tree.followed
        _require(is_harmless or not world.judge.wrong, "a shard of liars goes on")
        return finish(world)
    for villain in villains:
        assert villain.signer is not None
        is_convicted = witness.is_convicted(villain.signer.public_key)
        _require(is_convicted, f"{villain.name} gets away")
    # Until they have left the set, and some blocks more.
    world.run_for(25_000)
    return finish(world)


def run_stale_certificate(seed: int, chain: str, keys: KeyRing | None) -> World:
    """One keeps certificates for more than K views, in which nobody else makes any."""
    setup = Setup(chain="tree", epoch_blocks=60, villains=frozenset("d"))
    world = World(seed, setup, keys)
    world.corrupt("d", StaleKeeper)

    def is_passed(sender: str, receiver: str, message: Message) -> bool:
        match message:
            case ProducedChunk():
                return sender == "d"
            case Endorsement():
                return receiver == "d"
            case Certified():
                return sender == "d"
        return True

    world.network.chunk_filter = is_passed
    world.start()
    world.run(30_000)
    world.network.chunk_filter = None
    world.run_for(4000)
    return finish(world)


def run_cast(*kinds: str) -> Scenario:
    """Return the scenario with villains of some kinds: one of four, or two of seven."""

    def run(seed: int, chain: str, keys: KeyRing | None) -> World:
        is_small = len(kinds) == 1 and seed % 2 == 0
        names = "d" if is_small else "fg"
        setup = Setup(
            chain="tree",
            size=4 if is_small else 7,
            epoch_blocks=6,
            villains=frozenset(names),
            is_relaying=seed % 3 == 0,
            # Hosts that do not produce are a story of their own: run_silent_hosts.
            is_hosting=not {"silent producer", "late producer"} & set(kinds),
        )
        if setup.is_hosting:
            setup = leave_shards_out(setup, seed)
        world = World(seed, setup, keys)
        for number, name in enumerate(names):
            world.corrupt(name, CHUNK_CAST[kinds[number % len(kinds)]])
        world.start()
        world.run(20_000)
        return finish(world)

    return run


SHARD_SCENARIOS: dict[str, Scenario] = {
    "shards-calm": run_calm,
    "shards-slow-work": run_slow_work,
    "shards-packets-apart": run_packets_apart,
    "shards-desk-crashes": run_desk_crashes,
    "shards-lost-chunk-log": run_lost_chunk_log,
    "shards-trap": run_trap,
    "shards-epoch-change": run_epoch_change,
    "shards-resharding": run_resharding,
    "shards-resharding-apart": run_resharding_apart,
    "shards-taking-on": run_taking_on,
    "shards-no-hosts": run_no_hosts,
    "shards-silent-hosts": run_silent_hosts,
    "shards-hostile-hosts": run_hostile_hosts,
    "shards-conspiracy": run_conspiracy,
    "shards-stale-certificate": run_stale_certificate,
    "shards-lying-pair": run_cast("lying producer", "credulous endorser"),
    "shards-double-pair": run_cast("double producer", "credulous endorser"),
    **{f"shards-{kind.replace(' ', '-')}": run_cast(kind) for kind in CHUNK_CAST},
}
"""All of them."""


def finish(world: World) -> World:
    """Mend everything, see chain and shards go on, and close the books."""
    calm(world)
    assert_progress(world)
    assert_shard_progress(world)
    world.run_for(PEACE_MS)
    world.judge.on_end()
    return world


def _start(seed: int, setup: Setup, keys: KeyRing | None) -> World:
    world = World(seed, leave_shards_out(setup, seed), keys)
    world.start()
    return world


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise InvariantBroken("shards", detail)
