"""Bucket trees against a model that knows nothing of trees."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.buckets import (
    EMPTY_BUCKET_HASH,
    MAX_LEVELS,
    BucketProof,
    CorruptBucket,
    build_proof,
    compute_bucket_count,
    compute_bucket_hash,
    compute_bucket_index,
    compute_empty_tree,
    compute_leaf_node,
    compute_tree,
    compute_update,
    decode_bucket,
    encode_bucket,
    verify_proof,
)
from primitives.codec import decode, encode
from primitives.hashing import compute_hash

LEVELS = 2
keys = st.binary(min_size=1, max_size=3)
values = st.binary(max_size=3)
changes = st.dictionaries(keys, st.one_of(st.none(), values), max_size=12)


def compute_naive_root(pairs: dict[bytes, bytes], levels: int) -> bytes:
    """Return the root by the definition: all buckets, all nodes, every time."""
    count = 4**levels
    nodes = []
    for number in range(count):
        bucket = sorted(
            (k, v)
            for k, v in pairs.items()
            if int.from_bytes(compute_hash("bucket-key", k), "big") * count >> 256
            == number
        )
        nodes.append(compute_hash("bucket", encode(tuple(bucket))))
    while len(nodes) > 1:
        nodes = [
            compute_hash("bucket-node", *nodes[i : i + 4])
            for i in range(0, len(nodes), 4)
        ]
    return nodes[0]


class Tree:
    """A whole tree in memory, updated as the chain does it."""

    def __init__(self, levels: int = LEVELS):
        self.levels = levels
        self.nodes = compute_empty_tree(levels)
        self.buckets: dict[int, dict[bytes, bytes]] = {}

    def apply(self, update: dict[bytes, bytes | None]) -> None:
        dirty = {}
        for key, value in update.items():
            index = compute_bucket_index(key, self.levels)
            bucket = self.buckets.setdefault(index, {})
            if value is None:
                bucket.pop(key, None)
            else:
                bucket[key] = value
            dirty[index] = compute_bucket_hash(encode_bucket(bucket))
        for node, digest in compute_update(self.get_node, dirty, self.levels).items():
            self.nodes[node] = digest

    def get_node(self, node: int) -> bytes:
        return self.nodes[node]

    @property
    def root(self) -> bytes:
        return self.nodes[0]

    def prove(self, key: bytes) -> BucketProof:
        index = compute_bucket_index(key, self.levels)
        bucket = self.buckets.get(index, {})
        return build_proof(self.get_node, index, bucket, self.levels)


@given(st.lists(changes, max_size=5), st.integers(0, 3))
def test_incremental_roots_are_the_naive_ones(updates, levels):
    tree, model = Tree(levels), {}
    for update in updates:
        tree.apply(update)
        for key, value in update.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        assert tree.root == compute_naive_root(model, levels)
        leaves = [
            compute_bucket_hash(encode_bucket(tree.buckets.get(i, {})))
            for i in range(compute_bucket_count(levels))
        ]
        assert compute_tree(leaves, levels) == tree.nodes


@given(changes, keys, values)
def test_a_proof_shows_what_is_there_and_nothing_else(update, key, other):
    tree = Tree()
    tree.apply(update)
    proof = tree.prove(key)
    value = update.get(key)
    assert verify_proof(tree.root, LEVELS, key, value, proof)
    if other != value:
        assert not verify_proof(tree.root, LEVELS, key, other, proof)
    if value is not None:
        assert not verify_proof(tree.root, LEVELS, key, None, proof)
    assert decode(BucketProof, encode(proof)) == proof


@given(changes, keys, keys)
def test_a_proof_is_for_keys_of_its_bucket(update, key, other):
    """Another bucket's proof must not show that a key is absent."""
    tree = Tree()
    tree.apply(update | {key: b"here"})
    is_same = compute_bucket_index(key, LEVELS) == compute_bucket_index(other, LEVELS)
    proof = tree.prove(other)
    assert verify_proof(tree.root, LEVELS, key, b"here", proof) == is_same
    assert not verify_proof(tree.root, LEVELS, key, None, proof)


@pytest.fixture
def tree():
    tree = Tree(5)
    tree.apply({bytes([i]): bytes([i]) for i in range(200)})
    return tree


@pytest.mark.parametrize(
    "mangle",
    [
        lambda proof: {"siblings": proof.siblings[:-1]},
        lambda proof: {"siblings": (*proof.siblings, bytes(32))},
        lambda proof: {"siblings": (bytes(32), *proof.siblings[1:])},
        lambda proof: {"siblings": proof.siblings[::-1]},
        lambda proof: {"pairs": (*proof.pairs, (b"\xff" * 4, b"x"))},
        lambda proof: {"pairs": proof.pairs * 2},
        lambda proof: {"pairs": ()},
    ],
)
def test_mangled_proofs(tree, mangle):
    proof = tree.prove(b"\x07")
    assert verify_proof(tree.root, 5, b"\x07", b"\x07", proof)
    wrong = msgspec.structs.replace(proof, **mangle(proof))
    assert not verify_proof(tree.root, 5, b"\x07", b"\x07", wrong)
    assert not verify_proof(tree.root, 4, b"\x07", b"\x07", proof)
    assert not verify_proof(bytes(32), 5, b"\x07", b"\x07", proof)
    assert not verify_proof(tree.root, MAX_LEVELS + 1, b"\x07", b"\x07", proof)


def test_an_emptied_tree_is_an_empty_tree(tree):
    tree.apply({bytes([i]): None for i in range(200)})
    assert tree.nodes == compute_empty_tree(5)
    assert tree.nodes[compute_leaf_node(0, 5)] == EMPTY_BUCKET_HASH


@given(st.dictionaries(keys, values))
def test_buckets_round_trip_and_do_not_depend_on_order(bucket):
    data = encode_bucket(bucket)
    assert decode_bucket(data) == bucket
    assert encode_bucket(dict(reversed(bucket.items()))) == data


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x91\x01", b"\x91\x92\xc4\x01a"])
def test_bytes_that_are_no_bucket(data):
    with pytest.raises(CorruptBucket):
        decode_bucket(data)


def test_keys_spread_over_the_buckets():
    counts = [0] * 1024
    for number in range(20_000):
        counts[compute_bucket_index(number.to_bytes(4, "big"), 5)] += 1
    assert max(counts) < 50
    assert min(counts) > 3
