"""Whole networks of desks: crashes at every write, liars, lost and late messages."""

import pytest
from desk_world import CALM, STORM, Luck, Node, World

from p2pchain.sim.signatures import RealKeys
from primitives.errors import RemoteError
from shards import collecting
from shards.committee import Committee
from shards.desk import Desk
from shards.effects import Persist, SaveChunk
from shards.endorsements import EndorsementVerifier
from shards.events import Executed, Judgement


def test_calm_weather():
    """Every view brings a chunk of each shard, but where somebody had nothing to do."""
    world = World(1)
    world.run(30)
    assert all(count >= 20 for count in world.included.values())
    assert not world.judge.convicted
    assert world.crashes == 0


@pytest.mark.parametrize("how", ["before", "torn", "after"])
def test_a_crash_at_every_write(how):
    """A run without crashes counts the writes; then each of them is somebody's last."""
    quiet = World(7, shards=(1,))
    quiet.run(8)
    writes = quiet.writes
    assert writes > 30
    for number in range(1, writes + 1):
        world = World(7, shards=(1,))
        world.crash_at = number, how
        world.run(8)
        assert world.crashes == 1
        assert world.included[1] >= 3


@pytest.mark.parametrize("seed", range(12))
def test_storms_with_a_liar(seed):
    """One of four lies; the others crash, and the network loses and delays."""
    world = World(seed, liars=[seed % 4], luck=STORM)
    world.run(30)
    world.luck = CALM
    before = dict(world.included)
    world.run(12)
    for shard, count in world.included.items():
        assert count >= before[shard] + 3, "no progress after the storm"


@pytest.mark.parametrize("seed", range(6))
def test_ten_of_unequal_stake_with_three_liars(seed):
    powers = [30, 20, 20, 15, 12, 10, 10, 9, 8, 7]
    world = World(seed, powers=powers, liars=[1, 4, 7], luck=STORM, shards=(1, 2, 3))
    world.run(15)
    world.luck = CALM
    before = dict(world.included)
    world.run(12)
    for shard, count in world.included.items():
        assert count >= before[shard] + 3


def test_real_signatures():
    world = World(2, shards=(1,), liars=[3], ring=RealKeys())
    world.run(6)
    assert world.included[1] >= 2


def test_liars_are_convicted():
    convicted = set()
    for seed in range(4):
        world = World(seed, liars=[2])
        world.run(20)
        convicted |= world.judge.convicted
    assert convicted == {2}


def test_nobody_hosts_and_two_custodians_are_away():
    """The third custodian keeps the shard alive."""
    world = World(3, powers=(10,) * 8, shards=(1,), luck=Luck())
    entry = world.roles._producers[1]
    world.roles._producers[1] = type(entry)(1, (), entry.custodians)
    for index in entry.custodians[:2]:
        world.nodes[index].start = world.nodes[index].enter = lambda height=None: None
    world.run(20)
    assert world.included[1] >= 10


def test_the_same_seed_is_the_same_run():
    counts = []
    for _ in range(2):
        world = World(5, liars=[1], luck=STORM)
        world.run(20)
        counts.append((world.writes, world.crashes, world.included, world.now_ms))
    assert counts[0] == counts[1]


# Rules that are weakened: the worlds above have to notice.


def sweep():
    """Crash at every write, then storms with a liar."""
    quiet = World(7, shards=(1,))
    quiet.run(6)
    for number in range(1, quiet.writes + 1):
        for how in ("before", "torn", "after"):
            world = World(7, shards=(1,))
            world.crash_at = number, how
            world.run(6)
    for seed in range(8):
        World(seed, liars=[seed % 4], luck=STORM).run(20)


def forget_to_sync(monkeypatch):
    """What is appended is lost in a crash."""
    monkeypatch.setattr(Node, "append", lambda self, data: None)


def send_before_the_log(monkeypatch):
    """Messages leave before the record is written."""
    handle = Desk.handle

    def handle_in_another_order(self, event):
        return sorted(handle(self, event), key=lambda e: isinstance(e, Persist))

    monkeypatch.setattr(Desk, "handle", handle_in_another_order)


def keep_no_bodies(monkeypatch):
    """What is vouched for is not on disk."""
    handle = Desk.handle

    def handle_without_saving(self, event):
        return [e for e in handle(self, event) if not isinstance(e, SaveChunk)]

    monkeypatch.setattr(Desk, "handle", handle_without_saving)


def believe_the_producer(monkeypatch):
    """Chunks are endorsed without being executed."""

    def execute(self, produced):
        self.apply(Executed(produced.header, Judgement.GOOD))

    monkeypatch.setattr(Node, "execute", execute)


def need_a_single_endorsement(monkeypatch):
    """A certificate may be a liar's own."""
    monkeypatch.setattr(Committee, "is_enough", lambda self, indices: bool(indices))


def take_endorsements_on_trust(monkeypatch):
    """Forged ones count."""
    monkeypatch.setattr(EndorsementVerifier, "find_forged", lambda self, doubtful: [])


def include_anything(monkeypatch):
    """Leaders pick certified chunks of whatever tip."""
    monkeypatch.setattr(collecting, "validate_inclusion", lambda *args: None)


def accuse_on_suspicion(monkeypatch):
    """Rivals are not verified."""
    monkeypatch.setattr(EndorsementVerifier, "settle", lambda self, pooled: True)


@pytest.mark.parametrize(
    "weaken",
    [
        forget_to_sync,
        send_before_the_log,
        keep_no_bodies,
        believe_the_producer,
        need_a_single_endorsement,
        take_endorsements_on_trust,
        include_anything,
        accuse_on_suspicion,
    ],
)
def test_weakened_rules_are_noticed(weaken, monkeypatch):
    weaken(monkeypatch)
    with pytest.raises((AssertionError, RemoteError)):
        sweep()


def test_unweakened_rules_are_not():
    sweep()
