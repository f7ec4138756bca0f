"""Beginning to follow a shard: from genesis, from parts, with blocks pending."""

import msgspec
import pytest
from adoption_world import Half, Source, adopt, begin, catch_up
from chain_world import CAROL, COIN, DAVE, MODEL
from epoch_world import PEOPLE, EpochWorld
from reshard_world import ReshardWorld
from snapshot_world import run

from chain.checks.conservation import compute_conservation, get_conservation
from chain.checks.database import verify_database
from chain.errors import (
    InvalidSnapshot,
    MissingBodies,
    PastChunk,
    PrunedState,
    ShardNotFollowed,
    SnapshotUnavailable,
)
from chain.queries.queries import Queries
from chain.records.proposal import SplitShard
from chain.records.transfer import Transfer
from chain.snapshots.building import build_frontier
from chain.storage.store import ChainReader, build_key
from chain.tree.adoption import Adoption, find_base, read_frontier
from chain.tree.following import Follow, Layers
from primitives import bls
from primitives.kv import MemoryStore
from shards.chunk import compute_chunk_hash
from shards.errors import InvalidChunk

ALICE, BOB = PEOPLE[0].account, PEOPLE[1].account


def pay(world, src, dst, amount=COIN, sender=ALICE, to=BOB):
    return world.sign(sender, Transfer(to.public_key, dst, amount), src)


class Scene:
    """A world with traffic in both layer shards, and a node that follows one."""

    def __init__(self, store=None):
        self.world = EpochWorld(is_judged=False)
        self.half = Half(self.world, store)
        self.source = None

    def step(self, *transactions):
        held = self.world.step(*transactions)
        self.half.take(held)
        if held.height % self.world.blocks == 0:
            self.source = Source(self.world)
        return held

    def fund(self):
        """Bring money into both layer shards."""
        self.step(*(pay(self.world, 0, dst, 100 * COIN, to=ALICE) for dst in (1, 2)))
        self.step()

    def go_to_boundary(self, epochs=1):
        for _ in range(epochs):
            self.step()
            while self.world.tree.final_height % self.world.blocks:
                self.step(pay(self.world, 2, 2), pay(self.world, 1, 2))

    def check(self):
        """Both nodes know the same of shard 2, and the half one is whole."""
        tree, full = self.half.tree, self.world.tree
        assert tree.followed == {0, 1, 2}
        assert tree.final.view.get_roots() == full.final.view.get_roots()
        for person in (ALICE, BOB):
            key = b"a" + person.public_key
            assert tree.final.view.get(2, key) == full.final.view.get(2, key)
        counted = compute_conservation(tree)
        assert counted.is_conserved
        assert counted == compute_conservation(full)
        assert get_conservation(tree) == counted
        verdict = verify_database(tree.spec, self.half.store, bls, lambda line: None)
        assert verdict.is_sound, verdict.findings


@pytest.fixture
def scene():
    scene = Scene()
    scene.fund()
    return scene


def test_from_genesis(scene):
    for _ in range(2):
        scene.step(pay(scene.world, 2, 2), pay(scene.world, 1, 2))
    with pytest.raises(ShardNotFollowed):
        scene.half.tree.final.view.get(2, b"x")
    adoption = adopt(scene.half, 2)
    assert adoption.base.height == 0
    scene.check()
    scene.step(pay(scene.world, 2, 1), pay(scene.world, 1, 2))
    scene.step()
    scene.check()


def test_from_parts(scene):
    scene.go_to_boundary(3)
    scene.step(pay(scene.world, 2, 2), pay(scene.world, 1, 2))
    adoption = adopt(scene.half, 2, scene.source)
    assert adoption.base.height == 3 * scene.world.blocks
    scene.check()
    scene.go_to_boundary()
    scene.check()
    # It is followed when the database is opened again, by who wants it.
    scene.half.follow = type(scene.half.follow)()
    assert scene.half.open().followed == {0, 1, 2}
    scene.check()
    scene.step(pay(scene.world, 2, 2))
    scene.check()


def test_over_a_boundary(scene):
    """A new epoch begins while chunks of the last one are executed."""
    scene.go_to_boundary(2)
    source = scene.source
    adoption = begin(scene.half, 2, source)
    scene.go_to_boundary()
    scene.step(pay(scene.world, 2, 2))
    catch_up(scene.half, adoption)
    scene.half.tree.adopt(adoption)
    scene.check()


def test_histories_begin_where_it_began(scene):
    scene.go_to_boundary(2)
    scene.step(pay(scene.world, 2, 2))
    adopt(scene.half, 2, scene.source)
    tree, joined = scene.half.tree, scene.half.tree.final_height
    adopted = tree.store.get_adopted(2)
    assert (adopted.first, adopted.joined) == (2 * scene.world.blocks, joined)
    for _ in range(3):
        scene.step(pay(scene.world, 2, 2))
    for height in range(joined, tree.final_height + 1):
        view = tree.history.get_view(height, 2, tree.final_height)
        full = scene.world.tree.history.get_view(height, 2, tree.final_height)
        assert view.get_root(2) == full.get_root(2)
        key = b"a" + BOB.public_key
        assert view.build_proof(2, key) == full.build_proof(2, key)
    with pytest.raises(PrunedState):
        tree.history.get_view(joined - 1, 2, tree.final_height)
    assert tree.history.get_view(joined - 1, 1, tree.final_height)
    # Transactions since the boundary are here, those of before are not.
    listed = [
        found.height
        for found in Queries(tree).list_address_transactions(BOB.public_key).items
        if found.shard == 2
    ]
    assert listed
    assert min(listed) > adopted.first


def test_with_blocks_pending(scene):
    """Also with two branches of them, of which one was saved."""
    world, half = scene.world, scene.half
    first = world.build(pay(world, 2, 2), pay(world, 1, 2))
    other = world.build(parent=world.tree.final, view=first.header.view + 1)
    second = world.build(pay(world, 2, 2), parent=first, view=other.header.view + 1)
    for held in (first, other, second):
        half.add(held)
    half.tree.save_pending(second.block_hash)
    adoption = begin(half, 2)
    catch_up(half, adoption)
    with pytest.raises(MissingBodies) as missing:
        half.tree.adopt(adoption)
    assert half.tree.followed == {0, 1}
    assert {header.shard for header in missing.value.headers} == {2}
    adopt(half, 2)
    for held in (first, other, second):
        view = half.tree.get(held.block_hash).view
        assert view.get_roots() == held.view.get_roots()
        assert view.get_bucket_bytes(2, 0) == held.view.get_bucket_bytes(2, 0)
    # What was saved is whole for who opens the database.
    half.follow = type(half.follow)()
    tree = half.open()
    assert [held.block_hash for held in tree.pending] == [
        first.block_hash,
        second.block_hash,
    ]
    for held in (first, second):
        world.finalize(held)
        half.take(held)
    scene.check()


def test_dropping_and_taking_on_again(scene):
    scene.go_to_boundary(2)
    adopt(scene.half, 2, scene.source)
    scene.step(pay(scene.world, 2, 2))
    tree = scene.half.tree
    tree.history.get_view(tree.final_height, 2, tree.final_height)
    pending = scene.world.build(pay(scene.world, 2, 2))
    scene.half.add(pending)
    tree.drop(2)
    assert tree.followed == {0, 1}
    with pytest.raises(ShardNotFollowed):
        tree.final.view.get(2, b"x")
    scene.world.finalize(pending)
    scene.half.take(pending)
    scene.go_to_boundary()
    scene.step(pay(scene.world, 2, 2))
    adopt(scene.half, 2, scene.source)
    scene.check()


# ------------------------------------------------------------- changing layouts


class Changing(ReshardWorld):
    """A chain whose layout changes, and a node that follows some of its shards."""

    def watch(self, follow):
        self.half = Half(self, follow=follow)
        self.source = None

    def step(self, *transactions, **how):
        held = super().step(*transactions, **how)
        self.half.take(held)
        if held.is_epoch_root:
            self.source = Source(self)
        return held

    def check(self, followed):
        tree = self.half.tree
        assert tree.followed == followed
        assert tree.final.view.get_roots() == self.tree.final.view.get_roots()
        for shard in followed:
            for index in range(4**tree.spec.params.bucket_levels):
                ours = tree.final.view.get_bucket_bytes(shard, index)
                assert ours == self.tree.final.view.get_bucket_bytes(shard, index)
        verdict = verify_database(tree.spec, self.half.store, bls, lambda line: None)
        assert verdict.is_sound, verdict.findings


def test_a_split_of_a_shard_that_is_taken_on():
    """The new shard begins empty: it needs nothing from anybody."""
    world = Changing()
    world.watch(Follow(frozenset({2})))
    world.change_layout(SplitShard(shard=1, layer=2))
    world.check({0, 2})
    (new,) = set(world.ids) - {0, 1, 2}
    for _ in range(2):
        world.do(
            world.sign(CAROL, Transfer(DAVE.public_key, new, COIN), 1),
            world.sign(CAROL, Transfer(DAVE.public_key, 1, COIN), 1),
        )
    adopt(world.half, new, world.source)
    adopt(world.half, 1, world.source)
    assert begin_is_known(world, new)
    world.check({0, 1, 2, new})
    world.settle()
    world.check({0, 1, 2, new})


def begin_is_known(world, shard):
    base = find_base(world.half.tree.store, shard, world.source.height)
    return Adoption(world.spec, world.half.tree.store, base).is_known


def test_a_split_while_its_parent_is_on_its_way():
    """Executed over the boundary, with the layout of each epoch."""
    world = Changing()
    world.watch(Follow(frozenset({2}), (Layers(MODEL.model_id, 2, 4),)))
    assert world.half.tree.followed == {0, 1, 2}
    world.half.tree.drop(1)
    world.propose(SplitShard(shard=1, layer=2))
    world.go_to_epoch(world.epoch + 1)
    world.do(world.sign(CAROL, Transfer(DAVE.public_key, 2, COIN), 1))
    adoption = begin(world.half, 1, world.source)
    world.go_to_epoch(world.epoch + 1)
    (new,) = set(world.ids) - {0, 1, 2}
    # The layers that it works with are in the new shard now.
    world.check({0, 2, new})
    world.do(world.sign(CAROL, Transfer(DAVE.public_key, new, COIN), 1))
    world.step()
    catch_up(world.half, adoption)
    world.half.tree.adopt(adoption)
    world.check({0, 1, 2, new})
    world.settle()
    world.check({0, 1, 2, new})


# ------------------------------------------------------------------- bad input


def test_a_frontier_of_anything_else_is_refused(scene):
    scene.go_to_boundary(2)
    tree, source = scene.half.tree, scene.source
    base = find_base(tree.store, 2, source.height)
    good = source.frontier(2)
    levels = tree.spec.params.bucket_levels
    assert read_frontier(base, good, levels) == good
    first, *others = good.parts
    replace = msgspec.structs.replace
    for wrong in (
        replace(good, shard=1),
        replace(good, levels=levels - 1),
        replace(good, head=replace(good.head, seq=good.head.seq + 1)),
        replace(good, parts=tuple(others) or (replace(first, depth=1),)),
        replace(good, parts=(replace(first, digest=bytes(32)), *others)),
    ):
        with pytest.raises(InvalidSnapshot):
            read_frontier(base, wrong, levels)
    with pytest.raises(SnapshotUnavailable):
        run(build_frontier(tree.spec, ChainReader(scene.half.store), 2))
    with pytest.raises(SnapshotUnavailable):
        run(build_frontier(tree.spec, ChainReader(scene.world.store), 0))


def test_a_wrong_part_is_refused_and_the_right_one_taken_after_it(scene):
    scene.go_to_boundary(2)
    tree, source = scene.half.tree, scene.source
    base = find_base(tree.store, 2, source.height)
    adoption = Adoption(tree.spec, tree.store, base)
    adoption.clear()
    (place, *_) = source.places(base)
    good = source.read(place)
    for wrong in (b"", good[:-1], good + b"\0", good[:-1] + bytes([good[-1] ^ 1])):
        with pytest.raises(InvalidSnapshot):
            adoption.put_part(place, wrong)
    with pytest.raises(InvalidSnapshot):
        adoption.finish_parts()
    for each in source.places(base):
        adoption.put_part(each, source.read(each))
    adoption.finish_parts()
    catch_up(scene.half, adoption)
    tree.adopt(adoption)
    scene.check()


def test_a_wrong_body_stops_it(scene):
    scene.step(pay(scene.world, 2, 2))
    adoption = begin(scene.half, 2)
    chunk = scene.half.tree.find_next_chunk(adoption)
    body = scene.world.tree.get_body(compute_chunk_hash(chunk.header))
    replace = msgspec.structs.replace
    for wrong in (
        replace(body, packets=()),
        replace(body, transactions=(*body.transactions, b"x")),
        replace(body, packets=(*body.packets, *body.packets)),
    ):
        with pytest.raises(InvalidChunk):
            adoption.execute(chunk, wrong)
        assert adoption.root == adoption.base.root
    catch_up(scene.half, adoption)
    scene.half.tree.adopt(adoption)
    scene.check()


def test_too_late_for_a_boundary(scene):
    """Two epochs on, the layout of its chunks is forgotten."""
    scene.go_to_boundary(1)
    adoption = begin(scene.half, 2, scene.source)
    scene.go_to_boundary(3)
    with pytest.raises(PastChunk):
        catch_up(scene.half, adoption)
    assert scene.half.tree.followed == {0, 1}
    adopt(scene.half, 2, scene.source)
    scene.check()


# --------------------------------------------------------------------- crashes


class PowerCut(Exception):
    """The machine went off."""


class FailingStore(MemoryStore):
    """Once told to, takes some batches more; then the power goes, in the next one."""

    def __init__(self):
        super().__init__()
        self.left = None
        self.is_applied = False

    def write(self, changes, *, sync=False):
        if self.left == 0:
            if self.is_applied:
                super().write(changes, sync=sync)
            raise PowerCut
        if self.left is not None:
            self.left -= 1
        super().write(changes, sync=sync)


@pytest.fixture(scope="module")
def long_scene():
    """A scene in which the next thing is the adoption, and its disk."""
    scene = Scene()
    scene.fund()
    scene.go_to_boundary(2)
    adopt(scene.half, 2, scene.source)
    scene.half.tree.drop(2)  # and its buckets are still there
    scene.step(pay(scene.world, 2, 2), pay(scene.world, 1, 2))
    scene.step(pay(scene.world, 2, 1))
    return scene


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_cut_at_every_write_leaves_all_of_a_shard_or_nothing(
    long_scene, is_applied, monkeypatch
):
    monkeypatch.setattr("chain.snapshots.building.PART_BYTES", 300)
    scene = long_scene
    for writes in range(100):
        disk = FailingStore()
        disk.write(dict(scene.half.store.iterate(b"")))
        half = Half(scene.world, disk)
        # As a drop leaves it whose deletions are still under way.
        disk.write(
            {build_key(letter, (2, 2), (7, 4)): b"junk" for letter in (b"S", b"R")}
        )
        disk.left, disk.is_applied = writes, is_applied
        try:
            adopt(half, 2, scene.source)
        except PowerCut:
            is_cut = True
        else:
            is_cut = False
        store = MemoryStore()
        store.write(dict(disk.iterate(b"")))
        again = Half(scene.world, store, Follow())
        is_here = again.tree.followed == {0, 1, 2}
        assert is_here or again.tree.followed == {0, 1}
        if not is_here:
            assert not list(store.iterate(b"S\0\2"))
            adopt(again, 2, scene.source)
        assert again.tree.final.view.get_roots() == (
            scene.world.tree.final.view.get_roots()
        )
        verdict = verify_database(again.tree.spec, store, bls, lambda line: None)
        assert verdict.is_sound, verdict.findings
        if not is_cut:
            assert writes > 6  # two deletions, parts, books, chunks, the word
            assert is_here
            return
    raise AssertionError("it never ended")
