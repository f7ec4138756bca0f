"""
All nodes of one bucket tree in one piece of memory.

Theory of operation
-------------------
Four siblings lie side by side, in a group that their parent's number names:

    group p = nodes 4p+1 .. 4p+4 = 128 bytes at 128 p;  node p = hash of group p

So a parent's hash takes one slice and no gathering, and a tree of nine levels takes
11 MiB instead of the 40 MB of as many bytes objects.  A group of zeros was never
touched and stands for an empty subtree; the operating system gives no page for it, so
a young tree of full size is small.

A change is computed as whole groups beside the table (`compute_group_update`), kept as
an overlay until its block is final, and then copied in.

Spec: docs/protocol/03-blocks-and-state.md
"""

import mmap
import sys
from collections.abc import Callable, Iterable, Mapping

from primitives.buckets import (
    ARITY,
    EMPTY_HASHES,
    HASH_BYTES,
    compute_bucket_count,
    compute_leaf_node,
)
from primitives.hashing import compute_hash

GROUP_BYTES = ARITY * HASH_BYTES

_UNTOUCHED = bytes(GROUP_BYTES)
_EMPTY_GROUPS = tuple(digest * ARITY for digest in EMPTY_HASHES)
"""By height of the four above the buckets."""

Groups = Mapping[int, bytes]
"""Four hashes, one after the other, by number of their parent."""


class TreeTable:
    """The nodes of a tree, to read by group and to change by groups."""

    def __init__(self, levels: int) -> None:
        """Start with the empty tree."""
        self.levels = levels
        self.root = EMPTY_HASHES[levels]
        self._first_leaf = compute_leaf_node(0, levels)
        self._data = _allocate(GROUP_BYTES * self._first_leaf)

    def get_group(self, parent: int) -> bytes:
        """Return the four children of node `parent`."""
        start = GROUP_BYTES * parent
        group = self._data[start : start + GROUP_BYTES]
        if group == _UNTOUCHED:
            return _EMPTY_GROUPS[self.levels - 1 - _compute_depth(parent)]
        return group

    def get_node(self, node: int) -> bytes:
        """Return the hash of a node."""
        if node == 0:
            return self.root
        start = HASH_BYTES * ((node - 1) % ARITY)
        return self.get_group((node - 1) // ARITY)[start : start + HASH_BYTES]

    def get_leaf(self, index: int) -> bytes:
        """Return the hash of bucket `index`."""
        return self.get_node(self._first_leaf + index)

    def apply(self, root: bytes, groups: Groups) -> None:
        """Take over what `compute_group_update` returned."""
        data = self._data
        for parent, group in groups.items():
            start = GROUP_BYTES * parent
            data[start : start + GROUP_BYTES] = group
        self.root = root

    def load(self, leaves: Iterable[tuple[int, bytes]]) -> None:
        """Begin anew from the hashes of buckets, by ascending number; others are empty.

        Raises:
            IndexError: A bucket beyond the tree.
        """
        count = compute_bucket_count(self.levels)
        self.root = EMPTY_HASHES[self.levels]
        self._data = _allocate(GROUP_BYTES * self._first_leaf)
        row: Iterable[tuple[int, bytes]] = (
            (self._check(index, count), digest) for index, digest in leaves
        )
        # Level by level, so that no more than one level's numbers are held beside.
        for height in range(self.levels):
            row = [
                (parent, self._hash(parent)) for parent in self._fill_row(row, height)
            ]
        for _, self.root in row:
            pass

    def _check(self, index: int, count: int) -> int:
        if not 0 <= index < count:
            raise IndexError(f"bucket {index} of {count}")
        return self._first_leaf + index

    def _fill_row(self, row: Iterable[tuple[int, bytes]], height: int) -> list[int]:
        """Write nodes of one level, ascending, and return their parents."""
        parents: list[int] = []
        empty = _EMPTY_GROUPS[height]
        for node, digest in row:
            parent = (node - 1) // ARITY
            if not parents or parents[-1] != parent:
                parents.append(parent)
                start = GROUP_BYTES * parent
                self._data[start : start + GROUP_BYTES] = empty
            start = HASH_BYTES * (node - 1)
            self._data[start : start + HASH_BYTES] = digest
        return parents

    def _hash(self, parent: int) -> bytes:
        start = GROUP_BYTES * parent
        return compute_hash("bucket-node", self._data[start : start + GROUP_BYTES])


def compute_group_update(
    get_group: Callable[[int], bytes], dirty: Mapping[int, bytes], levels: int
) -> tuple[bytes, dict[int, bytes]]:
    """Return the root and every group that changes when buckets change.

    Args:
        get_group: The four children of a node before the change, by its number.
        dirty: New hash by bucket number; at least one.
        levels: Of the tree.
    """
    assert dirty
    first = compute_leaf_node(0, levels)
    row = {first + index: leaf for index, leaf in dirty.items()}
    groups: dict[int, bytes] = {}
    for _ in range(levels):
        changed: dict[int, bytes] = {}
        for node, digest in row.items():
            parent = (node - 1) // ARITY
            group = changed.get(parent) or get_group(parent)
            start = HASH_BYTES * ((node - 1) % ARITY)
            changed[parent] = group[:start] + digest + group[start + HASH_BYTES :]
        row = {
            parent: compute_hash("bucket-node", group)
            for parent, group in changed.items()
        }
        groups |= changed
    return row[0], groups


def _allocate(size: int) -> mmap.mmap:
    """Return zeros that take no memory until they are written.

    A bytearray would be filled with zeros, and so take all of it at once; and in huge
    pages a young tree, whose few nodes are everywhere, would too.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    data = mmap.mmap(-1, max(1, size), flags=flags)
    if sys.platform == "linux":
        data.madvise(mmap.MADV_NOHUGEPAGE)
    return data


def _compute_depth(node: int) -> int:
    """Return how many levels below the root a node is."""
    return ((3 * node + 1).bit_length() - 1) // 2
