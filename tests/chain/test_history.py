"""States of the past, and the books of every height."""

from random import Random

import msgspec
import pytest
from chain_world import ALICE, BOB, CAROL, COIN, DAVE, SPEC, World
from proof_checks import verify_state_proof

from chain.checks.conservation import compute_conservation, get_conservation
from chain.errors import HistoryAbsent, PrunedState, StoreError
from chain.queries.queries import Queries
from chain.records.keys import build_account_key
from chain.records.transfer import Transfer
from chain.storage import history as history_module
from chain.storage.books import get_books
from chain.storage.history import Undo, build_undo_key, get_undo
from p2pchain.sim.chains.committee import hand_bodies
from primitives import bls
from primitives.buckets import decode_bucket, encode_bucket
from primitives.codec import encode

LEVELS = SPEC.params.bucket_levels
SHARDS = SPEC.first_layout.shard_ids
PEOPLE = (ALICE, BOB, CAROL)


@pytest.fixture(autouse=True)
def few_states(monkeypatch):
    """Keep eight states, so that a short chain has lost some."""
    monkeypatch.setattr(history_module, "STATES", 8)


def transact(world: World, luck: Random) -> list:
    """Return a few transfers, some to other shards."""
    return [
        world.sign(
            luck.choice(PEOPLE),
            Transfer(DAVE.public_key, luck.choice(SHARDS), luck.randrange(1, COIN)),
            luck.choice(SHARDS),
        )
        for _ in range(luck.randrange(4))
    ]


def dump(world: World) -> dict[int, dict[bytes, bytes]]:
    """Return all of the final state, by shard."""
    return {
        shard: {
            key: value
            for _, data, _ in world.tree.state.iterate_buckets(shard)
            for key, value in decode_bucket(data).items()
        }
        for shard in SHARDS
    }


class Record:
    """What the chain was at every height."""

    def __init__(self, world: World):
        self.world = world
        self.states = {0: dump(world)}
        self.books = {0: compute_conservation(world.tree)}

    def note(self) -> None:
        height = self.world.tree.final_height
        self.states[height] = dump(self.world)
        self.books[height] = compute_conservation(self.world.tree)

    def check_proofs(self, height: int) -> None:
        """Ask for every key of the state after a block, and for one that is absent."""
        queries = Queries(self.world.tree)
        for shard, pairs in self.states[height].items():
            for key in [*pairs, build_account_key(DAVE.public_key), b"nothing"]:
                proof = queries.states.build_state_proof(shard, key, height)
                assert proof.header.height == height
                assert proof.value == pairs.get(key)
                if height:
                    assert check(proof), (height, shard, key)


def check(proof) -> bool:
    return verify_state_proof(proof, SPEC.chain_id, LEVELS, SPEC.first_validators, bls)


@pytest.mark.parametrize("seed", range(3))
def test_the_last_states_are_what_they_were(seed):
    luck = Random(seed)
    world = World()
    record = Record(world)
    for _ in range(14):
        world.advance(*transact(world, luck))
        record.note()
        if luck.random() < 0.2:
            world.reopen()
    last = world.tree.final_height
    # Backwards and forwards, so that views are built and found again.
    for height in (*range(last, last - 8, -1), *range(last - 7, last + 1)):
        record.check_proofs(height)
    for height in (last - 8, 0, last + 1):
        with pytest.raises(PrunedState) as caught:
            Queries(world.tree).states.build_state_proof(1, b"key", height)
        error = caught.value
        assert (error.oldest, error.newest) == (last - 7, last)
    # Nothing is left of what was dropped.
    heights = {int.from_bytes(key[1:9], "big") for key, _ in world.store.iterate(b"u")}
    assert heights == set(range(last - 6, last + 1))


def test_a_young_chain_has_all_its_states():
    world = World()
    record = Record(world)
    record.check_proofs(0)
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 1, 5)))
    record.note()
    world.advance()
    record.note()
    for height in range(3):
        record.check_proofs(height)


def test_a_view_of_the_past_stays_what_it_is():
    luck = Random(7)
    world = World()
    record = Record(world)
    for _ in range(3):
        world.advance(*transact(world, luck))
        record.note()
    height = world.tree.final_height - 1
    views = {
        (at, shard): world.tree.history.get_view(at, shard, world.tree.final_height)
        for at in (height, height + 1)
        for shard in SHARDS
    }
    roots = {place: view.get_root(place[1]) for place, view in views.items()}
    for _ in range(12):
        world.advance(*transact(world, luck))
        for (at, shard), view in views.items():
            assert view.get_root(shard) == roots[at, shard]
            for key, value in record.states[at][shard].items():
                assert view.get(shard, key) == value
    # Also its nodes: a proof in it is good, and a change leads where it led then.
    for (at, shard), view in views.items():
        key = next(iter(record.states[at][shard]))
        child = view.compute_child({shard: {key: b"changed", b"new": b"new"}})
        back = child.compute_child(
            {shard: {key: record.states[at][shard][key], b"new": None}}
        )
        assert back.get_root(shard) == roots[at, shard] != child.get_root(shard)


def test_blocks_that_one_certificate_makes_final():
    """Those below the certified one are proven through their descendants."""
    luck = Random(3)
    other, world = World(), World()
    record = Record(other)
    for _ in range(12):
        blocks = [other.build(*transact(other, luck))]
        other.finalize(blocks[0])
        record.note()
        hand_bodies(blocks[0], world.tree)
        world.tree.add(blocks[0].block_bytes, other.now_ms)
    (*_, last) = world.tree.pending
    world.finalize(last)
    assert dump(world) == dump(other)
    record.world = world
    for height in range(5, 13):
        record.check_proofs(height)
        assert get_conservation(world.tree, height) == record.books[height]
    with pytest.raises(PrunedState):
        world.tree.history.get_view(4, 1, 12)
    proof = Queries(world.tree).states.build_state_proof(1, b"nothing", 9)
    assert len(proof.descendants) == 3
    for wrong in ((), proof.descendants[1:], proof.descendants[::-1]):
        assert not check(msgspec.structs.replace(proof, descendants=wrong))


def test_damaged_undo_is_noticed():
    world = World()
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 0, 5)), blocks=2)
    key = build_undo_key(1, 0)
    (first, data), *rest = get_undo(world.tree.state, 1, 0).buckets
    for wrong, message in [
        (encode(Undo(((first, encode_bucket({b"a": b"b"})), *rest))), "another root"),
        (encode(Undo(((first, b"\xff" + data), *rest))), "damaged undo in shard 0"),
        (b"\xff", "damaged undo of block 1"),
        (None, "another root"),
    ]:
        world.store.write({key: wrong}, sync=True)
        world.reopen()
        with pytest.raises(StoreError, match=message):
            world.tree.history.get_view(0, 0, 2)


@pytest.mark.parametrize("seed", range(3))
def test_books_of_every_height_are_what_counting_gave(seed):
    luck = Random(seed + 100)
    world = World()
    record = Record(world)
    under_way = 0
    for _ in range(20):
        world.advance(*transact(world, luck))
        record.note()
        under_way += bool(record.books[world.tree.final_height].away)
        if luck.random() < 0.2:
            world.reopen()
    assert under_way > 3
    for height, books in record.books.items():
        assert get_conservation(world.tree, height) == books
        assert books.is_conserved
        for shard in SHARDS:
            assert get_books(world.tree.state, shard, height).is_conserved
    assert get_conservation(world.tree) == record.books[20]


def test_books_that_are_not_here_are_counted():
    """As after a snapshot, which brings no history."""
    world = World()
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 1, 5)))
    expected = compute_conservation(world.tree)
    world.store.write({key: None for key, _ in world.store.iterate(b"J")}, sync=True)
    assert get_conservation(world.tree) == expected
    with pytest.raises(HistoryAbsent):
        get_conservation(world.tree, 0)
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 0, 5)))
    world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, 5), 1))
    assert compute_conservation(world.tree).is_conserved


def test_a_state_is_built_in_slices_while_blocks_go_on(monkeypatch):
    monkeypatch.setattr(history_module, "SLICE_BUCKETS", 2)
    luck = Random(5)
    world = World()
    record = Record(world)
    for _ in range(6):
        world.advance(*transact(world, luck))
        record.note()
    last = world.tree.final_height
    queries = Queries(world.tree)
    slices = {
        (shard, height): queries.states.prepare_state(shard, height)
        for shard in SHARDS[:2]
        for height in (last - 3, last - 1)
    }
    count = 0
    while slices:
        # Everybody in turn, and a block now and then.
        for place in list(slices):
            count += 1
            if next(slices[place], "ready") == "ready":
                del slices[place]
        if count % 8 == 0 and world.tree.final_height < last + 3:
            world.advance(*transact(world, luck))
            record.note()
    assert count > 16
    for height in range(last - 3, world.tree.final_height + 1):
        record.check_proofs(height)


def test_a_state_that_goes_while_it_is_built_is_missing_for_its_askers_alone():
    world = World()
    record = Record(world)
    for number in range(8):
        payload = Transfer(DAVE.public_key, 1, number + 1)
        world.advance(world.sign(PEOPLE[number % 3], payload, 1))
        record.note()
    last = world.tree.final_height
    queries = Queries(world.tree)
    old = queries.states.prepare_state(1, last - 7)
    next(old)
    for _ in range(9):
        world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 1, 5), 1))
        record.note()
    # Whoever comes next carries it on and does not get to hear of its end.
    record.check_proofs(last + 5)
    with pytest.raises(PrunedState):
        list(old)
    record.check_proofs(last + 8)
