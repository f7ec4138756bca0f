"""
Binary Merkle trees over lists: transactions, packets, receipts, chunk headers.

Leaves and inner nodes hash under different tags, so neither can pass for the other,
and the root commits to the number of leaves, so a list cannot be padded.  An odd node
moves up unhashed.
"""

from collections.abc import Sequence

from primitives.hashing import compute_hash

MAX_PATH = 32
"""Longest path we verify: lists are bounded far below 2^32 leaves."""


def compute_list_root(leaves: Sequence[bytes]) -> bytes:
    """Return the 32-byte root of a list of byte strings; the empty list has one too."""
    level = [_hash_leaf(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _reduce(level)
    return _hash_root(len(leaves), level[0] if level else bytes(32))


def compute_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the siblings from leaf `index` up, for `verify_path`."""
    assert 0 <= index < len(leaves)
    level = [_hash_leaf(leaf) for leaf in leaves]
    path = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _reduce(level)
        index //= 2
    return tuple(path)


def verify_path(
    root: bytes, count: int, index: int, leaf: bytes, path: Sequence[bytes]
) -> bool:
    """Tell whether `leaf` is number `index` of the `count` leaves under `root`."""
    if not 0 <= index < count or len(path) > MAX_PATH:
        return False
    node = _hash_leaf(leaf)
    width = count
    siblings = iter(path)
    while width > 1:
        if index ^ 1 < width:
            sibling = next(siblings, None)
            if sibling is None:
                return False
            pair = (sibling, node) if index & 1 else (node, sibling)
            node = compute_hash("merkle-node", *pair)
        index //= 2
        width = (width + 1) // 2
    return next(siblings, None) is None and _hash_root(count, node) == root


def _hash_leaf(leaf: bytes) -> bytes:
    return compute_hash("merkle-leaf", leaf)


def _hash_root(count: int, top: bytes) -> bytes:
    return compute_hash("merkle-root", count.to_bytes(8, "big"), top)


def _reduce(level: list[bytes]) -> list[bytes]:
    pairs = [
        compute_hash("merkle-node", level[i], level[i + 1])
        for i in range(0, len(level) - 1, 2)
    ]
    return pairs + ([level[-1]] if len(level) & 1 else [])


EMPTY_ROOT = compute_list_root(())
"""Root of the empty list; stands in header fields that are not used yet."""
