"""
Randomness that nobody chooses alone: each block mixes its leader's signature in.

A reveal is the leader's BLS signature over (epoch, view): unique, so a leader can show
it or not, but not choose it.  The mix of a block is the hash of its parent's mix and
its reveal.

Bias: a leader may drop its block and so choose between two mixes; who leads the last k
views before a mix is read chooses among 2^k.  Consumers, all of them: leaders of later
epochs (none yet, epoch 0 uses the first seed).
"""

from primitives.codec import encode
from primitives.hashing import compute_hash


def compute_reveal_bytes(chain_id: bytes, epoch: int, view: int) -> bytes:
    """Return the 32 bytes that a leader signs as its reveal."""
    return compute_hash("randao", chain_id, encode((epoch, view)))


def compute_first_mix(chain_id: bytes) -> bytes:
    """Return the mix of the genesis block."""
    return compute_hash("first-mix", chain_id)


def compute_mix(parent_mix: bytes, reveal: bytes) -> bytes:
    """Return the mix of a block from its parent's and its leader's reveal."""
    return compute_hash("mix", parent_mix, reveal)
