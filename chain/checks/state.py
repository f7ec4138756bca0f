"""Verifying the state of a database and the states before it."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from chain.checks.findings import Findings
from chain.errors import DamagedBucket, StoreError
from chain.records.block import compute_roots_root
from chain.records.header import Header
from chain.state.stored_buckets import build_bucket_key, unpack_bucket
from chain.storage.final_state import FinalState
from chain.storage.gaps import has_gap, read_gaps
from chain.storage.history import get_oldest, get_roots, get_undo
from chain.storage.store import ChainReader
from primitives.buckets import (
    Bucket,
    CorruptBucket,
    compute_bucket_count,
    compute_bucket_hash,
    compute_bucket_index,
    decode_bucket,
    encode_bucket,
)
from primitives.treetable import TreeTable, compute_group_update
from primitives.types import Height, ShardId
from shards.layout import ROOT_SHARD


class StateSearch:
    """Reads all buckets and computes all roots."""

    def __init__(
        self, store: ChainReader, state: FinalState, findings: Findings
    ) -> None:
        """
        Args:
            store: The database.
            state: Over the same database, not loaded.
            findings: Where to note what is wrong.
        """
        self._store = store
        self._state = state
        self._levels = state.levels
        self._findings = findings
        self._tables: dict[ShardId, TreeTable] = {}
        self._damaged: set[ShardId] = set()
        self.buckets = 0
        self.keys = 0
        self.states = 0
        """Of the past, recomputed."""

    def check_buckets(self, shard: ShardId) -> None:
        """Check every bucket by itself and compute the shard's tree."""
        table = TreeTable(self._levels)
        table.load(self._iterate_leaves(shard))
        self._tables[shard] = table

    def check_roots(self, header: Header) -> None:
        """Compare the trees with the last final header."""
        roots = {shard: self._state.get_root(shard) for shard in self._state.shards}
        roots.update({shard: table.root for shard, table in self._tables.items()})
        if compute_roots_root(roots) == header.roots_root:
            return
        # The header binds all roots together; the newest chunks say which ones differ.
        told = {s: self._store.get_last_chunk(s).post_root for s in roots}
        # Epochs and stakes change the root shard without a chunk.
        told[ROOT_SHARD] = roots[ROOT_SHARD]
        if compute_roots_root(told) != header.roots_root:
            self._add_root(ROOT_SHARD, header.height)
        for shard, root in roots.items():
            if root != told[shard]:
                self._add_root(shard, header.height)

    def _add_root(self, shard: ShardId, height: Height) -> None:
        because = (
            "as some of its buckets are damaged"
            if shard in self._damaged
            else "yet its buckets are sound: some are lost, or of another block"
        )
        self._damaged.add(shard)
        self._findings.add(
            "root",
            f"the root of shard {shard} is not that of block {height}, {because}",
            shard=shard,
            height=height,
        )

    def _iterate_leaves(self, shard: ShardId) -> Iterator[tuple[int, bytes]]:
        for index, stored in self._iterate_stored(shard):
            try:
                data, digest = unpack_bucket(shard, index, stored)
                pairs = decode_bucket(data)
            except (DamagedBucket, CorruptBucket) as error:
                self._add_bucket(shard, index, f"is damaged: {error}")
                continue
            problem = self._find_bucket_problem(index, data, pairs)
            if problem:
                self._add_bucket(shard, index, problem)
            self.buckets += 1
            self.keys += len(pairs)
            yield index, digest

    def _iterate_stored(self, shard: ShardId) -> Iterator[tuple[int, bytes]]:
        """Yield every bucket that can be read; name the others."""
        kv, count = self._state.store, compute_bucket_count(self._levels)
        following = 0
        try:
            for key, stored in kv.iterate(build_bucket_key(shard, 0)[:3]):
                index = int.from_bytes(key[3:], "big")
                following = index + 1
                if index < count:
                    yield index, stored
                else:
                    self._add_bucket(shard, index, f"is beyond the {count} of the tree")
            return
        except StoreError:
            pass  # and now one by one, as it does not say which
        for index in range(following, count):
            try:
                found = kv.get(build_bucket_key(shard, index))
            except StoreError as error:
                self._add_bucket(shard, index, f"is not readable: {error}")
                continue
            if found is not None:
                yield index, found

    def _find_bucket_problem(self, index: int, data: bytes, pairs: Bucket) -> str:
        if not pairs:
            return "is empty and stored"
        if encode_bucket(pairs) != data or any(a >= b for a, b in pairwise(pairs)):
            return "is not in its canonical form"
        if any(compute_bucket_index(key, self._levels) != index for key in pairs):
            return "holds a key of another bucket"
        return ""

    def _add_bucket(self, shard: ShardId, index: int, problem: str) -> None:
        self._damaged.add(shard)
        message = f"bucket {index} of shard {shard} {problem}"
        self._findings.add("bucket", message, shard=shard, bucket=index)

    def check_past(self, last: Height, headers: Mapping[Height, Header]) -> None:
        """Take the last blocks back, one by one; each has to give its parent's roots.

        The trees are those of the oldest state afterwards.
        """
        state, gaps = self._state, read_gaps(self._store)
        for height in range(last, get_oldest(state, last), -1):
            try:
                roots = get_roots(state, height)
            except StoreError as error:
                self._findings.add("undo", str(error), height=height)
                return
            before = headers.get(height - 1)
            if before is not None and compute_roots_root(roots) != before.roots_root:
                self._findings.add(
                    "undo",
                    f"the roots from before block {height} are not its parent's",
                    height=height,
                )
                return
            told = set(state.shards) - set(state.followed)
            for shard in roots.keys() - self._tables.keys() - told:
                if not has_gap(gaps, shard, height - 1):
                    # It retired in this block, empty.
                    self._tables[shard] = TreeTable(self._levels)
            for shard in sorted(self._tables.keys() - self._damaged):
                adopted = self._store.get_adopted(shard)
                if adopted is not None and height <= adopted.joined:
                    continue  # Of before it was followed nothing is kept.
                self._take_back(state, height, shard, roots.get(shard))
            self.states += 1

    def _take_back(
        self, state: FinalState, height: Height, shard: ShardId, root: bytes | None
    ) -> None:
        table = self._tables[shard]
        try:
            undo = get_undo(state, height, shard)
            for index, data in undo.buckets:
                decode_bucket(data)
                if index >= compute_bucket_count(self._levels):
                    raise StoreError(f"undo of bucket {index} in block {height}")
        except (StoreError, CorruptBucket) as error:
            self._damaged.add(shard)
            self._findings.add("undo", str(error), shard=shard, height=height)
            return
        dirty = {index: compute_bucket_hash(data) for index, data in undo.buckets}
        if dirty:
            table.apply(*compute_group_update(table.get_group, dirty, table.levels))
        if root is not None and table.root != root:
            self._damaged.add(shard)
            self._findings.add(
                "undo",
                f"taking block {height} back gives another root of shard {shard}",
                shard=shard,
                height=height,
            )
