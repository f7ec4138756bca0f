"""Verifying whole databases: what is sound, and what is damaged and where."""

import msgspec
import pytest
from chain_world import ALICE, BOB, COIN, DAVE, SPEC, World

from chain.checks.database import verify_database
from chain.checks.findings import MAX_FINDINGS
from chain.records.transfer import Transfer
from chain.state.stored_buckets import build_bucket_key, pack_bucket
from chain.storage.books import Books, build_books_key
from chain.storage.history import Undo, build_roots_key, build_undo_key, get_undo
from chain.storage.leveldb import LevelStore
from chain.storage.store import CHAIN_ID_KEY, FORMAT_KEY, TIP_KEY, build_key, encode_tip
from primitives import bls
from primitives.buckets import compute_bucket_hash, decode_bucket, encode_bucket
from primitives.codec import decode, encode
from primitives.kv import MemoryStore

BLOCKS = 6


def build_world(store=None) -> World:
    """Return a world with transfers inside of shards and between them."""
    world = World(store=store or MemoryStore())
    for number in range(BLOCKS - 1):
        world.advance(
            world.sign(ALICE, Transfer(DAVE.public_key, 1, COIN + number), 1),
            world.sign(BOB, Transfer(DAVE.public_key, 2, COIN), number % 3),
        )
    world.advance(world.sign(ALICE, Transfer(BOB.public_key, 1, COIN), 2))
    return world


BUILT = dict(build_world().store.iterate(b""))
BUCKETS = [key for key in BUILT if key.startswith(b"S\0\1")]


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.write(BUILT)
    return store


def verify(store, spec=SPEC):
    return verify_database(spec, store, bls, lambda line: None)


def flip(store, key: bytes, offset: int = -1) -> None:
    """Flip a bit of a stored value."""
    data = bytearray(store.get(key))
    data[offset] ^= 1
    store.write({key: bytes(data)})


def get_places(verdict) -> set:
    return {(f.what, f.shard, f.bucket, f.height) for f in verdict.findings}


def test_a_sound_database(store):
    said = []
    verdict = verify_database(SPEC, store, bls, said.append)
    assert verdict.is_sound, verdict.findings
    assert (verdict.height, verdict.blocks, verdict.states) == (BLOCKS, BLOCKS + 1, 6)
    assert verdict.buckets == sum(key.startswith(b"S") for key in BUILT)
    assert verdict.keys >= verdict.buckets
    assert all(books.is_conserved for books in verdict.books.values())
    assert sum(books.away for books in verdict.books.values()) == COIN
    assert said[0] == f"blocks down from {BLOCKS}"
    assert dict(store.iterate(b"")) == BUILT


def test_a_database_of_genesis_alone():
    world = World()
    verdict = verify(world.store)
    assert verdict.is_sound, verdict.findings
    assert (verdict.height, verdict.blocks, verdict.states) == (0, 1, 0)


@pytest.mark.parametrize("key", BUCKETS[:: max(1, len(BUCKETS) // 6)])
@pytest.mark.parametrize("offset", [0, 10, -1])
def test_a_flipped_bit_in_a_bucket(store, key, offset):
    flip(store, key, offset)
    index = int.from_bytes(key[3:], "big")
    verdict = verify(store)
    assert verdict.findings[0].what == "bucket"
    assert (verdict.findings[0].shard, verdict.findings[0].bucket) == (1, index)
    assert f"bucket {index} of shard 1" in verdict.findings[0].message
    # The shard's root differs with it, and nothing is said of other shards.
    assert {f.shard for f in verdict.findings} == {1}
    assert ("root", 1, None, BLOCKS) in get_places(verdict)


@pytest.mark.parametrize("shard", SPEC.first_layout.shard_ids)
def test_a_lost_bucket_names_its_shard(store, shard):
    key = next(key for key in BUILT if key.startswith(build_bucket_key(shard, 0)[:3]))
    store.write({key: None})
    places = get_places(verify(store))
    assert ("root", shard, None, BLOCKS) in places
    assert {place[1] for place in places if place[0] != "packet"} == {shard}


def test_atoms_out_of_nothing(store):
    """Somebody wrote himself a richer account, check and all."""
    key = BUCKETS[0]
    pairs = decode_bucket(store.get(key)[8:]) | {
        b"a" + bytes(32): encode((COIN, 0, ()))
    }
    data = encode_bucket(pairs)
    store.write({key: pack_bucket(data, compute_bucket_hash(data))})
    verdict = verify(store)
    whats = {finding.what for finding in verdict.findings}
    assert {"root", "books", "bucket"} <= whats  # it is not that key's bucket either
    assert not verdict.books[1].is_conserved


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (build_bucket_key(1, 4**9), "beyond"),
        (build_bucket_key(1, 0), "empty and stored"),
    ],
)
def test_a_bucket_that_should_not_be(store, key, problem):
    data = encode_bucket({} if problem.startswith("empty") else {b"k": b"v"})
    store.write({key: compute_bucket_hash(data)[:8] + data})
    assert problem in verify(store).findings[0].message


@pytest.mark.parametrize("height", [0, 3, BLOCKS])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_damaged_block_is_named(store, height, is_lost):
    key = build_key(b"B", (height, 8))
    if is_lost:
        store.write({key: None})
    else:
        flip(store, key, 100)
    verdict = verify(store)
    assert get_places(verdict) == {("block", None, None, height)}
    assert verdict.blocks == BLOCKS


def test_another_block_in_its_place(store):
    other = World()
    other.advance(other.sign(ALICE, Transfer(DAVE.public_key, 0, 7)), blocks=3)
    key = build_key(b"B", (3, 8))
    store.write({key: other.store.get(key)})
    (finding,) = verify(store).findings
    assert (finding.what, finding.height) == ("block", 3)
    assert "is not the one that its child" in finding.message


def test_a_lost_index_entry_and_certificate(store):
    (height_key,) = [
        key
        for key in BUILT
        if key.startswith(b"H") and BUILT[key] == (2).to_bytes(8, "big")
    ]
    store.write({height_key: None, build_key(b"F", (BLOCKS, 8)): None})
    assert get_places(verify(store)) == {
        ("block", None, None, 2),
        ("block", None, None, BLOCKS),
    }


def test_damaged_undo_is_named(store):
    world = World(store=store)
    (first, *rest) = get_undo(world.tree.state, 4, 1).buckets
    fake = encode_bucket({b"k": b"v"})
    for wrong in (encode(Undo(((first[0], fake), *rest))), b"\xff", None):
        store.write({build_undo_key(4, 1): wrong})
        assert get_places(verify(store)) == {("undo", 1, None, 4)}
    beyond = encode(Undo(((4**9, fake),)))
    store.write({build_undo_key(4, 1): beyond})
    assert get_places(verify(store)) == {("undo", 1, None, 4)}
    store.write({build_undo_key(4, 1): BUILT[build_undo_key(4, 1)]})
    flip(store, build_roots_key(5))
    assert get_places(verify(store)) == {("undo", None, None, 5)}


def test_damaged_books_are_named(store):
    key = build_books_key(2, BLOCKS)
    books = decode(Books, BUILT[key])
    # Balanced, and yet not what is there; and not even that.
    fake = msgspec.structs.replace(books, burned=books.burned + 5, minted=5)
    for wrong in (fake, Books(balances=books.balances)):
        store.write({key: encode(wrong)})
        assert ("books", 2, None, BLOCKS) in get_places(verify(store))
    store.write({key: BUILT[key], build_books_key(1, 2): b"\xff"})
    assert get_places(verify(store)) == {("books", 1, None, 2)}


def test_a_lost_packet(store):
    waiting = [key for key in BUILT if key[:1] == b"P" and b"Q" + key[1:] not in BUILT]
    assert len(waiting) == 1
    store.write({waiting[0]: None})
    verdict = verify(store)
    assert "is missing" in verdict.findings[0].message


@pytest.mark.parametrize(
    "changes",
    [
        {CHAIN_ID_KEY: bytes(32)},
        {FORMAT_KEY: b"0"},
        {TIP_KEY: None},
        {TIP_KEY: b"\xff"},
        {TIP_KEY: encode_tip(BLOCKS, bytes(32))},
    ],
)
def test_databases_that_are_none_of_ours(store, changes):
    store.write(changes)
    assert not verify(store).is_sound


def test_an_empty_database():
    (finding,) = verify(MemoryStore()).findings
    assert finding.what == "database"


def test_findings_are_bounded(store):
    data = encode_bucket({b"k": b"v"})
    check = compute_bucket_hash(data)[:8]
    store.write({build_bucket_key(1, i): check + data for i in range(2000)})
    assert len(verify(store).findings) <= MAX_FINDINGS + 1


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_on_the_disk(tmp_path, part):
    """LevelDB's own check finds it; each bucket that cannot be read is named."""
    with LevelStore(tmp_path) as disk:
        disk.write(BUILT, sync=True)
    with LevelStore(tmp_path):
        pass
    (file,) = tmp_path.glob("*.ldb")
    data = bytearray(file.read_bytes())
    data[int(len(data) * part)] ^= 1
    file.write_bytes(data)
    with LevelStore(tmp_path) as disk:
        verdict = verify(disk)
    assert not verdict.is_sound
    for finding in verdict.findings:
        assert finding.what in {"block", "bucket", "database", "root", "books", "undo"}
        assert finding.message
