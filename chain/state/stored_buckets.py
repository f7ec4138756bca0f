"""A bucket as the database has it: its bytes behind the first ones of their hash."""

from chain.errors import DamagedBucket
from chain.state.bucket_writes import NewBucket
from primitives.buckets import (
    EMPTY_BUCKET,
    EMPTY_BUCKET_HASH,
    compute_bucket_hash,
    encode_bucket,
)
from primitives.types import ShardId

CHECK_BYTES = 8
"""Of the bucket's hash, before the stored bucket: a flipped bit stays unnoticed once in
2^64; who changes a bucket on purpose is found by the root."""

EMPTY_BYTES = encode_bucket(EMPTY_BUCKET)

EMPTY_NEW_BUCKET = NewBucket(EMPTY_BUCKET, EMPTY_BYTES, EMPTY_BUCKET_HASH)


def build_bucket_key(shard: ShardId, index: int) -> bytes:
    """Return the database key of a bucket."""
    return b"S" + shard.to_bytes(2, "big") + index.to_bytes(4, "big")


def pack_bucket(data: bytes, digest: bytes) -> bytes | None:
    """Return what is stored of an encoded bucket; None: nothing, it is empty.

    Args:
        data: Its canonical bytes.
        digest: Their leaf hash.
    """
    return None if data == EMPTY_BYTES else digest[:CHECK_BYTES] + data


def unpack_bucket(shard: ShardId, index: int, stored: bytes) -> tuple[bytes, bytes]:
    """Return a stored bucket's canonical bytes and their leaf hash.

    Raises:
        DamagedBucket: Not what was stored.
    """
    data = stored[CHECK_BYTES:]
    digest = compute_bucket_hash(data)
    if digest[:CHECK_BYTES] != stored[:CHECK_BYTES]:
        raise DamagedBucket(shard, index, "does not have the hash it was stored with")
    return data, digest
