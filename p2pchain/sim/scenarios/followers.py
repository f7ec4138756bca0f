"""
Who follows what: nodes that leave one of the first layer shards out.

Half of the honest nodes at most do, so that every shard, also one that begins later,
has hosts and custodians who hold its state.
"""

import random
from dataclasses import replace

from p2pchain.sim.chains.genesis import SHARDS
from p2pchain.sim.world import ALPHABET, Setup

SHARE = 0.5
"""Of the worlds."""


def leave_shards_out(setup: Setup, seed: int) -> Setup:
    """Return the setup of a world in which some nodes may follow some shards only.

    The luck is not that of the world, which goes on as it would without this.
    """
    luck = random.Random(f"follows {seed}")
    if luck.random() >= SHARE:
        return setup
    names = ALPHABET[: setup.size + setup.listeners]
    honest = [name for name in names if name not in setup.villains]
    voting = [name for name in honest if name in names[: setup.size]]
    partial = luck.sample(voting, luck.randint(1, len(voting) // 2))
    partial += [name for name in honest if name not in voting]
    layers = frozenset(SHARDS[1:])
    return replace(
        setup,
        follows={name: layers - {luck.choice(SHARDS[1:])} for name in partial},
    )
