"""
Who votes two epochs from now.

Theory of operation
-------------------
The set that is chosen follows the one before it, and may differ from that by a third
of its power at most: so nobody can bring a set of its own within one epoch, and a
light client that skips some epochs still knows more than a third of the signers.  What
does not fit into the limit happens an epoch later.

    wanted   the 128 largest active stakes
    moves    1. convicted members lose their power
             2. other members lose what they no longer have
             3. members and newcomers get what is new, the largest stake first
    until    the sum of the moves is a third of the old power, rounded down; the last
             move is clipped

Power is lost before any is gained, so a set never has more than 128 members; and a
third of the power, rounded down, is never all of it, so a set is never empty.

Pure, and a function of its arguments' values alone.

Spec: docs/protocol/11-staking.md
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from consensus.validators import MAX_VALIDATORS, Validator, ValidatorSet

CHANGE_DIVISOR = 3
"""A third of the power may change per epoch."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stake that could vote."""

    account: bytes
    public_key: bytes
    power: int
    """Atoms, at least 1."""


def select_validators(
    current: ValidatorSet, candidates: Sequence[Candidate], convicted: Set[bytes]
) -> ValidatorSet:
    """Return the set that follows `current`.

    Args:
        current: The set of the epoch before.
        candidates: Active stakes, in any order.
        convicted: BLS public keys of tombstoned stakes.
    """
    chosen = sorted(candidates, key=lambda c: (-c.power, c.account))[:MAX_VALIDATORS]
    wanted = {candidate.public_key: candidate.power for candidate in chosen}
    powers = {v.public_key: v.power for v in current.validators}
    room = current.total_power // CHANGE_DIVISOR
    losers = [v.public_key for v in current.validators]
    losers.sort(key=lambda key: key not in convicted)  # Stable: in order of the set.
    for key in losers:
        loss = min(room, max(0, powers[key] - wanted.get(key, 0)))
        powers[key] -= loss
        room -= loss
    for candidate in chosen:
        power = powers.get(candidate.public_key, 0)
        gain = min(room, max(0, candidate.power - power))
        powers[candidate.public_key] = power + gain
        room -= gain
    # In order: the members as they were, then newcomers as they were chosen.
    return ValidatorSet(
        tuple(Validator(key, power) for key, power in powers.items() if power > 0)
    )
