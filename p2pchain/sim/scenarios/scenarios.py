"""
Scenarios by name: each is one story, told with whatever luck its seed brings.

A scenario is a function from (seed, chain, keys) to the world at its end; it raises
`InvariantBroken` where a theorem does not hold.  `storm` is the one with everything in
it (storms.py); the others say what they are about, and are the first thing to run after
a change.
"""

from collections.abc import Callable, Iterable

from consensus.messages import Certificate, Finalize, Kind, Message
from p2pchain.sim.errors import InvariantBroken, UnknownScenario
from p2pchain.sim.network import Weather
from p2pchain.sim.scenarios.shard_scenarios import SHARD_SCENARIOS, finish
from p2pchain.sim.scenarios.storms import run_storm
from p2pchain.sim.scenarios.twins import run_twins_number, run_twins_seed
from p2pchain.sim.signatures import KeyRing
from p2pchain.sim.villains.cast import CAST
from p2pchain.sim.villains.twin import Twin, add_twin
from p2pchain.sim.world import Setup, World

Scenario = Callable[[int, str, KeyRing | None], World]

WARM_UP_MS = 5000
"""A few blocks before anything goes wrong."""


def run_all_online(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Nothing goes wrong: every view of every epoch brings a block."""
    world = _start(seed, Setup(chain=chain, epoch_blocks=5), keys)
    world.run(30_000)
    require(world.judge.height > 22, "all online", f"{world.judge.height} blocks")
    require(not world.judge.blamed, "all online", "somebody is blamed")
    return finish(world)


def run_one_offline(seed: int, chain: str, keys: KeyRing | None) -> World:
    """One of four is down: its views pass, all others bring a block."""
    world = _start(seed, Setup(chain=chain), keys)
    world.nodes["d"].crash()
    world.run(40_000)
    if have_quorum(world, "abc"):
        require(world.judge.height > 12, "one offline", f"{world.judge.height} blocks")
    return finish(world)


def run_two_offline(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Two of four or six are down: nothing is decided until they are back.

    Four of six are two thirds, which is no quorum.
    """
    world = _start(seed, Setup(chain=chain, size=4 + 2 * (seed % 2)), keys)
    world.run(WARM_UP_MS)
    for name in "cd":
        world.nodes[name].crash()
    world.run_for(2000)
    before = world.judge.height
    world.run_for(20_000)
    require(world.judge.height == before, "two offline", "a block without a quorum")
    return finish(world)


def run_slow_validator(seed: int, chain: str, keys: KeyRing | None) -> World:
    """One validator's messages take longer than everybody else's."""
    world = _start(seed, Setup(chain=chain), keys)
    world.network.slow = {"b": 450}
    world.run(30_000)
    require(world.judge.height > 8, "slow validator", f"{world.judge.height} blocks")
    return finish(world)


def run_lossy_links(seed: int, chain: str, keys: KeyRing | None) -> World:
    """A third of all messages is lost, others come twice or very late."""
    world = _start(seed, Setup(chain=chain, is_relaying=True), keys)
    world.network.weather = Weather((1, 400), loss=0.3, duplication=0.2, spikes=0.05)
    world.run(40_000)
    return finish(world)


def run_partition(seed: int, chain: str, keys: KeyRing | None) -> World:
    """The net falls into halves, then into one and three, and heals."""
    world = _start(seed, Setup(chain=chain), keys)
    world.run(WARM_UP_MS)
    world.network.cut_apart("ab", "cd")
    world.run_for(15_000)
    before = world.judge.height
    world.network.cut_apart("a", "bcd")
    world.run_for(45_000)
    if have_quorum(world, "bcd"):
        require(world.judge.height > before, "partition", "three of four stand still")
    return finish(world)


def run_one_way_links(seed: int, chain: str, keys: KeyRing | None) -> World:
    """One node hears nobody, another one is heard by nobody."""
    world = _start(seed, Setup(chain=chain, size=5, listeners=1), keys)
    world.run(WARM_UP_MS)
    names = list(world.nodes)
    world.network.cut = {(name, "a") for name in names}
    world.network.cut |= {("b", name) for name in names}
    world.run_for(15_000)
    return finish(world)


def run_clock_skew(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Clocks are apart, and run at different speeds."""
    world = World(seed, Setup(chain=chain), keys)
    for name, offset_ms, rate in zip(
        "abcd", (0, 400, 200, 100), (1.002, 0.998, 1.0, 1.001), strict=True
    ):
        world.nodes[name].clock.offset_ms = offset_ms
        world.nodes[name].clock.rate = rate
    world.start()
    world.run(30_000)
    require(world.judge.height > 15, "clock skew", f"{world.judge.height} blocks")
    return finish(world)


def run_crash_storm(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Every second somebody crashes or comes back, up to everybody at once."""
    world = _start(seed, Setup(chain=chain, disk_ms=(0, 40)), keys)
    for _ in range(20):
        world.run_for(world.luck.randint(200, 1800))
        node = world.luck.choice(world.honest)
        if node.is_up:
            node.crash()
        else:
            node.start()
    return finish(world)


def run_unclean_shutdown(seed: int, chain: str, keys: KeyRing | None) -> World:
    """The power goes for all at once, in the middle of whatever they write."""
    world = _start(seed, Setup(chain=chain, disk_ms=(20, 80)), keys)
    for _ in range(3):
        world.run_for(world.luck.randint(1500, 4500))
        for node in world.honest:
            node.crash()
        world.run_for(500)
        world.start()
    return finish(world)


def run_certified_split(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Some see a view certified, the others see it nullified, and it heals.

    Two of four hear the votes of everybody, the other two only of each other, view
    after view, with the roles changing.
    """
    world = _start(seed, Setup(chain=chain), keys)
    world.run(WARM_UP_MS)
    for lucky, unlucky in (("ab", "cd"), ("cd", "ab"), ("ac", "bd"), ("bc", "ad")):
        world.network.cut = {(a, b) for a in lucky for b in unlucky}
        world.run_for(world.luck.randint(1500, 5000))
        world.network.cut = set()
        world.run_for(world.luck.randint(0, 800))
    return finish(world)


def run_late_joiner(seed: int, chain: str, keys: KeyRing | None) -> World:
    """A validator and a listener start when the others are epochs ahead."""
    world = World(seed, Setup(chain=chain, listeners=1, epoch_blocks=4), keys)
    world.start("abc")
    world.run(60_000)
    world.start("de")
    return finish(world)


def run_set_change(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Validators come and go and change their weight from epoch to epoch."""
    setup = Setup(chain=chain, size=5, listeners=2, epoch_blocks=3, is_moving=True)
    world = _start(seed, setup, keys)
    world.run(40_000)
    world.nodes["a"].crash()
    world.run_for(10_000)
    return finish(world)


def run_boundary_trouble(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Finalizations are lost, so that boundary blocks are proposed again and again."""
    world = _start(seed, Setup(chain=chain, epoch_blocks=2, size=4), keys)
    world.network.filter = _build_finalize_filter(world, 0.15)
    world.run(60_000)
    return finish(world)


def run_lost_log(seed: int, chain: str, keys: KeyRing | None) -> World:
    """A validator loses the file of its votes: it is silent, and later votes again."""
    setup = Setup(chain=chain, epoch_blocks=4, frail=frozenset("d"))
    world = _start(seed, setup, keys)
    world.run(WARM_UP_MS + world.luck.randrange(2000))
    node = world.nodes["d"]
    node.crash()
    node.lose_log()
    node.start()
    require(not node.mind.is_voting, "lost log", "it votes at once")
    world.run_for(40_000)
    require(node.mind.is_voting, "lost log", "it never votes again")
    return finish(world)


def run_lost_database(seed: int, chain: str, keys: KeyRing | None) -> World:
    """A validator loses its chain but not its log, and fetches the chain again."""
    setup = Setup(chain=chain, epoch_blocks=3, frail=frozenset("d"))
    world = _start(seed, setup, keys)
    world.run(12_000 + world.luck.randrange(2000))
    node = world.nodes["d"]
    node.crash()
    node.wipe_database()
    node.start()
    return finish(world)


def run_late_echo(seed: int, chain: str, keys: KeyRing | None) -> World:
    """A validator that lost its chain hears once more of views that it nullified.

    Its log was made shorter meanwhile, and no longer holds those votes.
    """
    setup = Setup(
        chain=chain, epoch_blocks=100, frail=frozenset("d"), compact_bytes=500
    )
    world = _start(seed, setup, keys)
    echo: dict[Certificate, None] = {}
    is_mute = False

    def is_passed(sender: str, receiver: str, message: Message | None) -> bool:
        if isinstance(message, Certificate) and message.kind == Kind.NOTARIZATION:
            echo[message] = None
        return message is not None or not is_mute

    world.network.filter = is_passed
    world.run(3000)
    for _ in range(3):
        world.network.cut_apart("abc", "d")
        world.run_for(world.luck.randint(3000, 5000))
        world.network.cut = set()
        world.run_for(2000)
    world.run_for(14_000)
    node = world.nodes["d"]
    node.crash()
    node.wipe_database()
    node.start()
    is_mute = True
    for certificate in echo:
        world.network.send(world.nodes["a"], node, certificate)
    world.run_for(2000)
    is_mute = False
    world.run_for(6000)
    return finish(world)


def run_jump(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Finalizations are lost, and somebody builds beside what is certified."""
    setup = Setup(chain=chain, epoch_blocks=20, villains=frozenset("d"))
    world = World(seed, setup, keys)
    world.corrupt("d", CAST["jumper"])
    world.network.filter = _build_finalize_filter(world, 0.15)
    world.start()
    world.run(40_000)
    return finish(world)


def run_conviction(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Only one node hears a double finalizer, and everybody convicts it."""
    setup = Setup(chain=chain, size=5, epoch_blocks=5, villains=frozenset("e"))
    world = World(seed, setup, keys)
    villain = world.corrupt("e", CAST["double finalizer"])
    world.network.filter = lambda sender, receiver, message: (
        sender != "e" or receiver == "a"
    )
    world.start()
    world.run(25_000)
    assert villain.signer is not None
    for node in world.honest:
        is_convicted = node.chain.is_convicted(villain.signer.public_key)
        require(is_convicted, "conviction", f"node {node.name} knows of nothing")
    return finish(world)


def run_villain(kind: str, epoch_blocks: int = 5) -> Scenario:
    """Return the scenario with one villain among four and two among seven."""

    def run(seed: int, chain: str, keys: KeyRing | None) -> World:
        size = 4 if seed % 2 == 0 else 7
        names = "d" if size == 4 else "fg"
        setup = Setup(
            chain=chain,
            size=size,
            epoch_blocks=epoch_blocks,
            villains=frozenset(names),
            is_relaying=seed % 3 == 0,
        )
        world = World(seed, setup, keys)
        for name in names:
            villain = world.corrupt(name, CAST[kind])
            if isinstance(villain, Twin):
                add_twin(villain)
        world.start()
        world.run(25_000)
        return finish(world)

    return run


SCENARIOS: dict[str, Scenario] = {
    "storm": run_storm,
    "all-online": run_all_online,
    "one-offline": run_one_offline,
    "two-offline": run_two_offline,
    "slow-validator": run_slow_validator,
    "lossy-links": run_lossy_links,
    "partition": run_partition,
    "one-way-links": run_one_way_links,
    "clock-skew": run_clock_skew,
    "crash-storm": run_crash_storm,
    "unclean-shutdown": run_unclean_shutdown,
    "certified-split": run_certified_split,
    "late-joiner": run_late_joiner,
    "set-change": run_set_change,
    "boundary-trouble": run_boundary_trouble,
    "lost-log": run_lost_log,
    "lost-database": run_lost_database,
    "late-echo": run_late_echo,
    "jump": run_jump,
    "conviction": run_conviction,
    "twins": run_twins_seed,
} | {kind.replace(" ", "-"): run_villain(kind) for kind in CAST if kind != "twin"}
"""All of them."""

SCENARIOS |= SHARD_SCENARIOS

# Only in a long epoch is a view ever so old that nobody remembers its votes.
SCENARIOS["late-equivocator"] = run_villain("late equivocator", epoch_blocks=60)

NUMBERED: dict[str, Scenario] = {"twins-exhaustive": run_twins_number}
"""Those whose seed is a number in a list."""


def get_scenario(name: str) -> Scenario:
    """Return a scenario.

    Raises:
        UnknownScenario: There is none of that name.
    """
    found = (SCENARIOS | NUMBERED).get(name)
    if found is None:
        known = ", ".join(SCENARIOS)
        raise UnknownScenario(f"no scenario {name!r}; there are {known}")
    return found


def _start(
    seed: int, setup: Setup, keys: KeyRing | None, names: Iterable[str] | None = None
) -> World:
    world = World(seed, setup, keys)
    world.start(names)
    return world


def _build_finalize_filter(
    world: World, share: float
) -> Callable[[str, str, Message | None], bool]:
    """Return the rule by which only a share of what makes blocks final passes."""

    def is_passed(sender: str, receiver: str, message: Message | None) -> bool:
        is_final = isinstance(message, Finalize) or (
            isinstance(message, Certificate) and message.kind == Kind.FINALIZATION
        )
        return not is_final or world.luck.random() < share

    return is_passed


def have_quorum(world: World, names: str) -> bool:
    """Tell whether some validators are one: any of them may have bonded more."""
    validators = world.nodes[names[0]].chain.epoch.validators
    keys = {world.signers[name].public_key for name in names}
    power = sum(v.power for v in validators.validators if v.public_key in keys)
    return validators.is_quorum(power)


def require(condition: bool, name: str, detail: str) -> None:
    if not condition:
        raise InvariantBroken(name, detail)
