"""
The state of all shards: buckets on disk, trees in memory, overlays for what may fork.

Theory of operation
-------------------
    store:  buckets of the final block      memory: bucket trees of the final block
                 ^
    StateView of pending block 1: changed buckets + changed tree nodes
                 ^
    StateView of pending block 2 ...

A view reads through its parents down to the final state.  When a block becomes final
its overlay is folded into the trees and written out as buckets, in the same batch as
the block; views above it then stand on the final state itself.  Chains of views are
short: a block is normally final before the next one but one is proposed.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections import OrderedDict
from collections.abc import Mapping

from chain.bucket_writes import NewBucket, compute_new_buckets
from chain.errors import StoreError
from primitives.buckets import (
    EMPTY_BUCKET,
    Bucket,
    BucketProof,
    build_proof,
    compute_bucket_count,
    compute_bucket_hash,
    compute_bucket_index,
    compute_empty_tree,
    compute_tree,
    compute_update,
    decode_bucket,
    encode_bucket,
)
from primitives.kv import KeyValueStore
from primitives.types import ShardId

MAX_CACHED_BUCKETS = 8192
"""Decoded buckets of the final state kept in memory: all of a devnet's, about 30 MB
when they hold fifty accounts each."""

Writes = Mapping[ShardId, Mapping[bytes, bytes | None]]


def build_bucket_key(shard: ShardId, index: int) -> bytes:
    """Return the database key of a bucket."""
    return b"S" + shard.to_bytes(2, "big") + index.to_bytes(4, "big")


class FinalState:
    """The state at the final block, over a store."""

    def __init__(
        self, store: KeyValueStore, shards: tuple[ShardId, ...], levels: int
    ) -> None:
        """
        Args:
            store: Where buckets are; empty ones are absent.
            shards: Of the layout.
            levels: Of every shard's bucket tree.
        """
        self.levels = levels
        self.shards = shards
        self._store = store
        self._trees = {shard: compute_empty_tree(levels) for shard in shards}
        self._cache: OrderedDict[tuple[ShardId, int], Bucket] = OrderedDict()

    def load(self) -> None:
        """Read every bucket once and compute the trees from them.

        Raises:
            StoreError: A bucket beyond the tree.
        """
        self._cache.clear()
        count = compute_bucket_count(self.levels)
        for shard in self.shards:
            leaves = compute_empty_tree(self.levels)[-count:]
            prefix = build_bucket_key(shard, 0)[:3]
            for key, data in self._store.iterate(prefix):
                index = int.from_bytes(key[3:], "big")
                if index >= count:
                    raise StoreError(f"bucket {index} of {count} in shard {shard}")
                leaves[index] = compute_bucket_hash(data)
            self._trees[shard] = compute_tree(leaves, self.levels)

    def get_bucket(self, shard: ShardId, index: int) -> Bucket:
        """Return a bucket; must not be changed."""
        place = (shard, index)
        bucket = self._cache.get(place)
        if bucket is None:
            data = self._store.get(build_bucket_key(shard, index))
            bucket = EMPTY_BUCKET if data is None else decode_bucket(data)
            self._remember(place, bucket)
        else:
            self._cache.move_to_end(place)
        return bucket

    def get_node(self, shard: ShardId, node: int) -> bytes:
        """Return the hash of a tree node."""
        return self._trees[shard][node]

    def compute_changes(self, view: "StateView") -> dict[bytes, bytes | None]:
        """Return the bucket writes of a view, for the batch that makes it final."""
        return {
            build_bucket_key(shard, index): encode_bucket(bucket) if bucket else None
            for (shard, index), bucket in view.buckets.items()
        }

    def fold(self, view: "StateView") -> None:
        """Take a view over, after its changes were written.

        Views are folded in order of height, each one's parent before it.
        """
        for place, bucket in view.buckets.items():
            self._remember(place, bucket)
        for shard, nodes in view.nodes.items():
            tree = self._trees[shard]
            for node, digest in nodes.items():
                tree[node] = digest

    def _remember(self, place: tuple[ShardId, int], bucket: Bucket) -> None:
        self._cache[place] = bucket
        self._cache.move_to_end(place)
        if len(self._cache) > MAX_CACHED_BUCKETS:
            self._cache.popitem(last=False)


class StateView:
    """The state after a block that is not final yet, or at the final block itself."""

    def __init__(
        self,
        parent: "StateView | FinalState",
        final: FinalState,
        buckets: Mapping[tuple[ShardId, int], Bucket],
        nodes: Mapping[ShardId, Mapping[int, bytes]],
    ) -> None:
        self.parent = parent
        """What this view reads through; the final state once the parent is folded."""
        self.buckets = buckets
        """Changed buckets, whole."""
        self.nodes = nodes
        """Changed tree nodes."""
        self._final = final

    @classmethod
    def from_final(cls, final: FinalState) -> "StateView":
        """Return the view that changes nothing."""
        return cls(final, final, {}, {})

    def get(self, shard: ShardId, key: bytes) -> bytes | None:
        """Return the value under `key` in a shard, or None."""
        index = compute_bucket_index(key, self._final.levels)
        return self.get_bucket(shard, index).get(key)

    def get_bucket(self, shard: ShardId, index: int) -> Bucket:
        """Return a bucket as of this view; must not be changed."""
        place = (shard, index)
        view: StateView | FinalState = self
        while isinstance(view, StateView):
            bucket = view.buckets.get(place)
            if bucket is not None:
                return bucket
            view = view.parent
        return view.get_bucket(shard, index)

    def get_node(self, shard: ShardId, node: int) -> bytes:
        """Return the hash of a tree node as of this view."""
        view: StateView | FinalState = self
        while isinstance(view, StateView):
            nodes = view.nodes.get(shard)
            if nodes is not None:
                digest = nodes.get(node)
                if digest is not None:
                    return digest
            view = view.parent
        return view.get_node(shard, node)

    def get_levels(self, shard: ShardId) -> int:
        """Return the levels of a shard's bucket tree."""
        return self._final.levels

    def get_root(self, shard: ShardId) -> bytes:
        """Return a shard's state root."""
        return self.get_node(shard, 0)

    def get_roots(self) -> dict[ShardId, bytes]:
        """Return every shard's state root."""
        return {shard: self.get_root(shard) for shard in self._final.shards}

    def build_proof(self, shard: ShardId, key: bytes) -> BucketProof:
        """Return the proof of presence or absence of `key` under the shard's root."""
        levels = self._final.levels
        index = compute_bucket_index(key, levels)
        bucket = self.get_bucket(shard, index)
        return build_proof(
            lambda node: self.get_node(shard, node), index, bucket, levels
        )

    def compute_child(self, writes: Writes) -> "StateView":
        """Return the view after further writes."""
        levels = self._final.levels
        return self.compute_child_with(
            {
                shard: compute_new_buckets(
                    lambda index, shard=shard: self.get_bucket(shard, index),  # type: ignore[misc]
                    changes,
                    levels,
                )
                for shard, changes in writes.items()
            }
        )

    def compute_child_with(
        self, changed: Mapping[ShardId, Mapping[int, NewBucket]]
    ) -> "StateView":
        """Return the view after shards' buckets, by number, became others."""
        buckets: dict[tuple[ShardId, int], Bucket] = {}
        nodes = {}
        for shard, fresh in changed.items():
            nodes[shard] = compute_update(
                lambda node, shard=shard: self.get_node(shard, node),  # type: ignore[misc]
                {index: bucket.digest for index, bucket in fresh.items()},
                self._final.levels,
            )
            for index, bucket in fresh.items():
                buckets[shard, index] = bucket.pairs
        return StateView(self, self._final, buckets, nodes)

    def squash(self, base: "StateView") -> "StateView":
        """Return this view with everything that changed since `base` in one overlay.

        Args:
            base: This view, or one that it reads through.
        """
        if self.parent is base:
            return self
        buckets: dict[tuple[ShardId, int], Bucket] = {}
        nodes: dict[ShardId, dict[int, bytes]] = {}
        view: StateView | FinalState = self
        while isinstance(view, StateView) and view is not base:
            buckets = {**view.buckets, **buckets}
            for shard, changed in view.nodes.items():
                nodes[shard] = {**changed, **nodes.get(shard, {})}
            view = view.parent
        assert view is base
        return StateView(base, self._final, buckets, nodes)
