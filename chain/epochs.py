"""
Epochs: which blocks belong to one, and what the next block of a branch has to know.

    height   0 | 1 .. L | L+1 .. 2L | ...        L = `epoch_blocks`
    epoch    0 |   0    |     1     |
             root of 0  ^ boundary of 0, root of 1

Spec: docs/protocol/11-staking.md
"""

from primitives.hashing import compute_hash


def compute_epoch(height: int, epoch_blocks: int) -> int:
    """Return the epoch of the block at `height`; genesis counts to epoch 0."""
    return max(height - 1, 0) // epoch_blocks


def compute_last_height(epoch: int, epoch_blocks: int) -> int:
    """Return the height of the epoch's last block, its boundary."""
    return (epoch + 1) * epoch_blocks


def compute_first_height(epoch: int, epoch_blocks: int) -> int:
    """Return the height of the epoch's first block."""
    return epoch * epoch_blocks + 1


def is_root(height: int, epoch_blocks: int) -> bool:
    """Tell whether an epoch begins on the block at `height`."""
    return height % epoch_blocks == 0


def compute_seed(mix: bytes) -> bytes:
    """Return the seed that the mix of a boundary block gives, for two epochs on."""
    return compute_hash("seed", mix)
