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
(chain/history.py).  The final state moves on under it, so `fold` first puts what it is
about to change into every such view that somebody still holds.

Shards come and go at the end of an epoch: such a view says which there are from then
on, and that those that went are empty.  A shard that nobody knows has the empty tree.

Of a shard that is not followed there is nothing but the root that blocks tell; a view
in which a shard's root was told, and not computed, cannot be read in that shard.

A stored bucket has the first bytes of its hash before it.  So a damaged one is found
and named without the tree, and a running node compares what it reads with the tree.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from weakref import WeakSet

from chain.bucket_cache import BucketCache, Place
from chain.bucket_writes import NewBucket, compute_new_buckets
from chain.errors import DamagedBucket, ShardNotFollowed
from primitives.buckets import (
    EMPTY_BUCKET,
    EMPTY_BUCKET_HASH,
    HASH_BYTES,
    Bucket,
    BucketProof,
    build_proof,
    compute_bucket_count,
    compute_bucket_hash,
    compute_bucket_index,
    decode_bucket,
    encode_bucket,
)
from primitives.kv import KeyValueStore
from primitives.treetable import (
    TreeTable,
    compute_group_update,
)
from primitives.types import ShardId

CHECK_BYTES = 8
"""Of the bucket's hash, before the stored bucket: a flipped bit stays unnoticed once in
2^64; who changes a bucket on purpose is found by the root."""

EMPTY_BYTES = encode_bucket(EMPTY_BUCKET)

EMPTY_NEW_BUCKET = NewBucket(EMPTY_BUCKET, EMPTY_BYTES, EMPTY_BUCKET_HASH)

Writes = Mapping[ShardId, Mapping[bytes, bytes | None]]


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


class StateView:
    """The state after a block that is not final yet, or at the final block itself."""

    def __init__(
        self,
        parent: "StateView | FinalState",
        final: FinalState,
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
    def from_final(cls, final: FinalState) -> "StateView":
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
