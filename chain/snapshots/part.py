"""
Parts of a snapshot: the buckets of a subtree, as they travel.

A part carries its buckets whole and no hashes: whoever takes it hashes them and wants
the subtree's root.  Reading from a database comes in slices, because a node that serves
parts also votes.

Spec: docs/protocol/14-state-sync.md
"""

from collections.abc import Iterator
from itertools import pairwise

from chain.errors import InvalidSnapshot, SnapshotUnavailable
from chain.snapshots.snapshot import MAX_PART_BYTES, PartPlace
from chain.state.stored_buckets import EMPTY_BYTES, build_bucket_key, unpack_bucket
from primitives.buckets import compute_bucket_hash
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.kv import KeyValueReader
from primitives.treetable import TreeTable
from primitives.types import U32, ShardId

BUCKET_OVERHEAD = 16
"""Bytes beside a bucket's own in an encoded part."""
SLICE = 64
"""Buckets read at a time: well below a millisecond."""


class PlacedBucket(Record):
    """A bucket that is not empty."""

    index: U32
    """Its number in the tree."""
    data: bytes
    """Its canonical bytes, which are stored and hashed."""


class PartBody(Record):
    """A part as it travels."""

    buckets: tuple[PlacedBucket, ...]
    """Ascending by index."""


def read_part(
    store: KeyValueReader, shard: ShardId, first: int, count: int
) -> Iterator[bytes | None]:
    """Read a part; yield None after every slice, and the encoded part last.

    Args:
        store: The database as it was after the snapshot's block.
        shard: Of the tree.
        first: Number of the part's first bucket.
        count: How many buckets it spans.

    Raises:
        SnapshotUnavailable: It is longer than `MAX_PART_BYTES`.
        DamagedBucket: The database has one that we did not write like this.
    """
    buckets: list[PlacedBucket] = []
    size = 0
    start = build_bucket_key(shard, first)
    for key, stored in store.iterate(start[:3], start=start):
        index = int.from_bytes(key[3:], "big")
        if index >= first + count:
            break
        data, _ = unpack_bucket(shard, index, stored)
        size += len(data) + BUCKET_OVERHEAD
        if size > MAX_PART_BYTES:
            raise SnapshotUnavailable(f"a part of {size} bytes")
        buckets.append(PlacedBucket(index, data))
        if len(buckets) % SLICE == 0:
            yield None
    yield encode(PartBody(tuple(buckets)))


def validate_part(place: PartPlace, data: bytes) -> PartBody:
    """Return a part's buckets once they hash to what the manifest says.

    Raises:
        InvalidSnapshot: They do not, or these are no buckets at all.
    """
    try:
        body = decode(PartBody, data, MAX_PART_BYTES)
    except DecodeError as error:
        raise InvalidSnapshot(f"not a part: {error}") from error
    if any(left.index >= right.index for left, right in pairwise(body.buckets)):
        raise InvalidSnapshot("buckets out of order")
    leaves = []
    for bucket in body.buckets:
        offset = bucket.index - place.first
        if not 0 <= offset < place.count:
            raise InvalidSnapshot(f"bucket {bucket.index} is not of this part")
        if bucket.data == EMPTY_BYTES:
            raise InvalidSnapshot(f"bucket {bucket.index} is empty, written out")
        leaves.append((offset, compute_bucket_hash(bucket.data)))
    table = TreeTable(place.levels - place.depth)
    table.load(leaves)
    if table.root != place.digest:
        raise InvalidSnapshot("the buckets do not hash to the part's root")
    return body
