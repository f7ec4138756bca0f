"""A chain at an epoch's end with packets under way, and snapshots of it."""

from chain_world import COIN, World
from epoch_world import PEOPLE, EpochWorld

from chain.records.transfer import Transfer
from chain.snapshots.building import build_manifest
from chain.snapshots.installing import install_snapshot
from chain.snapshots.part import read_part
from chain.snapshots.snapshot import Manifest, Snapshot, read_snapshot
from chain.storage.store import ChainReader
from primitives.codec import decode, encode


def run(generator):
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


def make_chain(epochs=3, store=None) -> EpochWorld:
    """Return a chain at an epoch's end, with packets from several blocks under way.

    Shards 0 and 2 send to shard 1 more than it may consume.
    """
    world = EpochWorld(store=store, chunk_packets=2)
    alice = PEOPLE[0].account
    bob = PEOPLE[1].address
    world.step(world.sign(alice, Transfer(alice.public_key, 2, 100 * COIN)))
    world.end_epoch(epochs - 1)
    while world.tree.final_height % world.blocks != world.blocks - 3:
        world.step()
    for _ in range(3):
        world.step(
            *(
                world.sign(alice, Transfer(bob, 1, COIN + n), src)
                for src in (0, 2)
                for n in range(2)
            )
        )
    assert world.tree.final_height == epochs * world.blocks
    return world


def make_manifest(world) -> Manifest:
    return build_manifest_of(world.spec, world.store)


def build_manifest_of(spec, store) -> Manifest:
    reader = ChainReader(store)
    return run(build_manifest(spec, reader, reader))


def read(world, manifest=None) -> Snapshot:
    manifest = manifest or make_manifest(world)
    manifest = decode(Manifest, encode(manifest), 2**26)
    return read_snapshot(manifest, world.spec.chain_id, world.blocks)


def make_reader(store):
    """Return what reads a part out of a database, for `install_snapshot`."""

    def read_place(place):
        *_, data = read_part(store, place.shard, place.first, place.count)
        return data

    return read_place


def install(world, store, manifest=None):
    """Install the snapshot of `world` into `store`; return the world above it."""
    manifest = manifest or make_manifest(world)
    for _ in install_snapshot(world.spec, store, manifest, make_reader(world.store)):
        pass
    return World(spec=world.spec, store=store)
