"""The state of all shards against dictionaries, and when its database is damaged."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import DamagedBucket
from chain.state.bucket_cache import ENTRY_BYTES, BucketCache
from chain.state.state import StateView
from chain.state.stored_buckets import build_bucket_key
from chain.storage.final_state import FinalState
from primitives.buckets import (
    compute_bucket_hash,
    compute_bucket_index,
    compute_empty_tree,
    compute_leaf_node,
    compute_update,
    encode_bucket,
    verify_proof,
)
from primitives.kv import MemoryStore

LEVELS = 2
SHARDS = (0, 3)
keys = st.binary(min_size=1, max_size=2)
writes = st.dictionaries(
    st.sampled_from(SHARDS),
    st.dictionaries(keys, st.one_of(st.none(), st.binary(max_size=3)), max_size=8),
)
blocks = st.lists(
    st.tuples(writes, st.integers(0, 2), st.booleans()), min_size=1, max_size=12
)


def compute_root(pairs: dict[bytes, bytes]) -> bytes:
    """Return the root by all buckets at once."""
    buckets: dict[int, dict[bytes, bytes]] = {}
    for key, value in pairs.items():
        buckets.setdefault(compute_bucket_index(key, LEVELS), {})[key] = value
    tree = compute_empty_tree(LEVELS)
    dirty = {i: compute_bucket_hash(encode_bucket(b)) for i, b in buckets.items()}
    return compute_update(tree.__getitem__, dirty, LEVELS)[0] if dirty else tree[0]


def apply(pairs: dict[bytes, bytes], changes) -> dict[bytes, bytes]:
    merged = pairs | changes
    return {key: value for key, value in merged.items() if value is not None}


class Chain:
    """A line of pending views over a final state, and what they should hold."""

    def __init__(self):
        self.store = MemoryStore()
        self.final = FinalState(self.store, SHARDS, LEVELS)
        self.views = [StateView.from_final(self.final)]
        self.models = [{shard: {} for shard in SHARDS}]

    def grow(self, changes) -> None:
        self.views.append(self.views[-1].compute_child(changes))
        model = self.models[-1]
        self.models.append(
            {shard: apply(model[shard], changes.get(shard, {})) for shard in SHARDS}
        )

    def finalize(self, count: int) -> None:
        """Make the oldest pending views final, as chain/tree/finality.py does."""
        chain = self.views[1 : count + 1]
        changes: dict[bytes, bytes | None] = {}
        for view in chain:
            changes |= self.final.compute_changes(view)
        self.store.write(changes, sync=True)
        for view in chain:
            self.final.fold(view)
        del self.views[:count], self.models[:count]
        if chain:
            self.views[0] = StateView.from_final(self.final)
            for view in self.views[1:2]:
                view.parent = self.final

    def reopen(self) -> None:
        self.final = FinalState(self.store, SHARDS, LEVELS)
        self.final.load()
        del self.models[1:]
        self.views = [StateView.from_final(self.final)]

    def check(self, asked: list[bytes]) -> None:
        for view, model in zip(self.views, self.models, strict=True):
            for shard, pairs in model.items():
                root = compute_root(pairs)
                assert view.get_root(shard) == root == view.get_node(shard, 0)
                for key in {*asked, *pairs}:
                    value = pairs.get(key)
                    assert view.get(shard, key) == value
                    index = compute_bucket_index(key, LEVELS)
                    data = view.get_bucket_bytes(shard, index)
                    assert data == encode_bucket(view.get_bucket(shard, index))
                    leaf = view.get_node(shard, compute_leaf_node(index, LEVELS))
                    assert leaf == compute_bucket_hash(data)
                    proof = view.build_proof(shard, key)
                    assert verify_proof(root, LEVELS, key, value, proof)


@settings(max_examples=60)
@given(blocks, st.lists(keys, max_size=4))
def test_views_hold_what_dictionaries_hold(plan, asked):
    chain = Chain()
    for changes, final, is_reopened in plan:
        chain.grow(changes)
        chain.check(asked)
        chain.finalize(min(final, len(chain.views) - 1))
        if is_reopened:
            chain.reopen()
        chain.check(asked)


@given(st.lists(writes, min_size=2, max_size=5))
def test_squashed_views_are_one_overlay(changes):
    chain = Chain()
    for some in changes:
        chain.grow(some)
    base, tip = chain.views[0], chain.views[-1]
    one = tip.squash(base)
    assert one.parent is base
    assert one.get_roots() == tip.get_roots()
    for shard, pairs in chain.models[-1].items():
        for key, value in pairs.items():
            assert one.get(shard, key) == value
    again = chain.views[1].squash(base)
    assert again.get_roots() == chain.views[1].get_roots()


@given(st.lists(writes, min_size=4, max_size=8), st.integers(1, 3))
def test_what_did_not_change_is_not_kept(changes, at):
    """The database holds no empty bucket, and the same after any history."""
    chain = Chain()
    for some in changes:
        chain.grow(some)
    expected = chain.models[-1]
    chain.finalize(at)
    chain.finalize(len(chain.views) - 1)
    once = Chain()
    once.grow(expected)
    once.finalize(1)
    assert dict(chain.store.iterate(b"")) == dict(once.store.iterate(b""))


# ---------------------------------------------------------------------- damage


@pytest.fixture
def chain():
    chain = Chain()
    chain.grow({3: {bytes([i]): bytes([i]) for i in range(100)}})
    chain.finalize(1)
    return chain


KEY = build_bucket_key(3, 5)


def read_cold(chain: Chain) -> None:
    """Read bucket 5 of a state whose cache has forgotten it."""
    chain.final._cache.clear()
    chain.final.get_bucket(3, 5)


@pytest.mark.parametrize("offset", [0, 7, 8, 20, -1])
def test_a_flipped_bit_in_a_stored_bucket_is_named(chain, offset):
    read_cold(chain)
    stored = bytearray(chain.store.get(KEY))
    stored[offset] ^= 64
    chain.store.write({KEY: bytes(stored)}, sync=True)
    for read in (lambda: read_cold(chain), chain.reopen):
        with pytest.raises(DamagedBucket, match="bucket 5 of shard 3 does not") as info:
            read()
        assert (info.value.shard, info.value.index) == (3, 5)


@pytest.mark.parametrize("other", [None, build_bucket_key(3, 6)])
def test_a_bucket_that_is_sound_and_not_the_right_one(chain, other):
    """Lost, or another's: a running node knows by its tree, an opening one by roots."""
    root = chain.final.get_root(3)
    stored = None if other is None else chain.store.get(other)
    chain.store.write({KEY: stored}, sync=True)
    with pytest.raises(DamagedBucket, match="bucket 5 of shard 3 is not the one"):
        read_cold(chain)
    chain.reopen()
    assert chain.final.get_root(3) != root


def test_a_bucket_beyond_the_tree(chain):
    chain.store.write({build_bucket_key(3, 16): chain.store.get(KEY)}, sync=True)
    with pytest.raises(DamagedBucket, match="bucket 16 of shard 3 is beyond the 16"):
        chain.reopen()


# ----------------------------------------------------------------------- cache


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), max_size=60))
def test_the_cache_stays_within_its_bytes_and_drops_the_oldest(steps):
    limit = 3 * (ENTRY_BYTES + 300)
    cache = BucketCache(limit)
    model: dict[tuple[int, int], bytes] = {}
    for index, size in steps:
        place = (0, index)
        if size % 3 == 0:
            found = cache.get(place)
            assert found == model.get(place)
            if found is not None:
                model[place] = model.pop(place)
        else:
            model.pop(place, None)
            model[place] = bytes(size)
            cache.put(place, bytes(size))
            while sum(len(d) + ENTRY_BYTES for d in model.values()) > limit:
                del model[next(iter(model))]
        assert cache.size == sum(len(d) + ENTRY_BYTES for d in model.values()) <= limit
    cache.clear()
    assert cache.size == 0
    assert all(cache.get(place) is None for place in model)
