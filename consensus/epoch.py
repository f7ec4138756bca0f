"""
Epochs: stretches of the chain with one validator set and one seed.

    genesis   epoch 0             epoch 1               epoch 2
       o--o--o-- ... --o--B0  o--o-- ... --o--B1  o--o-- ...
       root of 0          root of 1           root of 2

Views restart at 1 in every epoch.  The last block of an epoch, its boundary, is the
root of the next one: nothing of the next epoch exists before the boundary is final,
so everybody who is in an epoch agrees on its root.  How many blocks an epoch has, and
who votes in it, is the chain's business; consensus is told.
"""

from dataclasses import dataclass

from consensus.validators import ValidatorSet


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochConfig:
    """What consensus needs to know of one epoch."""

    epoch: int
    seed: bytes
    """Leaders are drawn from it."""
    validators: ValidatorSet
    last_height: int
    """Height of the boundary block."""
