"""
The life of a shard, as its rules see it.

    ACTIVE --its model retires--> DRAINING --the grace window is over--> SWEEPING
           --empty, and an epoch later--> no shard

While it drains, whoever holds vouchers settles and whoever has funds may send them on;
nothing new begins and nothing new comes in.  Then transactions end, and the shard moves
what is left to the root shard by itself (chain/sweeping.py).

Spec: docs/protocol/06-shards.md
"""

from enum import IntEnum

from chain.context import Context
from chain.errors import RuleError
from chain.params import ChainParams
from primitives.types import Height, ShardId
from shards.layout import Layout


class Phase(IntEnum):
    """What a shard takes."""

    ACTIVE = 1
    DRAINING = 2
    """Transactions that end or move what there is."""
    SWEEPING = 3
    """No transactions; what arrives goes on to the root shard."""


def compute_phase(
    layout: Layout, shard: ShardId, height: Height, params: ChainParams
) -> Phase:
    """Return the phase of a shard for what runs on the block at `height`."""
    spec = layout.get_spec(shard)
    if spec is None or not spec.is_retiring:
        return Phase.ACTIVE
    first = spec.changed_epoch * params.epoch_blocks
    is_over = height >= first + params.grace_blocks
    return Phase.SWEEPING if is_over else Phase.DRAINING


def get_phase(context: Context) -> Phase:
    """Return the phase of the context's shard."""
    return compute_phase(context.layout, context.shard, context.height, context.params)


def validate_active(context: Context, shard: ShardId) -> None:
    """Check that something new may begin in a shard, or be sent there.

    Raises:
        RuleError: shard_retiring.
    """
    spec = context.layout.get_spec(shard)
    if spec is not None and spec.is_retiring:
        raise RuleError("shard_retiring", f"shard {shard} is retiring")
