"""
Luck that everyone agrees on: numbers drawn from a hash.

Used for leaders and, later, committees and audits.  The draw depends on the seed and
the labels alone, so every node computes the same one.
"""

from primitives.hashing import compute_hash


def compute_draw(seed: bytes, bound: int, *labels: int) -> int:
    """Return an integer in [0, bound) from `seed` (32 bytes) and `labels` (64-bit).

    The bias of the reduction is below bound / 2^256 and so never observable.
    """
    assert bound > 0
    parts = [label.to_bytes(8, "big") for label in labels]
    return int.from_bytes(compute_hash("draw", seed, *parts), "big") % bound
