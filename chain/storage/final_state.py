"""
The state after the last final block: its buckets on disk, its trees in memory.

See chain/state/state.py for how views stand on it.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from weakref import WeakSet

from chain.errors import DamagedBucket, ShardNotFollowed
from chain.state.bucket_cache import BucketCache
from chain.state.state import StateView
from chain.state.stored_buckets import (
    EMPTY_BYTES,
    build_bucket_key,
    pack_bucket,
    unpack_bucket,
)
from primitives.buckets import (
    EMPTY_BUCKET_HASH,
    Bucket,
    compute_bucket_count,
    decode_bucket,
)
from primitives.kv import KeyValueStore
from primitives.treetable import TreeTable
from primitives.types import ShardId


class FinalState:
    """The state at the final block, over a store."""

    def __init__(
        self,
        store: KeyValueStore,
        shards: tuple[ShardId, ...],
        levels: int,
        told: Mapping[ShardId, bytes] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            store: Where buckets are; empty ones are absent.
            shards: Of the layout.
            levels: Of every shard's bucket tree.
            told: Roots of the shards that are not followed: all that is here of them.
        """
        self.levels = levels
        self.shards = shards
        self.store = store
        self._told = dict(told)
        self.coming: ShardId | None = None
        """The shard that is told and on its way here, if one is."""
        self._tables = {s: TreeTable(levels) for s in shards if s not in told}
        self._no_table = TreeTable(levels)
        self._cache = BucketCache()
        self._past: WeakSet[StateView] = WeakSet()

    def load(self) -> None:
        """Read every bucket once and compute the trees from them.

        Raises:
            DamagedBucket: One that we did not write like this.
        """
        self._cache.clear()
        for shard, table in self._tables.items():
            table.load(
                (index, digest) for index, _, digest in self.iterate_buckets(shard)
            )

    def iterate_buckets(self, shard: ShardId) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield number, canonical bytes and hash of every stored bucket, ascending.

        Raises:
            DamagedBucket: One that we did not write like this.
        """
        count = compute_bucket_count(self.levels)
        for key, stored in self.store.iterate(build_bucket_key(shard, 0)[:3]):
            index = int.from_bytes(key[3:], "big")
            if index >= count:
                raise DamagedBucket(shard, index, f"is beyond the {count} of the tree")
            data, digest = unpack_bucket(shard, index, stored)
            yield index, data, digest

    def get_bucket(self, shard: ShardId, index: int) -> Bucket:
        """Return a bucket.

        Raises:
            DamagedBucket: The database does not have the tree's.
        """
        return decode_bucket(self.get_bucket_bytes(shard, index))

    def get_bucket_bytes(self, shard: ShardId, index: int) -> bytes:
        """Return a bucket's canonical bytes.

        Raises:
            ShardNotFollowed: The state is not here.
            DamagedBucket: The database does not have the tree's.
        """
        if shard in self._told:
            raise ShardNotFollowed(shard, is_coming=shard == self.coming)
        place = (shard, index)
        data = self._cache.get(place)
        if data is None:
            data = self._read_bucket(shard, index)
            self._cache.put(place, data)
        return data

    @property
    def followed(self) -> tuple[ShardId, ...]:
        """The shards whose state is here, ascending."""
        return tuple(sorted(self._tables))

    def get_group(self, shard: ShardId, parent: int) -> bytes:
        """Return the hashes of a tree node's four children."""
        return self.get_table(shard).get_group(parent)

    def get_leaf(self, shard: ShardId, index: int) -> bytes:
        """Return the hash of a bucket."""
        return self.get_table(shard).get_leaf(index)

    def get_root(self, shard: ShardId) -> bytes:
        """Return a shard's state root."""
        told = self._told.get(shard)
        return self.get_table(shard).root if told is None else told

    def compute_changes(self, view: "StateView") -> dict[bytes, bytes | None]:
        """Return the bucket writes of a view, for the batch that makes it final."""
        return {
            build_bucket_key(shard, index): pack_bucket(bucket.data, bucket.digest)
            for (shard, index), bucket in view.buckets.items()
        }

    def fold(self, view: "StateView") -> None:
        """Take a view over, after its changes were written.

        Views are folded in order of height, each one's parent before it.
        """
        for past in self._past:
            past.keep(view)
        for place, bucket in view.buckets.items():
            self._cache.put(place, bucket.data)
        for shard, groups in view.groups.items():
            self._tables[shard].apply(view.roots[shard], groups)
        for shard in view.roots.keys() - view.groups.keys():
            self._told[shard] = view.roots[shard]
            self._tables.pop(shard, None)
        if view.shards is not None:
            self._take_shards(view.shards)

    def build_past(self, shard: ShardId) -> "StateView":
        """Return a view of a shard as it is now.

        It stays that while the final state moves on, but for what `put` changes.
        """
        past = StateView.from_final(self)
        past.roots[shard] = self.get_root(shard)
        self._past.add(past)
        return past

    def get_table(self, shard: ShardId) -> TreeTable:
        """Return a shard's tree; an empty one for a shard that is not there.

        Raises:
            ShardNotFollowed: Only its root is here.
        """
        if shard in self._told:
            raise ShardNotFollowed(shard, is_coming=shard == self.coming)
        return self._tables.get(shard, self._no_table)

    def adopt(self, shard: ShardId, table: TreeTable) -> None:
        """Take over the tree of a shard that was told, whose buckets are stored now."""
        assert table.root == self._told.pop(shard)
        self._tables[shard] = table
        # There may be some of it from when it was followed before.
        self._cache.clear()

    def drop(self, shard: ShardId) -> None:
        """Keep no more of a shard than its root."""
        self._told[shard] = self._tables.pop(shard).root

    def _take_shards(self, shards: tuple[ShardId, ...]) -> None:
        """Forget the trees of shards that went, begin those of shards that came."""
        self.shards = shards
        self._told = {s: root for s, root in self._told.items() if s in shards}
        self._tables = {
            shard: self._tables.get(shard) or TreeTable(self.levels)
            for shard in shards
            if shard not in self._told
        }

    def _read_bucket(self, shard: ShardId, index: int) -> bytes:
        stored = self.store.get(build_bucket_key(shard, index))
        if stored is None:
            data, digest = EMPTY_BYTES, EMPTY_BUCKET_HASH
        else:
            data, digest = unpack_bucket(shard, index, stored)
        if digest != self.get_leaf(shard, index):
            raise DamagedBucket(shard, index, "is not the one of the final block")
        return data
