"""
One shard's state before a chunk, wherever it comes from.

Rules ask for keys, changing buckets asks for buckets, and both ask for the same few
again and again while a chunk runs; `BucketReader` numbers each key and decodes each
bucket once.  A reader lives as long as its chunk.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from chain.state.state import StateView
from primitives.buckets import Bucket, compute_bucket_index
from primitives.types import ShardId


class ChunkState(Protocol):
    """What executing a chunk needs of a state."""

    @property
    def levels(self) -> int:
        """Of the shard's bucket tree."""

    def prepare(self, keys: Iterable[bytes]) -> None:
        """Hear, once and before anything is read, what probably will be read."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""

    def get_index(self, key: bytes) -> int:
        """Return the number of the bucket that holds `key`."""

    def get_bucket(self, index: int) -> Bucket:
        """Return a whole bucket; must not be changed."""


class BucketReader:
    """A `ChunkState` over whatever has buckets."""

    def __init__(self, levels: int, read_bucket: Callable[[int], Bucket]) -> None:
        """
        Args:
            levels: Of the shard's bucket tree.
            read_bucket: Returns a bucket before the chunk, by number.
        """
        self._levels = levels
        self._read_bucket = read_bucket
        self._indices: dict[bytes, int] = {}
        self._buckets: dict[int, Bucket] = {}

    @property
    def levels(self) -> int:
        """Of the shard's bucket tree."""
        return self._levels

    def prepare(self, keys: Iterable[bytes]) -> None:
        """Do nothing: everything is at hand."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        return self.get_bucket(self.get_index(key)).get(key)

    def get_index(self, key: bytes) -> int:
        """Return the number of the bucket that holds `key`."""
        index = self._indices.get(key)
        if index is None:
            index = self._indices[key] = compute_bucket_index(key, self._levels)
        return index

    def get_bucket(self, index: int) -> Bucket:
        """Return a whole bucket; must not be changed."""
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = self._read_bucket(index)
        return bucket


class ShardState(BucketReader):
    """One shard of a view: what a node has that holds the state."""

    def __init__(self, view: StateView, shard: ShardId) -> None:
        super().__init__(view.get_levels(shard), partial(view.get_bucket, shard))
        self.view = view
        """The state after some block, or something over it."""
        self.shard = shard

    def get_bucket_bytes(self, index: int) -> bytes:
        """Return a bucket's canonical bytes."""
        return self.view.get_bucket_bytes(self.shard, index)

    def get_node(self, node: int) -> bytes:
        """Return the hash of a node of the shard's tree."""
        return self.view.get_node(self.shard, node)
