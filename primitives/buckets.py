"""
Bucket trees: a state root over a flat key-value map, with proofs both ways.

Theory of operation
-------------------
A key's hash names its bucket, one of 4^levels.  A bucket is the sorted list of its
pairs, stored and hashed as one value.  Above the bucket hashes stands a complete 4-ary
tree that lives in memory only:

    node 0 = root;  children of node n: 4n+1 .. 4n+4;  leaves = bucket hashes

Changing a key costs one bucket hash and one inner hash per level, shared by all
changes of a block.  One proof is a whole bucket and three siblings per level: since
the bucket is complete, it shows presence and absence alike.

A multiproof does the same for a set of buckets: every node that is beside a known one
and not known itself, level by level from the leaves up, ascending.  There is exactly
one for a set of bucket numbers.  `PartialTree` is a tree that knows only these, and
that is enough to change the buckets and to compute the root after the change.

A tree has its full size from the start, so most of a young one is empty.  What is
empty costs next to nothing: in a proof an empty subtree is a sibling of no bytes, and
in memory (primitives/treetable.py) it is memory never touched.

Nothing here stores anything.  The caller owns buckets and nodes and may keep them as
overlays: `compute_update` reads nodes through a callable and returns only what changed.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from primitives.codec import Record, encode
from primitives.errors import LocalError, RemoteError
from primitives.hashing import compute_hash

ARITY = 4
MAX_LEVELS = 9
"""4^9 = 2^18 buckets, 11 MB of hashes in memory per shard."""

HASH_BYTES = 32

Sibling = Annotated[bytes, Meta(max_length=HASH_BYTES)]
"""A node's hash in a proof; no bytes stand for a subtree without any key, and nothing
else may."""

Pair = tuple[bytes, bytes]
Bucket = Mapping[bytes, bytes]

EMPTY_BUCKET: Bucket = {}

_bucket_decoder = msgspec.msgpack.Decoder(tuple[tuple[bytes, bytes], ...])


class CorruptBucket(LocalError):
    """Stored bytes that are not a bucket."""


class InvalidMultiproof(RemoteError):
    """Hashes that are too many, too few, or not beside the buckets they came with."""


class BucketProof(Record):
    """A whole bucket and its way up to the root."""

    pairs: tuple[tuple[bytes, bytes], ...]
    """All pairs of the bucket, ascending by key."""
    siblings: Annotated[tuple[Sibling, ...], Meta(max_length=3 * MAX_LEVELS)]
    """Three per level from the leaves up, each group in order of position."""


def compute_bucket_count(levels: int) -> int:
    """Return how many buckets a tree of `levels` has."""
    return 1 << (2 * levels)


def compute_bucket_index(key: bytes, levels: int) -> int:
    """Return the number of the bucket that holds `key`."""
    head = int.from_bytes(compute_hash("bucket-key", key)[:4], "big")
    return head >> (32 - 2 * levels)


def encode_bucket(bucket: Bucket) -> bytes:
    """Return the bytes of a bucket: what is stored and hashed."""
    return encode(tuple(sorted(bucket.items())))


def decode_bucket(data: bytes) -> dict[bytes, bytes]:
    """Return the bucket that we stored as `data`.

    Raises:
        CorruptBucket: It is not one.
    """
    try:
        return dict(_bucket_decoder.decode(data))
    except msgspec.DecodeError as error:
        raise CorruptBucket(f"not a bucket: {error}") from error


def compute_bucket_hash(bucket_bytes: bytes) -> bytes:
    """Return the leaf hash of an encoded bucket."""
    return compute_hash("bucket", bucket_bytes)


EMPTY_BUCKET_HASH = compute_bucket_hash(encode_bucket(EMPTY_BUCKET))


def compute_leaf_node(index: int, levels: int) -> int:
    """Return the node number of bucket `index`."""
    return (compute_bucket_count(levels) - 1) // (ARITY - 1) + index


def compute_tree(leaves: Iterable[bytes], levels: int) -> list[bytes]:
    """Return all nodes over the given bucket hashes, by node number."""
    level = list(leaves)
    assert len(level) == compute_bucket_count(levels)
    rows = [level]
    while len(level) > 1:
        level = [_hash_node(level[i : i + ARITY]) for i in range(0, len(level), ARITY)]
        rows.append(level)
    return [node for row in reversed(rows) for node in row]


def compute_empty_tree(levels: int) -> list[bytes]:
    """Return all nodes of a tree without any key."""
    return [
        EMPTY_HASHES[levels - depth]
        for depth in range(levels + 1)
        for _ in range(compute_bucket_count(depth))
    ]


def compute_update(
    get_node: Callable[[int], bytes], dirty: Mapping[int, bytes], levels: int
) -> dict[int, bytes]:
    """Return every node that changes when buckets change.

    Args:
        get_node: Hash of a node before the change, by node number.
        dirty: New hash by bucket number.
        levels: Of the tree.
    """
    changed = {compute_leaf_node(i, levels): leaf for i, leaf in dirty.items()}
    row = set(changed)
    for _ in range(levels):
        row = {(node - 1) // ARITY for node in row}
        for node in row:
            first = ARITY * node + 1
            changed[node] = _hash_node(
                [
                    changed[child] if child in changed else get_node(child)
                    for child in range(first, first + ARITY)
                ]
            )
    return changed


def build_proof(
    get_node: Callable[[int], bytes], index: int, bucket: Bucket, levels: int
) -> BucketProof:
    """Return the proof of bucket `index`, good for every key that belongs in it."""
    siblings = []
    node = compute_leaf_node(index, levels)
    for height in range(levels):
        parent = (node - 1) // ARITY
        first = ARITY * parent + 1
        siblings += [
            _shorten(get_node(other), height)
            for other in range(first, first + ARITY)
            if other != node
        ]
        node = parent
    return BucketProof(tuple(sorted(bucket.items())), tuple(siblings))


def verify_proof(
    root: bytes, levels: int, key: bytes, value: bytes | None, proof: BucketProof
) -> bool:
    """Tell whether `key` has `value` under `root`; None means it is absent."""
    if not 0 <= levels <= MAX_LEVELS or len(proof.siblings) != 3 * levels:
        return False
    if any(left[0] >= right[0] for left, right in pairwise(proof.pairs)):
        return False
    bucket = dict(proof.pairs)
    if bucket.get(key) != value:
        return False
    index = compute_bucket_index(key, levels)
    node = compute_bucket_hash(encode_bucket(bucket))
    try:
        for height in range(levels):
            siblings = proof.siblings[3 * height : 3 * height + 3]
            group = [_expand(sibling, height) for sibling in siblings]
            group.insert(index % ARITY, node)
            node = _hash_node(group)
            index //= ARITY
    except InvalidMultiproof:
        return False
    return node == root


def build_multiproof(
    get_node: Callable[[int], bytes], indices: Iterable[int], levels: int
) -> tuple[bytes, ...]:
    """Return the hashes that lead from the buckets `indices` to the root.

    For no bucket at all that is the root itself.
    """
    return tuple(
        _shorten(get_node(node), height)
        for node, height in compute_multiproof_nodes(set(indices), levels)
    )


def compute_multiproof_nodes(
    indices: AbstractSet[int], levels: int
) -> list[tuple[int, int]]:
    """Return number and height above the buckets of a multiproof's nodes, in order."""
    row = {compute_leaf_node(index, levels) for index in indices}
    if not row:
        return [(0, levels)]
    siblings: list[tuple[int, int]] = []
    for height in range(levels):
        parents = sorted({(node - 1) // ARITY for node in row})
        siblings += [
            (child, height)
            for parent in parents
            for child in range(ARITY * parent + 1, ARITY * parent + ARITY + 1)
            if child not in row
        ]
        row = set(parents)
    return siblings


class PartialTree:
    """A tree of which only some buckets are known, and the way from them to the root.

    Everything in it may come from a stranger: compare `root` with one that is known
    before you believe any of it.
    """

    def __init__(
        self, leaves: Mapping[int, bytes], siblings: Sequence[bytes], levels: int
    ) -> None:
        """
        Args:
            leaves: Hash by bucket number.
            siblings: What `build_multiproof` returns for these buckets.
            levels: Of the tree; at most `MAX_LEVELS`.

        Raises:
            InvalidMultiproof: Too many or too few siblings, or no such bucket.
        """
        if not 0 <= levels <= MAX_LEVELS:
            raise InvalidMultiproof(f"{levels} levels")
        count = compute_bucket_count(levels)
        for index in leaves:
            if not 0 <= index < count:
                raise InvalidMultiproof(f"bucket {index} of {count}")
        # What is beside the buckets is at most three hashes per bucket and level, so
        # this work is bounded by the leaves, not by the siblings that came.
        places = compute_multiproof_nodes(leaves.keys(), levels)
        if len(places) != len(siblings):
            raise InvalidMultiproof(
                f"{len(siblings)} hashes beside the buckets, not {len(places)}"
            )
        self._levels = levels
        self._indices = frozenset(leaves)
        self._nodes = {
            node: _expand(sibling, height)
            for (node, height), sibling in zip(places, siblings, strict=True)
        }
        self._nodes |= compute_update(self._nodes.__getitem__, leaves, levels)

    @property
    def root(self) -> bytes:
        """The root, by what is known."""
        return self._nodes[0]

    def update(self, dirty: Mapping[int, bytes]) -> bytes:
        """Change buckets and return the new root.

        Args:
            dirty: New hash by number, of buckets that the tree knows.

        Raises:
            InvalidMultiproof: A bucket that it does not know.
        """
        for index in dirty:
            if index not in self._indices:
                raise InvalidMultiproof(f"bucket {index} is not in the multiproof")
        if dirty:
            self._nodes |= compute_update(self._nodes.__getitem__, dirty, self._levels)
        return self.root


def _shorten(digest: bytes, height: int) -> bytes:
    """Return a node's hash as a proof has it."""
    return b"" if digest == EMPTY_HASHES[height] else digest


def _expand(sibling: bytes, height: int) -> bytes:
    """Return the hash that a sibling in a proof stands for.

    Raises:
        InvalidMultiproof: Not of 32 bytes, or an empty subtree's hash written out.
    """
    if not sibling:
        return EMPTY_HASHES[height]
    if len(sibling) != HASH_BYTES:
        raise InvalidMultiproof(f"a hash of {len(sibling)} bytes")
    if sibling == EMPTY_HASHES[height]:
        raise InvalidMultiproof("the hash of an empty subtree, written out")
    return sibling


def _hash_node(children: Sequence[bytes]) -> bytes:
    return compute_hash("bucket-node", *children)


def _compute_empty_hashes() -> tuple[bytes, ...]:
    hashes = [EMPTY_BUCKET_HASH]
    for _ in range(MAX_LEVELS):
        hashes.append(_hash_node([hashes[-1]] * ARITY))
    return tuple(hashes)


EMPTY_HASHES = _compute_empty_hashes()
"""Hash of a subtree without any key, by its height above the buckets."""
