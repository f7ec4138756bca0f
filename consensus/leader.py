"""
Who leads a view: drawn by stake from the epoch's seed.

The draw depends on the seed and the view only, never on certificate bytes, which
whoever assembles them could choose.
"""

from consensus.validators import ValidatorSet
from primitives.hashing import compute_hash
from primitives.seeded import compute_draw


def compute_first_seed(chain_id: bytes) -> bytes:
    """Return the seed of epochs 0 and 1, which have no reveals before them."""
    return compute_hash("first-seed", chain_id)


def compute_leader(seed: bytes, view: int, validators: ValidatorSet) -> int:
    """Return the index of the leader of `view`.

    Each validator leads in proportion to its power: the draw falls into one of the
    stretches that the powers lay side by side.
    """
    point = compute_draw(seed, validators.total_power, view)
    for index, validator in enumerate(validators.validators):
        point -= validator.power
        if point < 0:
            return index
    raise AssertionError("the draw is below the total power")
