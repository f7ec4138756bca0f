"""Nodes that give each other a state over real connections, and villains."""

from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from epoch_world import PEOPLE, EpochWorld
from snapshot_world import make_chain
from trio.testing import MockClock

from chain.errors import StoreError, UnfinishedInstall
from chain.snapshots.part import PartBody, PlacedBucket
from chain.snapshots.snapshot import decode_manifest
from chain.storage.leveldb import LevelStore
from chain.tree.opening import open_tree
from network.faults import Fault
from network.network import Network
from p2pchain.node.chain.service import ChainService
from p2pchain.node.state_sync import part_fetcher, serving_limits, state_sync
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.install import settle_database
from p2pchain.node.state_sync.messages import (
    BLOCK,
    EPOCHS,
    MANIFEST,
    OFFERS,
    PART,
    Offers,
    PartRequest,
    SnapshotName,
)
from p2pchain.node.state_sync.server import StateSyncServer
from p2pchain.node.state_sync.state_sync import Checkpoint, StateSync
from primitives import bls
from primitives.codec import decode, encode
from primitives.errors import MissingError
from primitives.keys import SecretKey
from primitives.kv import MemoryStore

WAIT_S = 120.0
"""On a busy machine; a bound, not a measurement."""


@pytest.fixture(scope="module")
def world():
    """A chain of three epochs that is at the last one's end."""
    return make_chain()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr("chain.snapshots.building.PART_BYTES", 200)
    monkeypatch.setattr(state_sync, "LOOK_S", 0.01)
    monkeypatch.setattr(state_sync, "PAUSE_S", 0.05)


class Town:
    """A client that is at genesis, and servers."""

    def __init__(self, world, nursery, folder, store=None, **options):
        self.world, self.nursery = world, nursery
        self.store = MemoryStore() if store is None else store
        self.files = PartFiles(folder / "state-sync")
        self.network = Network(
            node_key=SecretKey(b"c" * 32), chain_id=world.spec.chain_id
        )
        self.faults: list[tuple[bytes, Fault]] = []
        charge = self.network.penalize

        def penalize(peer_id, fault):
            self.faults.append((peer_id, fault))
            charge(peer_id, fault)

        self.network.penalize = penalize
        self.chain = ChainService(world.spec, self.store, self.network)
        self.sync = StateSync(
            self.network,
            self.chain,
            self.files,
            **({"after_epochs": 1, "get_best_height": lambda: 12} | options),
        )
        self.servers = []

    async def start(self):
        await self.nursery.start(self.network.run, "127.0.0.1", 0)

    async def add(self, server_class, name: bytes):
        """Start a server and connect the client with it."""
        server = server_class(self.world, name)
        endpoint = await self.nursery.start(server.network.run, "127.0.0.1", 0)
        self.servers.append(server)
        self.network.add_endpoint(endpoint, persistent=True)
        while endpoint.peer_id not in {p.peer_id for p in self.network.peers()}:
            await trio.sleep(0.005)
        return server

    async def fetch(self):
        """Run the client until its snapshot is there."""
        with trio.fail_after(WAIT_S):
            await self.sync.run()
        assert self.sync.ready.is_set()

    def open(self):
        """Do what the next start does."""
        settle_database(self.world.spec, self.store, self.files)
        return open_tree(self.world.spec, self.store, bls)

    def get_faults(self, server):
        return [fault for peer, fault in self.faults if peer == server.network.peer_id]


class Honest:
    """A full node that serves snapshots."""

    def __init__(self, world, name):
        self.world = world
        self.store = world.store.freeze()
        self.network = Network(
            node_key=SecretKey(name * 32), chain_id=world.spec.chain_id
        )
        self.chain = ChainService(world.spec, self.store, self.network)
        self.served = 0
        handle = self.network.handle

        def watch(protocol, handler, **options):
            if protocol == PART:
                handler = self._count(handler)
            handle(protocol, handler, **options)

        self.network.handle = watch
        self.server = StateSyncServer(self.network, self.chain, self.store)

    def _count(self, handler):
        async def serve(peer_id, stream):
            self.served += 1
            await handler(peer_id, stream)

        return serve


class Deaf(Honest):
    """Takes every question for a part and never answers."""

    def _count(self, handler):
        async def serve(peer_id, stream):
            self.served += 1
            await trio.sleep_forever()

        return serve


class Liar(Honest):
    """Answers questions for parts with what `lie` makes of the true answer."""

    @staticmethod
    def lie(part: bytes) -> bytes:
        raise NotImplementedError

    def _count(self, handler):
        async def serve(peer_id, stream):
            self.served += 1
            await handler(peer_id, _Bent(stream, self.lie))

        return serve


@dataclass
class _Bent:
    """A stream on which everything sent is bent."""

    stream: object
    lie: object
    receive: object = field(init=False)

    def __post_init__(self):
        self.receive = self.stream.receive

    async def send(self, data):
        await self.stream.send(self.lie(data))


def rebuild(part, change):
    buckets = [(b.index, b.data) for b in decode(PartBody, part).buckets]
    return encode(PartBody(tuple(PlacedBucket(i, d) for i, d in change(buckets))))


LIES = {
    "flipped": lambda part: part[:-1] + bytes([part[-1] ^ 1]),
    "cut": lambda part: part[:-1],
    "longer": lambda part: part + b"\0",
    "nothing": lambda part: b"",
    "one less": lambda part: rebuild(part, lambda buckets: buckets[1:]),
    "one twice": lambda part: rebuild(part, lambda buckets: buckets + buckets[-1:]),
    "moved": lambda part: rebuild(
        part, lambda buckets: [(i + 1, d) for i, d in buckets]
    ),
}


def run(test, *arguments):
    async def main():
        async with trio.open_nursery() as nursery:
            await test(nursery, *arguments)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_node_takes_a_state_from_two(world, tmp_path):
    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        one, two = await town.add(Honest, b"1"), await town.add(Honest, b"2")
        assert town.sync.is_holding
        await town.fetch()
        progress = town.sync.progress
        assert progress.parts_done == progress.parts > 4
        assert one.served + two.served == progress.parts
        assert one.served
        assert two.served
        assert not town.faults
        tree = town.open()
        assert tree.final_hash == world.tree.final_hash
        assert tree.first_height == world.tree.final_height
        assert tree.get_final(1) is None
        assert not (tmp_path / "state-sync").exists()

    run(main)


def test_on_a_real_disk(world, tmp_path):
    async def main(nursery):
        with LevelStore(tmp_path / "data") as store:
            town = Town(world, nursery, tmp_path, store)
            await town.start()
            await town.add(Honest, b"1")
            await town.fetch()
            assert town.open().final_hash == world.tree.final_hash
        with LevelStore(tmp_path / "data") as store:
            assert open_tree(world.spec, store, bls).final_hash == world.tree.final_hash

    run(main)


@pytest.mark.parametrize("lie", LIES)
def test_who_sends_bad_parts_is_scored_and_asked_no_more(world, tmp_path, lie):
    bend = LIES[lie]

    class Villain(Liar):
        lie = staticmethod(bend)

    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        villain = await town.add(Villain, b"v")
        honest = await town.add(Honest, b"h")
        await town.fetch()
        assert 1 <= villain.served <= 2
        assert honest.served
        assert Fault.BAD_MESSAGE in town.get_faults(villain)
        assert not town.get_faults(honest)
        assert town.open().final_hash == world.tree.final_hash

    run(main)


def test_a_part_that_is_too_long_is_not_read(world, tmp_path, monkeypatch):
    monkeypatch.setattr(part_fetcher, "MAX_PART_BYTES", 1000)

    class Villain(Liar):
        lie = staticmethod(lambda part: bytes(100_000))

    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        villain = await town.add(Villain, b"v")
        await town.add(Honest, b"h")
        await town.fetch()
        assert villain.served
        assert town.open().final_hash == world.tree.final_hash

    run(main)


def test_who_is_slow_is_replaced(world, tmp_path, monkeypatch):
    monkeypatch.setattr("p2pchain.node.state_sync.work_board.SLOW_S", 0.05)

    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        deaf = await town.add(Deaf, b"d")
        honest = await town.add(Honest, b"h")
        await town.fetch()
        assert deaf.served == 2
        assert honest.served >= town.sync.progress.parts
        assert town.open().final_hash == world.tree.final_hash

    run(main)


def test_what_is_on_disk_is_not_fetched_again(world, tmp_path):
    async def begin(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        await town.add(Honest, b"1")
        await town.fetch()

    async def go_on(nursery):
        # As after kill -9 before the last word, with two files damaged.
        folder = tmp_path / "state-sync"
        (folder / "ready").unlink()
        parts = sorted(folder.glob("*.part"))
        parts[0].write_bytes(parts[0].read_bytes()[:-1])
        parts[1].unlink()
        (folder / "stranger.part").write_bytes(b"x")
        town = Town(world, nursery, tmp_path)
        await town.start()
        server = await town.add(Honest, b"1")
        await town.fetch()
        assert server.served == 2
        assert not (folder / "stranger.part").exists()
        assert town.open().final_hash == world.tree.final_hash

    run(begin)
    run(go_on)


def test_nobody_has_a_snapshot_and_blocks_go_on(world, tmp_path):
    class Poor(Honest):
        def __init__(self, world, name):
            super().__init__(world, name)
            self.server.close()

    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        await town.add(Poor, b"p")
        nursery.start_soon(town.sync.run)
        with trio.fail_after(WAIT_S):
            while town.sync.is_holding:
                await trio.sleep(0.005)
        assert not town.faults
        # It asks again later, and takes one that has come meanwhile.
        await town.add(Honest, b"h")
        with trio.fail_after(WAIT_S):
            await town.sync.ready.wait()

    run(main)


def test_who_is_near_or_replays_takes_blocks(world, tmp_path):
    async def main(nursery):
        near = Town(world, nursery, tmp_path, get_best_height=lambda: 4)
        assert not near.sync._is_far_behind
        replaying = Town(world, nursery, tmp_path, after_epochs=None)
        assert not replaying.sync.is_holding

    run(main)


class Forger:
    """Offers a snapshot of its own, with what it likes in the manifest."""

    def __init__(self, world, name, manifest=b"", honest_light=True):
        self.network = Network(
            node_key=SecretKey(name * 32), chain_id=world.spec.chain_id
        )
        self.manifest = manifest
        self.network.handle_request(OFFERS, self._on_offers)
        self.network.handle_request(MANIFEST, self._on_manifest)
        for protocol in (PART, BLOCK, EPOCHS):
            self.network.handle_request(protocol, self._on_other)

    async def _on_offers(self, peer_id, payload):
        return encode(Offers((SnapshotName(10**6, b"x" * 32),)))

    async def _on_manifest(self, peer_id, payload):
        return self.manifest

    async def _on_other(self, peer_id, payload):
        raise MissingError("no")


@pytest.mark.parametrize("manifest", [b"", b"\xc0", bytes(1000)])
def test_a_forged_manifest_is_refused_and_another_taken(world, tmp_path, manifest):
    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        forger = await town.add(lambda w, n: Forger(w, n, manifest), b"f")
        await town.add(Honest, b"h")
        await town.fetch()
        assert Fault.BAD_MESSAGE in town.get_faults(forger)
        assert town.open().final_hash == world.tree.final_hash

    run(main)


def test_a_snapshot_of_another_chain_of_the_same_name_is_refused(tmp_path):
    """Its blocks are signed by a set that the true genesis does not name."""
    true, forged = make_chain(), make_chain()
    certificate = forged.tree.final_certificate

    def forge(data):
        manifest = decode_manifest(data)
        return encode(
            msgspec.structs.replace(
                manifest,
                certificate=msgspec.structs.replace(
                    certificate, signature=bls.aggregate([certificate.signature] * 2)
                ),
            )
        )

    class Villain(Honest):
        def __init__(self, world, name):
            super().__init__(world, name)
            serve = self.server._on_manifest

            async def lie(peer_id, payload):
                return forge(await serve(peer_id, payload))

            self.network._serving._handlers[MANIFEST] = type(
                self.network._serving._handlers[MANIFEST]
            )(lie)

    async def main(nursery):
        town = Town(true, nursery, tmp_path)
        await town.start()
        villain = await town.add(Villain, b"v")
        nursery.start_soon(town.sync.run)
        with trio.fail_after(WAIT_S):
            while Fault.BAD_MESSAGE not in town.get_faults(villain):
                await trio.sleep(0.01)
        assert not town.sync.ready.is_set()

    run(main)


def test_a_checkpoint_is_believed_and_a_wrong_one_is_not(world, tmp_path):
    header = world.tree.final.header

    async def main(nursery, root, is_right):
        point = Checkpoint(header.epoch, root)
        town = Town(world, nursery, tmp_path, checkpoint=point)
        await town.start()
        server = await town.add(Honest, b"h")
        if is_right:
            await town.fetch()
            return
        nursery.start_soon(town.sync.run)
        with trio.fail_after(WAIT_S):
            while not town.get_faults(server):
                await trio.sleep(0.01)
        assert not town.sync.ready.is_set()

    run(main, header.valset_root, True)
    run(main, bytes(32), False)


def test_validators_that_come_and_go_are_followed(tmp_path):
    """Nobody of genesis is left: the way leads over epochs that peers prove."""
    world = EpochWorld(is_judged=False)
    newcomers = iter(PEOPLE[5:10])
    for number in range(5):
        world.bond(next(newcomers))
        world.end_epoch(2)
        world.unbond(PEOPLE[number], 1000)
        world.end_epoch(2)
    world.end_epoch(3)
    first = {v.public_key for v in world.spec.first_validators.validators}
    assert not first & {v.public_key for v in world.tree.epoch.validators.validators}

    async def main(nursery):
        best = world.tree.final_height
        town = Town(world, nursery, tmp_path, get_best_height=lambda: best)
        await town.start()
        await town.add(Honest, b"h")
        await town.fetch()
        assert town.open().final_hash == world.tree.final_hash

    run(main)


# ----------------------------------------------------------------------- serving


async def ask(town, server, request: bytes) -> bytes:
    return await town.network.request(
        server.network.peer_id, PART, request, timeout_s=WAIT_S
    )


def test_questions_that_no_node_asks_cost_the_asker(world, tmp_path):
    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        server = await town.add(Honest, b"h")
        charged = []
        server.network._serving._charge = lambda *a: charged.append(a)
        [name] = server.server.offers
        for bad in (
            b"",
            b"x" * 200,
            encode(PartRequest(name, 0, 2, 3, 0)),
            encode(PartRequest(name, 0, 5, 1, 1)),
            encode(PartRequest(name, 0, 5, 1, 4**5)),
            encode(PartRequest(name, 0, 5, 5, 2**32 - 1)),
        ):
            with pytest.raises(MissingError):
                await ask(town, server, bad)
        assert len(charged) == 6
        other = SnapshotName(name.height, bytes(32))
        with pytest.raises(MissingError):
            await ask(town, server, encode(PartRequest(other, 0, 5, 5, 0)))
        assert len(charged) == 6

    run(main)


def test_what_is_served_is_bounded_in_the_mean():
    async def main():
        budget = serving_limits.ServingBudget()
        started = trio.current_time()
        for _ in range(10):
            await budget.spend(serving_limits.BYTES_PER_S // 2)
        waited = trio.current_time() - started
        burst_s = serving_limits.BURST_BYTES / serving_limits.BYTES_PER_S
        assert 5 - burst_s <= waited <= 5

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_who_asks_too_much_at_once_is_told_to_wait(world, tmp_path, monkeypatch):
    async def main(nursery):
        town = Town(world, nursery, tmp_path)
        await town.start()
        server = await town.add(Honest, b"h")
        enough = trio.Event()
        monkeypatch.setattr(server.server._budget, "spend", lambda size: enough.wait())
        [name] = server.server.offers
        request = encode(PartRequest(name, 0, 9, 0, 0))
        refused = []

        async def try_one():
            try:
                await ask(town, server, request)
            except MissingError:
                refused.append(request)
                if len(refused) == serving_limits.PEER_PARTS:
                    enough.set()

        async with trio.open_nursery() as asking:
            for _ in range(3 * serving_limits.PEER_PARTS):
                asking.start_soon(try_one)
        assert len(refused) == serving_limits.PEER_PARTS
        assert not server.server._turns._asking
        assert await ask(town, server, request)

    run(main)


def test_a_snapshot_stays_while_the_chain_goes_on(tmp_path):
    async def main(nursery):
        world = make_chain()
        server = Honest(world, b"h")
        world.tree = server.chain.tree
        world.store = server.store
        heights = lambda: [offer.height for offer in server.server.offers]  # noqa: E731
        assert heights() == [12]
        used = server.server._find(server.server.offers[0])
        for expected in ([16, 12], [20, 16, 12], [24, 20, 12], [28, 24]):
            if expected == [28, 24]:
                used.used_at = float("-inf")
            for _ in range(world.blocks):
                held = world.build()
                server.chain.finalize(world.certify(held))
            assert heights() == expected

    run(main)


# ------------------------------------------------------------------ the database


def fetch_into(world, folder, store):
    async def main(nursery):
        town = Town(world, nursery, folder, store)
        await town.start()
        await town.add(Honest, b"1")
        await town.fetch()

    run(main)


def test_a_part_that_rots_before_it_is_written_starts_anew(world, tmp_path):
    store = MemoryStore()
    store.write({b"book/payer/x": b"voucher"})
    fetch_into(world, tmp_path, store)
    folder = tmp_path / "state-sync"
    part = sorted(folder.glob("*.part"))[-1]
    part.write_bytes(b"rot")
    files = PartFiles(folder)
    settle_database(world.spec, store, files)
    tree = open_tree(world.spec, store, bls)
    assert tree.final_height == 0
    assert store.get(b"book/payer/x") == b"voucher"
    fetch_into(world, tmp_path, store)
    settle_database(world.spec, store, files)
    assert open_tree(world.spec, store, bls).final_hash == world.tree.final_hash


def test_a_half_written_snapshot_is_finished_at_the_next_start(world, tmp_path):
    class Cut(MemoryStore):
        left = 10**6

        def write(self, changes, *, sync=False):
            if not self.left:
                raise StoreError("the power went")
            self.left -= 1
            super().write(changes, sync=sync)

    store = Cut()
    fetch_into(world, tmp_path, store)
    files = PartFiles(tmp_path / "state-sync")
    for left in range(0, 40, 7):
        store.left = left
        with pytest.raises(StoreError):
            settle_database(world.spec, store, files)
    store.left = 10**6
    with pytest.raises(UnfinishedInstall):
        open_tree(world.spec, store, bls)
    settle_database(world.spec, store, files)
    assert open_tree(world.spec, store, bls).final_hash == world.tree.final_hash
