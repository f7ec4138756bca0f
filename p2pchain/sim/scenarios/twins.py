"""
Twins: one validator runs twice with one key, under every schedule of leaders and cuts.

Theory of operation
-------------------
Four validators, the last of which is two machines, make five instances.  In each of the
first views a schedule says who leads and into which groups the instances fall; a
message about that view passes within a group only.  After a while everything passes,
and the chain must go on without a fork.  Twins equivocate by being two: no villain has
to be written (Bano et al., "Twins: BFT Systems Made Robust", 2022).

Honest validators can exchange names, so of each orbit of the six renamings one schedule
is enough.  A view has 4 leaders x 52 partitions of five instances = 208 choices; two
views have 208^2 = 43,264 schedules in 8,027 orbits (by Burnside's lemma
(43264 + 3 * 40^2 + 2 * 7^2) / 6; the enumeration below finds the same number).
Longer schedules and seven validators with two pairs of twins are sampled.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

from consensus.leader import compute_leader
from consensus.messages import Message, get_view
from consensus.validators import Validator, ValidatorSet
from p2pchain.sim.chains.list_chain import ListChains
from p2pchain.sim.chains.plans import POWER
from p2pchain.sim.invariants.progress import assert_progress
from p2pchain.sim.network import Weather
from p2pchain.sim.signatures import KeyRing
from p2pchain.sim.villains.twin import Twin, add_twin
from p2pchain.sim.world import ALPHABET, Setup, World
from primitives.hashing import compute_hash

Partition = tuple[tuple[str, ...], ...]
"""Groups of instances, in canonical order."""

HEAL_MS = 9000
"""Two views' timers and some room: then everything passes."""


@dataclass(frozen=True, slots=True)
class View:
    """What a schedule says of one view."""

    leader: str
    groups: Partition


Schedule = tuple[View, ...]


def enumerate_schedules(views: int = 2) -> Iterator[Schedule]:
    """Yield one schedule of each orbit for four validators, in a fixed order."""
    choices = enumerate_views("abc", ("d",))
    renamings = [_build_renaming("abc", order) for order in permutations("abc")]
    seen: set[Schedule] = set()
    for schedule in product(choices, repeat=views):
        if schedule in seen:
            continue
        seen.update(_rename(schedule, renaming) for renaming in renamings)
        yield schedule


def enumerate_views(honest: str, twins: Sequence[str]) -> list[View]:
    """Return every choice of leader and partition."""
    instances = (*honest, *(name + mark for name in twins for mark in ("", "2")))
    leaders = (*honest, *twins)
    return [
        View(leader, groups)
        for leader in leaders
        for groups in enumerate_partitions(instances)
    ]


def enumerate_partitions(instances: tuple[str, ...]) -> list[Partition]:
    """Return every way in which instances can fall into groups."""
    if not instances:
        return [()]
    first, rest = instances[0], instances[1:]
    found = []
    for groups in enumerate_partitions(rest):
        found.append(_normalize([(first,), *groups]))
        for number, group in enumerate(groups):
            others = [*groups[:number], *groups[number + 1 :]]
            found.append(_normalize([(first, *group), *others]))
    return found


def draw_schedule(luck: random.Random, honest: str, twins: str, views: int) -> Schedule:
    """Return a schedule with mostly few groups, where quorums are possible."""
    instances = [*honest, *(name + mark for name in twins for mark in ("", "2"))]
    schedule = []
    for _ in range(views):
        count = luck.choice((1, 2, 2, 3))
        groups: list[list[str]] = [[] for _ in range(count)]
        for instance in instances:
            luck.choice(groups).append(instance)
        parts = _normalize([tuple(group) for group in groups if group])
        schedule.append(View(luck.choice([*honest, *twins]), parts))
    return tuple(schedule)


def run_schedule(
    schedule: Schedule,
    honest: str = "abc",
    twins: str = "d",
    keys: KeyRing | None = None,
    seed: int = 0,
) -> World:
    """Run one schedule.

    Raises:
        InvariantBroken: A theorem does not hold.
    """
    size = len(honest) + len(twins)
    setup = Setup(size=size, epoch_blocks=8, villains=frozenset(twins))
    world = World(seed, setup, keys)
    for name in twins:
        twin = world.corrupt(name, Twin)
        assert isinstance(twin, Twin)
        add_twin(twin)
    assert isinstance(world.chains, ListChains), "real chains draw their own leaders"
    world.chains.set_first_seed(
        find_seed(size, tuple(ALPHABET.index(view.leader) for view in schedule))
    )
    world.network.weather = Weather(delay_ms=(10, 10))
    world.network.filter = _build_filter(world, schedule)
    world.start()
    world.run(HEAL_MS * len(schedule) // 2)
    world.network.heal()
    assert_progress(world)
    world.judge.on_end()
    return world


@cache
def list_schedules() -> tuple[Schedule, ...]:
    """Return all of `enumerate_schedules`, computed once in a process."""
    return tuple(enumerate_schedules())


def run_twins_number(number: int, chain: str, keys: KeyRing | None) -> World:
    """Run one of all schedules over two views, by its number."""
    return run_schedule(list_schedules()[number], keys=keys)


def run_twins_seed(seed: int, chain: str, keys: KeyRing | None) -> World:
    """Run the sampled schedule of a seed: three or four views, four or seven nodes."""
    luck = random.Random(f"twins {seed}")
    honest, twins = luck.choice((("abc", "d"), ("abc", "d"), ("abcde", "fg")))
    schedule = draw_schedule(luck, honest, twins, luck.choice((3, 4)))
    return run_schedule(schedule, honest, twins, keys, seed)


@cache
def find_seed(size: int, leaders: tuple[int, ...]) -> bytes:
    """Return an epoch's seed that draws these leaders for the first views.

    Args:
        size: Validators, all of the same power.
        leaders: Index by view, from view 1 on.
    """
    keys = [bytes([index]) * 48 for index in range(size)]
    validators = ValidatorSet(tuple(Validator(key, POWER) for key in keys))
    number = 0
    while True:
        seed = compute_hash("sim-twins", number.to_bytes(8, "big"))
        if all(
            compute_leader(seed, view + 1, validators) == leader
            for view, leader in enumerate(leaders)
        ):
            return seed
        number += 1


def _build_filter(
    world: World, schedule: Schedule
) -> Callable[[str, str, Message | None], bool]:
    """Return the rule by which messages pass while the schedule holds."""
    where = [
        {name: number for number, group in enumerate(view.groups) for name in group}
        for view in schedule
    ]

    def is_passed(sender: str, receiver: str, message: Message | None) -> bool:
        if message is None:
            # A question is about nobody knows which view: all of them must allow it.
            return all(place[sender] == place[receiver] for place in where)
        _, view = get_view(message)
        if view > len(where):
            return True
        place = where[view - 1]
        return place[sender] == place[receiver]

    return is_passed


def _build_renaming(names: str, order: Sequence[str]) -> dict[str, str]:
    return dict(zip(names, order, strict=True))


def _rename(schedule: Schedule, renaming: dict[str, str]) -> Schedule:
    return tuple(
        View(
            renaming.get(view.leader, view.leader),
            _normalize(
                [tuple(renaming.get(name, name) for name in g) for g in view.groups]
            ),
        )
        for view in schedule
    )


def _normalize(groups: Sequence[tuple[str, ...]]) -> Partition:
    return tuple(sorted(tuple(sorted(group)) for group in groups))
