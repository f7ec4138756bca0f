"""Snapshots: what a manifest binds, and what a part may be."""

import msgspec
import pytest
from adoption_world import Half, Source, adopt
from epoch_world import EpochWorld
from hypothesis import given
from hypothesis import strategies as st
from snapshot_world import (
    build_manifest_of,
    install,
    make_chain,
    make_manifest,
    make_reader,
    read,
    run,
)

from chain.checks.conservation import compute_conservation
from chain.checks.database import verify_database
from chain.errors import (
    DamagedBucket,
    HistoryAbsent,
    InvalidSnapshot,
    ShardNotFollowed,
    SnapshotUnavailable,
    StoreError,
    UnfinishedInstall,
)
from chain.queries.queries import Queries
from chain.snapshots.building import cut_tree
from chain.snapshots.installing import get_unfinished, install_snapshot
from chain.snapshots.part import (
    PartBody,
    PlacedBucket,
    read_part,
    validate_part,
)
from chain.snapshots.snapshot import (
    Manifest,
    SnapshotPart,
    compute_frontier_root,
    decode_manifest,
    narrow_manifest,
    read_snapshot,
)
from chain.state.stored_buckets import build_bucket_key, pack_bucket
from chain.storage.store import build_key
from chain.tree.following import FOLLOW_ALL, Follow
from chain.tree.opening import open_tree
from primitives import bls
from primitives.buckets import (
    EMPTY_BUCKET_HASH,
    compute_bucket_hash,
    compute_tree,
    encode_bucket,
)
from primitives.codec import decode, encode
from primitives.kv import MemoryStore


@pytest.fixture(scope="module")
def world() -> EpochWorld:
    return make_chain()


@pytest.fixture(scope="module")
def manifest(world) -> Manifest:
    return make_manifest(world)


def test_a_manifest_says_what_the_chain_says(world, manifest):
    snapshot = read(world, manifest)
    final = world.tree.final
    assert snapshot.block_hash == final.block_hash
    assert snapshot.heads == final.heads
    assert snapshot.roots == final.view.get_roots()
    assert len({proof.source_height for proof in manifest.packets}) > 1
    assert manifest.ancestors


def test_a_snapshot_goes_on_as_the_chain_does(world, manifest):
    other = install(world, MemoryStore(), manifest)
    final = other.tree.final
    assert final.block_hash == world.tree.final_hash
    assert final.view.get_roots() == world.tree.final.view.get_roots()
    assert other.tree.epoch == world.tree.epoch
    assert compute_conservation(other.tree) == compute_conservation(world.tree)
    height = other.tree.final_height
    books = Queries(other.tree).get_conservation(height)
    assert books == Queries(world.tree).get_conservation(height)
    twin = make_chain()
    twin.judge = other
    twin.end_epoch(2)
    assert other.tree.final_hash == twin.tree.final_hash
    # The packets that were under way have arrived.
    shard = Queries(other.tree).get_shard(1)
    assert shard.backlog == ()
    # And it can serve the next one.
    assert make_manifest(other) == make_manifest(twin)


def test_history_begins_with_the_snapshot(world, manifest):
    other = install(world, MemoryStore(), manifest)
    queries, first = Queries(other.tree), world.tree.final_height
    assert queries.first_height == first
    assert queries.get_block(first).block_hash == world.tree.final_hash
    with pytest.raises(HistoryAbsent) as caught:
        queries.get_block(first - 1)
    assert caught.value.first_height == first
    assert queries.light.build_block(first - 1) is None
    assert queries.light.build_block(first) is not None
    assert [found.height for found in queries.list_blocks().items] == [first]
    epoch = world.epoch
    assert queries.stakes.get_epoch(epoch) == Queries(world.tree).stakes.get_epoch(
        epoch
    )
    assert queries.stakes.get_epoch(epoch + 1).seed
    assert other.tree.get_final(first - 1) is None
    assert {p.proof.packet.seq for p in queries.list_packets(0, 1).items}


@pytest.mark.parametrize("wanted", [(), (1,), (2,), (1, 2), (9,)])
def test_a_manifest_of_some_shards(world, manifest, wanted):
    """Whoever follows some shards makes the same one as is left of a whole one."""
    narrow = narrow_manifest(manifest, wanted)
    snapshot = read(world, narrow)
    given = {0, *wanted} - {9}
    assert snapshot.given == given == {p.shard for p in snapshot.list_places()}
    assert snapshot.roots == world.tree.final.view.get_roots()
    assert narrow.packets == manifest.packets
    store = MemoryStore()
    store.write(dict(world.store.iterate(b"")))
    some = open_tree(world.spec, store, bls, Follow(frozenset(wanted)))
    assert build_manifest_of(world.spec, store) == narrow
    other = install(world, MemoryStore(), narrow)
    assert other.tree.followed == given == some.followed
    assert other.tree.final.view.get_roots() == some.final.view.get_roots()
    for shard in {1, 2} - given:
        with pytest.raises(ShardNotFollowed):
            other.tree.final.view.get(shard, b"x")
    verdict = verify_database(world.spec, other.store, bls, lambda line: None)
    assert verdict.is_sound, verdict.findings


def test_who_has_not_all_packets_yet_gives_no_manifest(world, manifest):
    """Those between shards that it does not follow come a little later."""
    store = MemoryStore()
    store.write(dict(world.store.iterate(b"")))
    open_tree(world.spec, store, bls, Follow(frozenset({1})))
    (packet, *_) = (p.packet for p in manifest.packets if p.packet.src == 2)
    place = ((packet.src, 2), (packet.dst, 2), (packet.seq, 8))
    store.write({build_key(b"P", *place): None})
    with pytest.raises(SnapshotUnavailable):
        build_manifest_of(world.spec, store)
    # Of a shard that it follows it has to have them.
    full = MemoryStore()
    full.write(dict(world.store.iterate(b"")))
    full.write({build_key(b"P", *place): None})
    with pytest.raises(StoreError):
        build_manifest_of(world.spec, full)


def test_the_rest_is_taken_on_afterwards(world, manifest):
    twin = make_chain()
    source = Source(twin)
    store = MemoryStore()
    install(twin, store, narrow_manifest(manifest, ()))
    half = Half(twin, store, FOLLOW_ALL)
    assert half.tree.followed == {0}
    for _ in range(3):
        half.take(twin.step())
    for shard in (1, 2):
        adopt(half, shard, source)
    assert half.tree.followed == {0, 1, 2}
    for _ in range(twin.blocks):
        half.take(twin.step())
    assert half.tree.final.view.get_roots() == twin.tree.final.view.get_roots()
    assert compute_conservation(half.tree) == compute_conservation(twin.tree)


def test_no_manifest_within_an_epoch():
    world = EpochWorld()
    with pytest.raises(SnapshotUnavailable):
        make_manifest(world)
    world.step()
    with pytest.raises(SnapshotUnavailable):
        make_manifest(world)


def read_bytes(world, data):
    return read_snapshot(decode_manifest(data), world.spec.chain_id, world.blocks)


def change(record, **changes):
    return msgspec.structs.replace(record, **changes)


def change_shard(manifest, index, **changes):
    shards = list(manifest.shards)
    shards[index] = change(shards[index], **changes)
    return change(manifest, shards=tuple(shards))


LIES = {
    "block": lambda m: change(m, block=m.block[:-1] + bytes([m.block[-1] ^ 1])),
    "no block": lambda m: change(m, block=b""),
    "validators": lambda m: change(
        m, validators=change(m.validators, validators=m.validators.validators[:-1])
    ),
    "root": lambda m: change_shard(
        m, 0, parts=(change(m.shards[0].parts[0], digest=bytes(32)),)
    ),
    "levels": lambda m: change_shard(m, 0, levels=9, parts=()),
    "no parts of the root": lambda m: change_shard(m, 0, parts=()),
    "no parts and another head": lambda m: change_shard(
        m, 1, parts=(), head=change(m.shards[1].head, post_root=bytes(32))
    ),
    "depth": lambda m: change_shard(
        m, 1, parts=(change(m.shards[1].parts[0], depth=1),)
    ),
    "twice": lambda m: change_shard(m, 1, parts=m.shards[1].parts * 2),
    "head": lambda m: change_shard(m, 1, head=change(m.shards[1].head, fees=1)),
    "older head": lambda m: change_shard(
        m, 1, head=next(c for s in m.sources for c in s.chunks if c.shard == 1)
    ),
    "heads swapped": lambda m: change_shard(m, 1, head=m.shards[2].head),
    "one shard less": lambda m: change(m, shards=m.shards[:-1]),
    "shards out of order": lambda m: change(m, shards=m.shards[::-1]),
    "one packet less": lambda m: change(m, packets=m.packets[:-1]),
    "no packets": lambda m: change(m, packets=(), sources=(), ancestors=()),
    "one packet more": lambda m: change(m, packets=(*m.packets, m.packets[-1])),
    "packets out of order": lambda m: change(m, packets=m.packets[::-1]),
    "amount": lambda m: change(
        m,
        packets=(
            change(m.packets[0], packet=change(m.packets[0].packet, amount=5)),
            *m.packets[1:],
        ),
    ),
    "source height": lambda m: change(
        m,
        packets=(
            change(m.packets[0], source_height=m.packets[0].source_height + 1),
            *m.packets[1:],
        ),
    ),
    "source chunks": lambda m: change(
        m, sources=(change(m.sources[0], chunks=()), *m.sources[1:])
    ),
    "sources out of order": lambda m: change(m, sources=m.sources[::-1]),
    "no ancestors": lambda m: change(m, ancestors=()),
    "another ancestor": lambda m: change(
        m, ancestors=(change(m.ancestors[0], time_ms=1), *m.ancestors[1:])
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_manifest_that_lies_is_refused(world, manifest, name):
    lie = encode(LIES[name](manifest))
    with pytest.raises(InvalidSnapshot):
        read_bytes(world, lie)


def test_a_manifest_with_ancestors_to_spare_is_refused(world, manifest):
    oldest = manifest.ancestors[-1].height
    below = world.tree.store.get_header(oldest - 1)
    lie = change(manifest, ancestors=(*manifest.ancestors, below))
    with pytest.raises(InvalidSnapshot, match="more ancestors"):
        read(world, lie)


def test_a_source_that_no_packet_needs_is_refused(world, manifest):
    oldest = manifest.ancestors[-1].height
    store = world.tree.store
    below = store.get_header(oldest - 1)
    lie = change(
        manifest,
        ancestors=(*manifest.ancestors, below),
        sources=(
            msgspec.convert((oldest - 1, ()), type(manifest.sources[0])),
            *manifest.sources,
        ),
    )
    with pytest.raises(InvalidSnapshot):
        read(world, lie)


def test_another_chain_or_another_height(world, manifest):
    with pytest.raises(InvalidSnapshot, match="another chain"):
        read_snapshot(manifest, bytes(32), world.blocks)
    with pytest.raises(InvalidSnapshot, match="does not end"):
        read_snapshot(manifest, world.spec.chain_id, world.blocks + 1)


@given(st.binary(max_size=200))
def test_bytes_are_no_manifest(data):
    with pytest.raises(InvalidSnapshot):
        decode_manifest(data)


# ------------------------------------------------------------------------ parts


LEVELS = 3


def fill(buckets: dict[int, dict[bytes, bytes]]) -> MemoryStore:
    store = MemoryStore()
    store.write(
        {
            build_bucket_key(7, i): pack_bucket(
                encode_bucket(b), compute_bucket_hash(encode_bucket(b))
            )
            for i, b in buckets.items()
        }
    )
    return store


def compute_root(buckets) -> bytes:
    leaves = [EMPTY_BUCKET_HASH] * 4**LEVELS
    for index, bucket in buckets.items():
        leaves[index] = compute_bucket_hash(encode_bucket(bucket))
    return compute_tree(leaves, LEVELS)[0]


some_buckets = st.dictionaries(
    st.integers(0, 4**LEVELS - 1),
    st.dictionaries(st.binary(max_size=3), st.binary(max_size=40), max_size=3),
)


@given(some_buckets, st.integers(20, 400))
def test_parts_are_the_whole_tree(buckets, part_bytes):
    store = fill(buckets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chain.snapshots.building.PART_BYTES", part_bytes)
        parts = run(cut_tree(store, 7, LEVELS))
    assert compute_frontier_root(LEVELS, parts) == compute_root(buckets)
    found = {}
    first = 0
    for part in parts:
        count = 4 ** (LEVELS - part.depth)
        *_, data = read_part(store, 7, first, count)
        place = make_place(part.depth, first, part.digest)
        body = validate_part(place, data)
        assert part.size <= part_bytes or part.depth == LEVELS
        found |= {bucket.index: bucket.data for bucket in body.buckets}
        first += count
    assert found == {i: encode_bucket(b) for i, b in buckets.items() if b}


def make_place(depth, first, digest):
    from chain.snapshots.snapshot import PartPlace

    return PartPlace(7, LEVELS, depth, first, digest, 0)


BUCKETS = {i: {bytes([i]): b"value"} for i in (16, 17, 20, 31)}
ROOT = compute_root(BUCKETS)


@pytest.fixture
def place():
    parts = (*(part for part in run(cut_tree(fill(BUCKETS), 7, LEVELS))),)
    assert [part.depth for part in parts] == [0]
    leaves = [
        compute_bucket_hash(encode_bucket(BUCKETS[i]))
        if i in BUCKETS
        else EMPTY_BUCKET_HASH
        for i in range(16, 32)
    ]
    return make_place(1, 16, compute_tree(leaves, 2)[0])


def make_body(buckets) -> bytes:
    return encode(PartBody(tuple(PlacedBucket(i, d) for i, d in buckets)))


GOOD = [(i, encode_bucket(b)) for i, b in BUCKETS.items()]
EMPTY = encode_bucket({})


def test_a_part_is_its_buckets(place):
    assert len(validate_part(place, make_body(GOOD)).buckets) == 4


HOSTILE = {
    "nothing": b"",
    "no buckets": make_body([]),
    "one less": make_body(GOOD[:-1]),
    "one twice": make_body([*GOOD, GOOD[-1]]),
    "out of order": make_body(GOOD[::-1]),
    "before the part": make_body([(15, GOOD[0][1]), *GOOD]),
    "behind the part": make_body([*GOOD, (32, GOOD[0][1])]),
    "far behind": make_body([*GOOD, (2**32 - 1, GOOD[0][1])]),
    "an empty one": make_body([*GOOD[:2], (18, EMPTY), *GOOD[2:]]),
    "an extra pair": make_body(
        [(16, encode_bucket({b"\x10": b"value", b"x": b"y"})), *GOOD[1:]]
    ),
    "another value": make_body([(16, encode_bucket({b"\x10": b"v"})), *GOOD[1:]]),
    "another place": make_body([(18, GOOD[0][1]), *GOOD[1:]]),
    "cut off": make_body(GOOD)[:-1],
    "something behind": make_body(GOOD) + b"\0",
    "another spelling": b"\xdc\x00\x01" + make_body(GOOD)[1:],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_part_is_refused(place, name):
    with pytest.raises(InvalidSnapshot):
        validate_part(place, HOSTILE[name])


def test_a_part_that_is_too_long_is_refused_and_not_served(place, monkeypatch):
    monkeypatch.setattr("chain.snapshots.part.MAX_PART_BYTES", 40)
    with pytest.raises(InvalidSnapshot):
        validate_part(place, make_body(GOOD))
    with pytest.raises(SnapshotUnavailable):
        list(read_part(fill(BUCKETS), 7, 0, 64))


@given(st.data())
def test_any_flipped_bit_shows(data):
    leaves = [EMPTY_BUCKET_HASH] * 64
    for index, bucket in GOOD:
        leaves[index] = compute_bucket_hash(bucket)
    whole = make_place(0, 0, compute_tree(leaves, LEVELS)[0])
    body = bytearray(make_body(GOOD))
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    body[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSnapshot):
        validate_part(whole, bytes(body))


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.binary(min_size=32, max_size=32)), max_size=30
    )
)
def test_frontiers_are_trees_or_refused(parts):
    frontier = tuple(SnapshotPart(depth, digest, 0) for depth, digest in parts)
    covered = sum(4.0**-depth for depth, _ in parts)
    try:
        compute_frontier_root(4, frontier)
    except InvalidSnapshot:
        return
    assert covered == 1


# ----------------------------------------------------------------- installation


class PowerCut(Exception):
    """The machine went off."""


class CutStore(MemoryStore):
    """Takes `left` writes, then the power goes before or after the next one."""

    def __init__(self, left, is_applied):
        super().__init__()
        self.left, self.is_applied = left, is_applied

    def write(self, changes, *, sync=False):
        if self.left == 0:
            if self.is_applied:
                super().write(changes, sync=sync)
            raise PowerCut
        self.left -= 1
        super().write(changes, sync=sync)


def count_writes(world, manifest) -> int:
    store = CutStore(10**6, False)
    EpochWorld(store=store, is_judged=False, chunk_packets=2)
    store.left = 10**6
    install(world, store, manifest)
    return 10**6 - store.left


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_cut_at_any_write_is_mended(world, manifest, is_applied):
    total = count_writes(world, manifest)
    assert total > len(manifest.shards)
    for left in range(total):
        store = CutStore(10**6, is_applied)
        store.write({b"book/payer/x": b"voucher"})
        old = EpochWorld(store=store, is_judged=False, chunk_packets=2)
        assert old.tree.final_height == 0
        store.left = left
        with pytest.raises(PowerCut):
            install(world, store, manifest)
        store.left = 10**6
        unfinished = get_unfinished(store)
        if unfinished is not None:
            with pytest.raises(UnfinishedInstall):
                old.reopen()
            assert unfinished == manifest
            after = install(world, store, unfinished)
            assert after.tree.final_hash == world.tree.final_hash
        else:
            height = old.reopen().final_height
            assert height in (0, world.tree.final_height)
        assert store.get(b"book/payer/x") == b"voucher"


def test_an_older_chain_goes_and_what_is_not_the_chains_stays(world, manifest):
    store = MemoryStore()
    old = EpochWorld(store=store, chunk_packets=2)
    old.end_epoch(2)
    store.write({b"book/payer/x": b"voucher", b"Dx": b"evidence"})
    after = install(world, store, manifest)
    assert after.tree.first_height == world.tree.final_height
    assert [key for key, _ in store.iterate(b"B")] == [
        b"B" + world.tree.final_height.to_bytes(8, "big")
    ]
    assert store.get(b"book/payer/x") == b"voucher"
    assert store.get(b"Dx") == b"evidence"


def test_a_bad_part_stops_the_installation_and_a_good_one_ends_it(world, manifest):
    store = MemoryStore()

    def read_badly(place):
        return b"\x91\x90"

    with pytest.raises(InvalidSnapshot):
        list(install_snapshot(world.spec, store, manifest, read_badly))
    assert get_unfinished(store) == manifest
    assert install(world, store).tree.final_hash == world.tree.final_hash


def make_manifest_of(world, store):
    return build_manifest_of(world.spec, store)


def test_a_database_that_is_damaged_is_not_offered(world):
    store = world.store.freeze()
    key, data = next(store.iterate(b"S"))
    store.write({key: data + b"x"})
    with pytest.raises(DamagedBucket):
        make_manifest_of(world, store)
    store.write({key: None})
    with pytest.raises(StoreError, match="not that of block"):
        make_manifest_of(world, store)


def test_a_frozen_store_does_not_move():
    world = make_chain()
    frozen = world.store.freeze()
    before = make_manifest(world)
    world.end_epoch()
    assert build_manifest_of(world.spec, frozen) == before
    reader = make_reader(frozen)
    for place in read(world, before).list_places():
        validate_part(place, reader(place))
    assert make_manifest(world) != before
    assert decode(Manifest, encode(before), 2**26) == before
