"""Nodes that go where they are needed: the rule, and whole swarms of it."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.capacity.moving import Chances, Host, consider_move

SIZES = [10] * 8
BOLD = Chances(goes=0.0, place=0.0)


def host(start: int, end: int, capacity: float = 1.0, *, joining: bool = False) -> Host:
    return Host(range(start, end), capacity, joining)


def consider(own: Host, *others: Host, chances: Chances = BOLD, room=40, pause_s=0.0):
    move = consider_move(own, others, SIZES, room, chances, pause_s=pause_s)
    return None if move is None else (move.layers.start, move.layers.stop)


# The rule


def test_a_node_goes_where_fewer_are() -> None:
    crowd = [host(0, 4)] * 3
    assert consider(host(0, 4), *crowd, host(4, 8)) == (4, 8)
    # And where nobody is any more.
    assert consider(host(0, 4), *crowd) == (4, 8)


def test_the_last_copy_never_moves() -> None:
    assert consider(host(0, 4), host(4, 8)) is None
    # Whoever only comes serves nothing yet, and half a copy is none.
    assert consider(host(0, 4), host(0, 4, 9, joining=True)) is None
    assert consider(host(0, 4), host(0, 2, 9), host(0, 2, 9)) is None


def test_who_is_on_the_way_counts_there() -> None:
    crowd = [host(0, 4)] * 3
    coming = [host(4, 8, joining=True)] * 3
    assert consider(host(0, 4), *crowd, *coming) is None


def test_a_move_must_pay_its_pause() -> None:
    crowd = [host(0, 4)] * 3
    others = [*crowd, host(4, 8), host(4, 8)]
    assert consider(host(0, 4), *others, pause_s=3600) == (4, 8)
    # A third more earned takes a third of a day to pay for itself, and no more.
    assert consider(host(0, 4), *others, pause_s=9 * 3600) is None
    # Next to nothing is no reason.
    near = [host(0, 4, 10)] * 3 + [host(4, 8, 9.9)] * 3
    assert consider(host(0, 4, 0.1), *near) is None


def test_layers_with_too_much_lose_what_is_too_much() -> None:
    crowd = [host(0, 4)] * 5
    # Six here, two there, four in the mean: a third of those here go.
    others = [*crowd, host(4, 8), host(4, 8)]
    assert consider(host(0, 4), *others, chances=Chances(0.33, 0)) == (4, 8)
    assert consider(host(0, 4), *others, chances=Chances(0.34, 0)) is None


def test_only_what_fits_and_meets_others() -> None:
    crowd = [host(0, 2)] * 4
    others = [*crowd, host(2, 5), host(5, 8)]
    for place in (0.0, 0.3, 0.6, 0.99):
        chances = Chances(0.0, place)
        found = consider(host(0, 2), *others, chances=chances, room=30)
        assert found in ((2, 5), (5, 8))
    assert consider(host(0, 2), *others, room=20) is None
    # A gap is filled from its beginning, as far as the room goes.
    assert consider(host(0, 2), *crowd, room=30) == (2, 5)


hosts = st.builds(
    lambda start, length, capacity, joining: host(
        start, min(8, start + length), capacity, joining=joining
    ),
    st.integers(0, 7),
    st.integers(1, 4),
    st.floats(0.1, 10),
    st.booleans(),
)
chance = st.floats(0, 1, exclude_max=True)


@given(hosts, st.lists(hosts, max_size=8), st.integers(0, 60), chance, chance)
def test_whatever_is_there_a_move_is_for_the_better(own, others, room, goes, place):
    move = consider_move(own, others, SIZES, room, Chances(goes, place))
    if move is None:
        return
    assert move.gain > 0
    assert move.layers != own.layers
    assert 0 <= move.layers.start < move.layers.stop <= 8
    assert 10 * len(move.layers) <= room
    serving = [each.layers for each in others if not each.is_joining]
    for layer in own.layers:
        assert any(layer in held for held in serving)


# Swarms

SEEDS = [
    *range(3),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20)),
]
SEGMENTS = 8
LAYERS = [10] * (4 * SEGMENTS)
ROOM = 40
STALE_ROUNDS = 2
"""How old the picture is that a node sees."""
PAUSE_ROUNDS = 3
"""From leaving to serving again."""
COOL_DOWN_ROUNDS = 12
CHECK = 0.1
"""Chance that a node looks in a round: everybody at a time of its own."""


@dataclass
class Node:
    segment: int
    capacity: float
    ready: int = 0
    """Round from which it serves."""
    next_look: int = 0
    moves: int = 0


@dataclass
class Swarm:
    random: Random
    nodes: list[Node]
    round: int = 0
    past: list[list[Host]] = field(default_factory=list)

    def look(self) -> list[Host]:
        return [
            host(
                4 * node.segment,
                4 * node.segment + 4,
                node.capacity,
                joining=node.ready > self.round,
            )
            for node in self.nodes
        ]

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.past = [*self.past[-STALE_ROUNDS:], self.look()]
            seen = self.past[0]
            for index, node in enumerate(self.nodes):
                is_resting = self.round < max(node.next_look, node.ready)
                if is_resting or self.random.random() >= CHECK or index >= len(seen):
                    continue
                own = host(4 * node.segment, 4 * node.segment + 4, node.capacity)
                others = [each for i, each in enumerate(seen) if i != index]
                chances = Chances(self.random.random(), self.random.random())
                move = consider_move(own, others, LAYERS, ROOM, chances)
                if move is not None:
                    node.segment = move.layers.start // 4
                    node.ready = self.round + PAUSE_ROUNDS
                    node.next_look = self.round + COOL_DOWN_ROUNDS
                    node.moves += 1
            self.round += 1

    def lose(self, gone: set[int]) -> None:
        self.nodes = [node for i, node in enumerate(self.nodes) if i not in gone]
        self.past = []

    @property
    def worst(self) -> float:
        """The weakest segment's capacity, of what it would be if all were alike."""
        levels = [0.0] * SEGMENTS
        for node in self.nodes:
            if node.ready <= self.round:
                levels[node.segment] += node.capacity
        return min(levels) / (sum(node.capacity for node in self.nodes) / SEGMENTS)


def build_swarm(seed: int, nodes: int = 200) -> Swarm:
    """Everybody begins where luck has it, some places thrice as often as others."""
    random = Random(seed)
    weights = [1 + 2 * random.random() for _ in range(SEGMENTS)]
    places = random.choices(range(SEGMENTS), weights, k=nodes)
    return Swarm(random, [Node(p, random.uniform(1, 10)) for p in places])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_swarm_finds_its_balance_with_few_moves(seed: int) -> None:
    swarm = build_swarm(seed)
    before = swarm.worst
    swarm.run(120)
    assert before < 0.85
    assert swarm.worst >= 0.95
    assert sum(node.moves for node in swarm.nodes) < len(swarm.nodes)
    # And keeps it: nobody goes to and fro.
    settled = sum(node.moves for node in swarm.nodes)
    swarm.run(60)
    assert sum(node.moves for node in swarm.nodes) - settled < len(swarm.nodes) / 10
    assert swarm.worst >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_a_swarm_recovers_from_the_death_of_a_region(seed: int) -> None:
    """Thirty per cent of all, most of them from the same layers, are gone at once."""
    swarm = build_swarm(seed)
    swarm.run(100)
    order = sorted(
        range(len(swarm.nodes)),
        key=lambda i: (swarm.nodes[i].segment > 2, swarm.random.random()),
    )
    swarm.lose(set(order[: len(order) * 3 // 10]))
    hurt = swarm.worst
    for node in swarm.nodes:
        node.moves = 0
    swarm.run(150)
    assert hurt < 0.5
    assert swarm.worst >= 0.95
    assert sum(node.moves for node in swarm.nodes) < len(swarm.nodes)


def test_everybody_at_once_does_not_empty_a_layer() -> None:
    """The worst case: all look at one moment, and all at the same picture."""
    swarm = build_swarm(3)
    nodes = [Node(i % SEGMENTS, 1.0) for i in range(200)]
    swarm.nodes = [*nodes[:150], *(Node(0, 1.0) for _ in range(50))]
    seen = swarm.look()
    for index, node in enumerate(swarm.nodes):
        own = seen[index]
        others = [each for i, each in enumerate(seen) if i != index]
        chances = Chances(swarm.random.random(), swarm.random.random())
        move = consider_move(own, others, LAYERS, ROOM, chances)
        if move is not None:
            node.segment = move.layers.start // 4
    assert swarm.worst > 0.8
