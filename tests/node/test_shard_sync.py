"""Nodes that begin to follow a shard over real connections, and villains."""

from types import SimpleNamespace

import pytest
import trio
import trio.testing
from adoption_world import Half
from chain_world import COIN
from epoch_world import PEOPLE, EpochWorld

from chain.checks.conservation import compute_conservation
from chain.errors import InvalidSnapshot, ShardNotFollowed
from chain.execution.executor import InProcess
from chain.records.transfer import Transfer
from chain.snapshots.building import build_frontier
from chain.storage.leveldb import LevelStore
from chain.storage.store import ChainReader
from chain.tree.adoption import Adoption, find_base
from chain.tree.following import FOLLOW_ALL, Follow
from network.faults import Fault
from network.network import Network
from p2pchain.node.chain.foreign_packets import PacketExchange
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.sync_messages import BODY
from p2pchain.node.state_sync import shard_sync, state_sync
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.install import settle_database
from p2pchain.node.state_sync.messages import FRONTIER, PART
from p2pchain.node.state_sync.server import StateSyncServer
from p2pchain.node.state_sync.shard_sync import ShardSync
from p2pchain.node.state_sync.state_sync import StateSync
from primitives.keys import SecretKey
from primitives.kv import MemoryStore
from shards.errors import InvalidChunk

LIMIT_S = 120.0
"""On a busy machine; a bound, not a measurement."""
ALICE, BOB = PEOPLE[0].account, PEOPLE[1].account
ONE, TWO = Follow(frozenset({1})), Follow(frozenset({2}))


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr("chain.snapshots.building.PART_BYTES", 300)
    monkeypatch.setattr(shard_sync, "PAUSE_S", 0.05)
    monkeypatch.setattr(shard_sync, "LOOK_S", 0.01)
    monkeypatch.setattr("p2pchain.node.consensus.bodies.RETRY_S", 0.02)


class Member:
    """A node without consensus: the town tells it what is final."""

    def __init__(self, town, name, follow=FOLLOW_ALL, store=None, folder=None):
        self.town = town
        self.store = MemoryStore() if store is None else store
        spec = town.world.spec
        self.network = Network(node_key=SecretKey(name * 32), chain_id=spec.chain_id)
        self.faults = []
        charge = self.network.penalize

        def penalize(peer_id, fault):
            self.faults.append((peer_id, fault))
            charge(peer_id, fault)

        self.network.penalize = penalize
        self.listen_in()
        self.chain = ChainService(spec, self.store, self.network, follow)
        self.bodies = BodyExchange(self.network, self.chain.tree)
        self.packets = PacketExchange(self.network, self.chain)
        self.server = StateSyncServer(self.network, self.chain, self.store)
        self.wanted = frozenset(self.chain.tree.followed)
        if folder is not None:
            self.sync = ShardSync(
                self.network,
                self.chain,
                self.bodies,
                self.packets,
                PartFiles(folder / "shard-sync"),
                is_behind=lambda: False,
                get_wanted=lambda: self.wanted,
                get_own=lambda: frozenset({0, 1}),
            )

    def listen_in(self):
        """Villains change here what they answer."""

    @property
    def tree(self):
        return self.chain.tree

    def take(self, held):
        """Make a block final, as consensus would."""
        half = Half.__new__(Half)
        half.world, half.tree = self.town.world, self.tree
        half.add(held)
        self.chain.finalize(self.town.world.certify(held))

    async def wait_for(self, shard):
        with trio.fail_after(LIMIT_S):
            while shard not in self.tree.followed:
                await trio.sleep(0.01)


class Liar(Member):
    """Bends what it answers to one protocol."""

    protocol = PART

    @staticmethod
    def bend(data):
        return data[:-1] + bytes([data[-1] ^ 1])

    def listen_in(self):
        handle, handle_request = self.network.handle, self.network.handle_request
        self.answered = 0

        def watch(protocol, handler, **options):
            if protocol == PART == self.protocol:
                handler = self._bend_stream(handler)
            handle(protocol, handler, **options)

        def watch_request(protocol, handler, **options):
            if protocol == self.protocol:
                handler = self._bend_answer(handler)
            handle_request(protocol, handler, **options)

        self.network.handle = watch
        self.network.handle_request = watch_request

    def _bend_answer(self, handler):
        async def serve(peer_id, payload):
            self.answered += 1
            return self.bend(await handler(peer_id, payload))

        return serve

    def _bend_stream(self, handler):
        liar = self

        class Bent:
            def __init__(self, stream):
                self.receive = stream.receive
                self._stream = stream

            async def send(self, data):
                liar.answered += 1
                await self._stream.send(liar.bend(data))

        async def serve(peer_id, stream):
            await handler(peer_id, Bent(stream))

        return serve


class Town:
    """A world that makes blocks, and members that follow it."""

    params: dict[str, int] = {}
    stakes = (1000,) * 5

    def __init__(self, nursery, folder):
        self.nursery, self.folder = nursery, folder
        self.world = EpochWorld(self.stakes, is_judged=False, **self.params)
        self.members = []
        self.history = []

    def make(self, name, kind=Member, **options):
        member = kind(self, name, **options)
        self.members.append(member)
        for held in self.history:
            member.take(held)
        return member

    def pay(self, src, dst, to=BOB, amount=COIN):
        payload = Transfer(to.public_key, dst, amount)
        return self.world.sign(ALICE, payload, src)

    def step(self, *transactions):
        held = self.world.step(*transactions)
        self.history.append(held)
        for member in self.members:
            member.take(held)
        return held

    def fund(self):
        self.step(*(self.pay(0, dst, ALICE, 100 * COIN) for dst in (1, 2)))
        self.step()

    def go_to_boundary(self, epochs=1):
        for _ in range(epochs):
            self.step()
            while self.world.tree.final_height % self.world.blocks:
                self.step(self.pay(2, 2), self.pay(1, 2), self.pay(2, 1))

    async def connect(self):
        endpoints = [
            await self.nursery.start(member.network.run, "127.0.0.1", 0)
            for member in self.members
        ]
        for member, endpoint in zip(self.members, endpoints, strict=True):
            member.endpoint = endpoint
        for number, member in enumerate(self.members):
            self.nursery.start_soon(member.packets.run)
            for endpoint in endpoints[:number]:
                member.network.add_endpoint(endpoint, persistent=True)
        with trio.fail_after(LIMIT_S):
            for member in self.members:
                while len(member.network.peers()) < len(self.members) - 1:
                    await trio.sleep(0.005)

    def check(self, member):
        tree, full = member.tree, self.world.tree
        assert tree.final.view.get_roots() == full.final.view.get_roots()
        for shard in tree.followed:
            for person in (ALICE, BOB):
                found = member.chain.queries.get_account(shard, person.public_key)
                key = b"a" + person.public_key
                assert (found.balance > 0) == (
                    full.final.view.get(shard, key) is not None
                )
        if len(tree.followed) == 3:
            assert compute_conservation(tree) == compute_conservation(full)


@pytest.fixture
def scene(tmp_path):
    """Run a test with a town, and with a node of ours that follows shard 1."""

    def run(test, **options):
        async def main():
            async with trio.open_nursery() as nursery:
                town = Town(nursery, tmp_path)
                us = town.make(b"u", follow=ONE, store=store, folder=tmp_path)
                with trio.fail_after(LIMIT_S):
                    await test(town, us)
                nursery.cancel_scope.cancel()

        with LevelStore(tmp_path / "data") as store:
            trio.run(main)

    return run


def test_a_node_takes_a_shard_from_two_that_follow_it_alone(scene, tmp_path):
    """Nobody follows everything, and the chain goes on meanwhile."""

    async def main(town, us):
        others = [town.make(name, follow=TWO) for name in (b"1", b"2")]
        town.fund()
        town.go_to_boundary(3)
        town.step(town.pay(2, 2), town.pay(1, 2), town.pay(2, 1))
        await town.connect()
        town.nursery.start_soon(us.sync.run)
        await trio.testing.wait_all_tasks_blocked()
        assert us.tree.followed == {0, 1}
        us.wanted = frozenset({1, 2})
        while us.sync.progress is None:
            await trio.sleep(0.001)
        assert us.sync.progress.shard == 2
        with pytest.raises(ShardNotFollowed, match="takes the rest from peers"):
            us.chain.queries.get_account(2, BOB.public_key)
        for _ in range(2):
            town.step(town.pay(2, 2), town.pay(1, 2))
            await trio.sleep(0.01)
        await us.wait_for(2)
        assert us.sync.progress is None
        assert us.tree.store.get_adopted(2).first == 3 * town.world.blocks
        assert not (tmp_path / "shard-sync").exists()
        town.check(us)
        assert not any(member.faults for member in (*others, us))
        town.step(town.pay(2, 2), town.pay(1, 2), town.pay(2, 1))
        town.check(us)
        # It is let go again, and one that is followed for ourselves is not.
        town.go_to_boundary()
        us.wanted = frozenset()
        while us.tree.followed != {0, 1}:
            await trio.sleep(0.01)
        town.step(town.pay(2, 2), town.pay(1, 2))
        town.check(us)
        while list(us.store.iterate(b"S\0\2")):
            await trio.sleep(0.01)

    scene(main)


def flip(data):
    """Change what counts: the end of a frontier is a hint for progress."""
    return data[:8] + bytes([data[8] ^ 1]) + data[9:]


def lengthen(data):
    return data + b"x"


@pytest.mark.parametrize(
    ("lie", "bend"),
    [(PART, flip), (FRONTIER, flip), (FRONTIER, lengthen), (BODY, flip)],
)
def test_whoever_lies_is_charged_and_another_one_asked(scene, lie, bend):
    class Villain(Liar):
        protocol = lie

    Villain.bend = staticmethod(bend)

    async def main(town, us):
        villain = town.make(b"v", Villain, follow=TWO)
        honest = town.make(b"h", follow=TWO)
        town.fund()
        town.go_to_boundary(2)
        town.step(town.pay(2, 2), town.pay(1, 2))
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        await us.wait_for(2)
        town.check(us)
        if villain.answered:
            assert (villain.network.peer_id, Fault.BAD_MESSAGE) in us.faults
        assert honest.network.peer_id not in [peer_id for peer_id, _ in us.faults]

    scene(main)


def test_nobody_has_it_until_somebody_does(scene):
    """Who serves other shards is asked in vain, and is not to blame."""

    async def main(town, us):
        town.make(b"1", follow=ONE)
        late = town.make(b"2", follow=ONE, folder=town.folder / "late")
        town.fund()
        town.go_to_boundary(2)
        town.step(town.pay(2, 2))
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        with trio.move_on_after(0.5):
            await us.wait_for(2)
        assert us.tree.followed == {0, 1}
        assert not us.faults
        assert late.tree.followed == {0, 1}
        full = town.make(b"3")
        endpoint = await town.nursery.start(full.network.run, "127.0.0.1", 0)
        us.network.add_endpoint(endpoint, persistent=True)
        town.nursery.start_soon(full.packets.run)
        await us.wait_for(2)
        town.check(us)

    scene(main)


def test_in_the_first_epochs_no_state_is_asked_for(scene):
    async def main(town, us):
        town.make(b"1", follow=TWO)
        town.fund()
        town.step(town.pay(2, 2), town.pay(1, 2), town.pay(2, 1))
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        await us.wait_for(2)
        assert us.tree.store.get_adopted(2).first == 0
        town.check(us)

    scene(main)


def test_packets_from_before_the_boundary_are_here_too(scene, monkeypatch):
    """Shard 2 sent more than shard 1 may consume, just before the boundary."""
    monkeypatch.setattr(Town, "params", {"chunk_packets": 1}, raising=False)

    async def main(town, us):
        town.make(b"1", follow=TWO)
        town.fund()
        for _ in range(4):
            town.step()
        town.go_to_boundary(2)
        while town.world.tree.final_height % town.world.blocks != (
            town.world.blocks - 1
        ):
            town.step()
        town.step(*(town.pay(2, dst) for dst in (1, 0, 1, 0, 1, 0)))
        town.step()
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        await us.wait_for(2)
        base = us.tree.store.get_adopted(2).first
        waiting = [
            stored.proof.source_height
            for dst in (0, 1)
            for seq in range(20)
            if (stored := us.tree.store.get_packet(2, dst, seq))
            and stored.consumed_height is None
        ]
        assert min(waiting) <= base
        town.check(us)

    scene(main)


def test_a_chunk_that_is_wrong_here_ends_the_attempt(scene, monkeypatch):
    """The shard is tried again from a boundary after it, and only then."""
    execute = Adoption.execute
    bad = []

    def spoil(adoption, chunk, body):
        if not bad:
            bad.append(chunk.height)
        if chunk.height in bad:
            raise InvalidChunk("memory that forgets")
        execute(adoption, chunk, body)

    monkeypatch.setattr(Adoption, "execute", spoil)

    async def main(town, us):
        town.make(b"1", follow=TWO)
        town.fund()
        town.go_to_boundary(2)
        town.step(town.pay(2, 2))
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        while not bad:
            await trio.sleep(0.01)
        town.step(town.pay(2, 2))
        await trio.sleep(0.3)
        assert us.tree.followed == {0, 1}
        town.go_to_boundary()
        town.step(town.pay(2, 2))
        await us.wait_for(2)
        assert us.tree.store.get_adopted(2).first > bad[0]
        town.check(us)

    scene(main)


class Forgetful(InProcess):
    """Memory that flips a bit while a chunk of shard 1 is executed."""

    is_bad = True

    def execute(self, tasks, verified):
        if self.is_bad and any(task.context.shard == 1 for task in tasks):
            raise InvalidChunk("memory that forgets")
        return super().execute(tasks, verified)


def test_a_shard_that_was_given_up_comes_back_after_the_next_boundary(scene):
    async def main(town, us):
        town.make(b"1")
        town.fund()
        town.go_to_boundary(2)
        await town.connect()
        town.nursery.start_soon(us.sync.run)
        us.tree.executor = Forgetful()
        town.step(town.pay(1, 2))
        height = town.world.tree.final_height
        assert us.tree.followed == {0}
        us.tree.executor.is_bad = False
        town.step(town.pay(1, 2))
        await trio.sleep(0.3)
        assert us.tree.followed == {0}
        town.go_to_boundary()
        town.step(town.pay(1, 2))
        await us.wait_for(1)
        assert us.tree.store.get_adopted(1).first > height
        town.check(us)

    scene(main)


def test_a_halted_shard_is_not_taken_on(scene, monkeypatch):
    async def main(town, us):
        town.make(b"1")
        town.fund()
        town.go_to_boundary(2)
        await town.connect()
        halt = SimpleNamespace(shard=2)
        monkeypatch.setattr("chain.tree.reading.get_halts", lambda ledger: (halt,))
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        await trio.sleep(0.3)
        assert us.tree.followed == {0, 1}
        monkeypatch.undo()
        await us.wait_for(2)

    scene(main)


def test_parts_that_are_here_are_not_fetched_again(scene, monkeypatch):
    class Counting(Liar):
        bend = staticmethod(lambda data: data)

    interrupted = []

    def interrupt(adoption):
        if not interrupted:
            interrupted.append(adoption.height)
            raise InvalidSnapshot("interrupted")
        clear(adoption)

    clear = Adoption.clear
    monkeypatch.setattr(Adoption, "clear", interrupt)

    async def main(town, us):
        server = town.make(b"1", Counting, follow=TWO)
        town.fund()
        town.go_to_boundary(2)
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        await us.wait_for(2)
        base = find_base(us.tree.store, 2, interrupted[0])
        making = build_frontier(
            town.world.spec, ChainReader(server.server._kept[-1].store), 2
        )
        assert server.answered == len(list_parts(base, run_generator(making)))
        town.check(us)

    scene(main)


def run_generator(making):
    while True:
        try:
            next(making)
        except StopIteration as stop:
            return stop.value


def list_parts(base, frontier):
    assert frontier.head == base.head
    return shard_sync._list_places(frontier)


def test_who_wants_it_no_more_stops(scene):
    async def main(town, us):
        town.make(b"1", follow=TWO)
        town.fund()
        town.go_to_boundary(2)
        town.step(town.pay(2, 2))
        await town.connect()
        us.wanted = frozenset({1, 2})
        town.nursery.start_soon(us.sync.run)
        while us.sync.progress is None:
            await trio.sleep(0.001)
        us.wanted = frozenset({1})
        while us.sync.progress is not None:
            await trio.sleep(0.01)
        assert us.tree.followed == {0, 1}
        town.step(town.pay(2, 2))
        town.check(us)

    scene(main)


def test_a_custodian_follows_in_time_and_lets_go_after_it(scene, monkeypatch):
    key = PEOPLE[0].key.public_key
    monkeypatch.setattr(Town, "stakes", (1000,) * 10)

    async def main(town, us):
        town.make(b"1", follow=TWO)
        town.make(b"2", follow=ONE)
        keeper = town.make(
            b"k", follow=Follow(frozenset(), custodian=key), folder=town.folder / "k"
        )
        town.fund()
        await town.connect()
        keeper.sync._get_wanted = lambda: keeper.tree.wanted
        keeper.sync._get_own = lambda: frozenset({0})
        town.nursery.start_soon(keeper.sync.run)
        changes = 0
        for _ in range(8):
            before = keeper.tree.followed
            town.go_to_boundary()
            epoch = town.world.tree.final.child_epoch
            index = epoch.validators.find_index(key)
            # What it is custodian of now, it follows already.
            for shard in (1, 2):
                if index in epoch.roles.get_shard_producers(shard).custodians:
                    assert shard in keeper.tree.followed
            # One block of the epoch is enough to know that of the next.
            town.step(town.pay(2, 2), town.pay(1, 2))
            while keeper.tree.followed != keeper.tree.wanted:
                await trio.sleep(0.01)
            changes += keeper.tree.followed != before
            town.check(keeper)
        assert changes >= 2

    scene(main)


def test_a_new_node_where_nobody_follows_everything(scene, monkeypatch):
    """It begins with what one node follows, and takes the rest from another one."""
    monkeypatch.setattr(state_sync, "LOOK_S", 0.01)
    monkeypatch.setattr(state_sync, "PAUSE_S", 0.05)

    async def main(town, us):
        del us
        town.members.clear()
        others = [town.make(b"1", follow=ONE), town.make(b"2", follow=TWO)]
        await town.connect()
        town.fund()
        town.go_to_boundary(3)
        height = town.world.tree.final_height
        with LevelStore(town.folder / "new") as store:
            late = Member(town, b"n", store=store)
            files = PartFiles(town.folder / "state-sync")
            sync = StateSync(
                late.network,
                late.chain,
                files,
                after_epochs=1,
                get_best_height=lambda: height,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(late.network.run, "127.0.0.1", 0)
                for other in others:
                    late.network.add_endpoint(other.endpoint, persistent=True)
                await sync.run()
                nursery.cancel_scope.cancel()
            late.server.close()
            settle_database(town.world.spec, store, files)
            late = Member(town, b"n", store=store, folder=town.folder)
            assert late.tree.final_height == late.tree.first_height == height
            assert len(late.tree.followed) == 2
            late.wanted = frozenset({1, 2})
            town.members.append(late)
            async with trio.open_nursery() as nursery:
                await nursery.start(late.network.run, "127.0.0.1", 0)
                for other in others:
                    late.network.add_endpoint(other.endpoint, persistent=True)
                nursery.start_soon(late.packets.run)
                nursery.start_soon(late.sync.run)
                for _ in range(3):
                    town.step(town.pay(2, 2), town.pay(1, 2), town.pay(2, 1))
                    await trio.sleep(0.02)
                for shard in (1, 2):
                    await late.wait_for(shard)
                town.check(late)
                town.go_to_boundary()
                town.check(late)
                nursery.cancel_scope.cancel()
            late.server.close()
            town.members.remove(late)

    scene(main)
