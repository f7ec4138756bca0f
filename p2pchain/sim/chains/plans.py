"""
Who votes in which epoch of a list chain.

The real chain computes sets from stakes.  Here a plan draws them from the epoch's seed,
which every node knows from its own final chain, so that nodes agree on them exactly as
far as they agree on the chain.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.scheme import Signer
from consensus.validators import Validator, ValidatorSet

if TYPE_CHECKING:
    from p2pchain.sim.world import Setup

POWER = 30
MIN_VALIDATORS = 4
"""As for downtime on the real chain: fewer would not stand one fault."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Draws sets."""

    first: ValidatorSet
    """Of epochs 0 and 1."""
    candidates: tuple[bytes, ...]
    """Public keys that may have a seat."""
    weak: frozenset[bytes]
    """Keys that keep their power, and never hold a third of all together."""
    is_moving: bool

    def compute_next(self, seed: bytes, last: ValidatorSet) -> ValidatorSet:
        """Return the set of the next epoch.

        Args:
            seed: Drawn from the boundary two epochs before.
            last: The set of the epoch before.
        """
        if not self.is_moving:
            return last
        luck = random.Random(seed)
        powers = {v.public_key: v.power for v in last.validators}
        limit = last.total_power // 3
        for key in luck.sample(self.candidates, len(self.candidates)):
            if key in self.weak:
                continue
            old = powers.get(key, 0)
            new = luck.choice((0, POWER // 2, POWER, 2 * POWER))
            if abs(new - old) <= limit and self._is_sound(powers | {key: new}):
                powers[key] = new
                limit -= abs(new - old)
        return ValidatorSet(
            tuple(Validator(key, power) for key, power in powers.items() if power)
        )

    def _is_sound(self, powers: Mapping[bytes, int]) -> bool:
        seats = sum(power > 0 for power in powers.values())
        bad = sum(power for key, power in powers.items() if key in self.weak)
        return seats >= MIN_VALIDATORS and 3 * bad < sum(powers.values())


def build_plan(setup: "Setup", signers: Mapping[str, Signer]) -> Plan:
    """Return the plan of a setup."""
    keys = {name: signer.public_key for name, signer in signers.items()}
    first = list(keys.values())[: setup.size]
    powers = setup.powers or (POWER,) * setup.size
    return Plan(
        first=ValidatorSet(
            tuple(Validator(k, p) for k, p in zip(first, powers, strict=True))
        ),
        candidates=tuple(keys.values()),
        weak=frozenset(keys[name] for name in setup.villains | setup.frail),
        is_moving=setup.is_moving,
    )
