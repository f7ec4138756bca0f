"""
The state of all shards: buckets on disk, trees in memory, overlays for what may fork.

Theory of operation
-------------------
    store:  buckets of the final block      memory: bucket trees of the final block
                 ^
    StateView of pending block 1: changed buckets + changed groups of tree nodes
                 ^
    StateView of pending block 2 ...

A view reads through its parents down to the final state.  When a block becomes final
its overlay is folded into the trees and written out as buckets, in the same batch as
the block; views above it then stand on the final state itself.  Chains of views are
short: a block is normally final before the next one but one is proposed.

A view of the past stands on the final state too, and says what has changed since
(chain/storage/history.py).  The final state (chain/storage/final_state.py) moves on
under it, so its `fold` first puts what it is about to change into every such view that
is still held.

Shards come and go at the end of an epoch: such a view says which there are from then
on, and that those that went are empty.  A shard that nobody knows has the empty tree.

Of a shard that is not followed there is nothing but the root that blocks tell; a view
in which a shard's root was told, and not computed, cannot be read in that shard.

A stored bucket has the first bytes of its hash before it.  So a damaged one is found
and named without the tree, and a running node compares what it reads with the tree.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from chain.state.bucket_cache import Place
from chain.state.bucket_writes import NewBucket, compute_new_buckets
from chain.state.stored_buckets import EMPTY_NEW_BUCKET
from primitives.buckets import (
    HASH_BYTES,
    Bucket,
    BucketProof,
    build_proof,
    compute_bucket_index,
    decode_bucket,
)
from primitives.treetable import compute_group_update
from primitives.types import ShardId

if TYPE_CHECKING:
    from chain.storage.final_state import FinalState

Writes = Mapping[ShardId, Mapping[bytes, bytes | None]]


class StateView:
    """The state after a block that is not final yet, or at the final block itself."""

    def __init__(
        self,
        parent: "StateView | FinalState",
        final: "FinalState",
        buckets: dict[Place, NewBucket],
        groups: dict[ShardId, dict[int, bytes]],
        roots: dict[ShardId, bytes],
        shards: tuple[ShardId, ...] | None = None,
    ) -> None:
        self.parent = parent
        """What this view reads through; the final state once the parent is folded."""
        self.buckets = buckets
        """Changed buckets, whole."""
        self.groups = groups
        """Changed tree nodes, in fours, by shard and number of their parent."""
        self.roots = roots
        """Of the shards that changed."""
        self.shards = shards
        """All there are from this view on; None: the same as below."""
        self._final = final

    @classmethod
    def from_final(cls, final: "FinalState") -> "StateView":
        """Return the view that changes nothing."""
        return cls(final, final, {}, {}, {})

    def get(self, shard: ShardId, key: bytes) -> bytes | None:
        """Return the value under `key` in a shard, or None."""
        index = compute_bucket_index(key, self._final.levels)
        return self.get_bucket(shard, index).get(key)

    def get_bucket(self, shard: ShardId, index: int) -> Bucket:
        """Return a bucket as of this view; must not be changed."""
        bucket = self._find_bucket((shard, index))
        return self._final.get_bucket(shard, index) if bucket is None else bucket.pairs

    def get_bucket_bytes(self, shard: ShardId, index: int) -> bytes:
        """Return a bucket's canonical bytes as of this view."""
        bucket = self._find_bucket((shard, index))
        if bucket is None:
            return self._final.get_bucket_bytes(shard, index)
        return bucket.data

    def get_group(self, shard: ShardId, parent: int) -> bytes:
        """Return the hashes of a tree node's four children as of this view."""
        view: StateView | FinalState = self
        while isinstance(view, StateView):
            groups = view.groups.get(shard)
            if groups is not None:
                group = groups.get(parent)
                if group is not None:
                    return group
            view = view.parent
        return view.get_group(shard, parent)

    def get_node(self, shard: ShardId, node: int) -> bytes:
        """Return the hash of a tree node as of this view."""
        if node == 0:
            return self.get_root(shard)
        start = HASH_BYTES * ((node - 1) % 4)
        group = self.get_group(shard, (node - 1) // 4)
        return group[start : start + HASH_BYTES]

    def get_levels(self, shard: ShardId) -> int:
        """Return the levels of a shard's bucket tree."""
        return self._final.levels

    def get_root(self, shard: ShardId) -> bytes:
        """Return a shard's state root."""
        view: StateView | FinalState = self
        while isinstance(view, StateView):
            root = view.roots.get(shard)
            if root is not None:
                return root
            view = view.parent
        return view.get_root(shard)

    def get_roots(self) -> dict[ShardId, bytes]:
        """Return every shard's state root."""
        view: StateView | FinalState = self
        while isinstance(view, StateView) and view.shards is None:
            view = view.parent
        assert view.shards is not None
        return {shard: self.get_root(shard) for shard in view.shards}

    def build_proof(self, shard: ShardId, key: bytes) -> BucketProof:
        """Return the proof of presence or absence of `key` under the shard's root."""
        levels = self._final.levels
        index = compute_bucket_index(key, levels)
        bucket = self.get_bucket(shard, index)
        return build_proof(partial(self.get_node, shard), index, bucket, levels)

    def compute_child(self, writes: Writes) -> "StateView":
        """Return the view after further writes."""
        levels = self._final.levels
        return self.compute_child_with(
            {
                shard: compute_new_buckets(
                    lambda key: compute_bucket_index(key, levels),
                    partial(self.get_bucket, shard),
                    changes,
                )
                for shard, changes in writes.items()
            }
        )

    def compute_child_with(
        self,
        changed: Mapping[ShardId, Mapping[int, NewBucket]],
        told: Mapping[ShardId, bytes] = MappingProxyType({}),
    ) -> "StateView":
        """Return the view after shards' buckets, by number, became others.

        Args:
            changed: Of shards that are followed.
            told: Roots of other shards; their state cannot be read from now on.
        """
        buckets: dict[Place, NewBucket] = {}
        groups: dict[ShardId, dict[int, bytes]] = {}
        roots: dict[ShardId, bytes] = {}
        for shard, fresh in changed.items():
            if not fresh:
                continue
            roots[shard], groups[shard] = compute_group_update(
                self._build_group_reader(shard),
                {index: bucket.digest for index, bucket in fresh.items()},
                self._final.levels,
            )
            for index, bucket in fresh.items():
                buckets[shard, index] = bucket
        return StateView(self, self._final, buckets, groups, {**roots, **told})

    def compute_child_without(
        self, gone: Iterable[ShardId], shards: tuple[ShardId, ...]
    ) -> "StateView":
        """Return the view after shards went and others came.

        Args:
            gone: Nothing of them has changed since the last final block.
            shards: All there are from now on.
        """
        child = self.compute_child_with(
            {
                shard: {
                    index: EMPTY_NEW_BUCKET
                    for index, _, _ in self._final.iterate_buckets(shard)
                }
                for shard in gone
            }
        )
        child.shards = shards
        return child

    def squash(self, base: "StateView") -> "StateView":
        """Return this view with everything that changed since `base` in one overlay.

        Args:
            base: This view, or one that it reads through.
        """
        if self.parent is base:
            return self
        buckets: dict[Place, NewBucket] = {}
        groups: dict[ShardId, dict[int, bytes]] = {}
        roots: dict[ShardId, bytes] = {}
        shards: tuple[ShardId, ...] | None = None
        view: StateView | FinalState = self
        while isinstance(view, StateView) and view is not base:
            shards = view.shards if shards is None else shards
            buckets = view.buckets | buckets
            roots = view.roots | roots
            for shard, changed in view.groups.items():
                groups[shard] = changed | groups.get(shard, {})
            view = view.parent
        assert view is base
        return StateView(base, self._final, buckets, groups, roots, shards)

    def put(self, shard: ShardId, fresh: Mapping[int, NewBucket]) -> None:
        """Change buckets of a shard, by number, in this view itself.

        For views that are being built; nothing may read through them yet.
        """
        root, groups = compute_group_update(
            self._build_group_reader(shard),
            {index: bucket.digest for index, bucket in fresh.items()},
            self._final.levels,
        )
        self.roots[shard] = root
        self.groups.setdefault(shard, {}).update(groups)
        for index, bucket in fresh.items():
            self.buckets[shard, index] = bucket

    def keep(self, coming: "StateView") -> None:
        """Put what `coming` is about to change into this view of the past."""
        final = self._final
        for shard, index in coming.buckets.keys() - self.buckets.keys():
            data = final.get_bucket_bytes(shard, index)
            digest = final.get_leaf(shard, index)
            self.buckets[shard, index] = NewBucket(decode_bucket(data), data, digest)
        for shard, changed in coming.groups.items():
            groups = self.groups.setdefault(shard, {})
            for parent in changed.keys() - groups.keys():
                groups[parent] = final.get_group(shard, parent)
            self.roots.setdefault(shard, final.get_root(shard))

    def _build_group_reader(self, shard: ShardId) -> Callable[[int], bytes]:
        """Return `get_group` of a shard, with the way down walked once."""
        overlays: list[Mapping[int, bytes]] = []
        view: StateView | FinalState = self
        while isinstance(view, StateView):
            if shard in view.groups:
                overlays.append(view.groups[shard])
            view = view.parent
        get_final = view.get_table(shard).get_group

        def get_group(parent: int) -> bytes:
            for groups in overlays:
                group = groups.get(parent)
                if group is not None:
                    return group
            return get_final(parent)

        return get_group

    def _find_bucket(self, place: Place) -> NewBucket | None:
        """Return a bucket that this view or one below has changed."""
        view: StateView | FinalState = self
        while isinstance(view, StateView):
            bucket = view.buckets.get(place)
            if bucket is not None:
                return bucket
            view = view.parent
        return None
