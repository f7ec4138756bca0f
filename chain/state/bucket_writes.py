"""What writes do to a shard's buckets: the same for full states and for witnesses."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from primitives.buckets import (
    Bucket,
    compute_bucket_hash,
    encode_bucket,
)


class NewBucket(NamedTuple):
    """A bucket after a change, in all the forms that somebody needs."""

    pairs: Bucket
    data: bytes
    """Its canonical bytes: what is stored and hashed."""
    digest: bytes
    """Its leaf hash."""


def build_new_bucket(pairs: Bucket) -> NewBucket:
    """Return the bucket of these pairs."""
    data = encode_bucket(pairs)
    return NewBucket(pairs, data, compute_bucket_hash(data))


def compute_new_buckets(
    get_index: Callable[[bytes], int],
    get_bucket: Callable[[int], Bucket],
    writes: Mapping[bytes, bytes | None],
) -> dict[int, NewBucket]:
    """Return every bucket that the writes touch, as it is afterwards.

    Args:
        get_index: Number of the bucket that holds a key.
        get_bucket: A bucket before the writes, by number.
        writes: New value by key; None deletes.
    """
    changed: dict[int, dict[bytes, bytes]] = {}
    for key, value in writes.items():
        index = get_index(key)
        bucket = changed.get(index)
        if bucket is None:
            bucket = changed[index] = dict(get_bucket(index))
        if value is None:
            bucket.pop(key, None)
        else:
            bucket[key] = value
    return {index: build_new_bucket(pairs) for index, pairs in changed.items()}
