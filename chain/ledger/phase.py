"""
The life of a shard, as its rules see it.

    ACTIVE --its model retires--> DRAINING --the grace window is over--> SWEEPING
           --empty, and an epoch later--> no shard

While it drains, whoever holds vouchers settles and whoever has funds may send them on,
and nothing new begins.  Then transactions end, nobody sends anything there any more,
and the shard moves what is left to the root shard by itself
(chain/contracts/sweeping.py).

Phases are those of whole epochs.  Chunks of one epoch stand on anchors of different
heights, and so all of them, in every shard, agree on who takes what.

Spec: docs/protocol/06-shards.md
"""

from enum import IntEnum

from chain.errors import RuleError
from chain.ledger.context import Context
from chain.records.params import ChainParams
from primitives.types import Epoch, ShardId
from shards.layout import Layout, ShardSpec


class Phase(IntEnum):
    """What a shard takes."""

    ACTIVE = 1
    DRAINING = 2
    """Transactions that end or move what there is, and money to pay for them."""
    SWEEPING = 3
    """No transactions; what arrives goes on to the root shard."""


def compute_sweep_epoch(spec: ShardSpec, params: ChainParams) -> Epoch:
    """Return the first epoch in which a retiring shard empties itself.

    It drains for as many whole epochs as the grace window of channels needs.
    """
    return spec.changed_epoch + -(-params.grace_blocks // params.epoch_blocks)


def compute_phase(
    layout: Layout, shard: ShardId, epoch: Epoch, params: ChainParams
) -> Phase:
    """Return the phase of a shard in an epoch with this layout."""
    spec = layout.get_spec(shard)
    if spec is None or not spec.is_retiring:
        return Phase.ACTIVE
    is_over = epoch >= compute_sweep_epoch(spec, params)
    return Phase.SWEEPING if is_over else Phase.DRAINING


def get_phase(context: Context, shard: ShardId | None = None) -> Phase:
    """Return the phase of a shard, by default the context's own."""
    shard = context.shard if shard is None else shard
    return compute_phase(context.layout, shard, context.epoch, context.params)


def validate_active(context: Context) -> None:
    """Check that something new may begin in the context's shard.

    Raises:
        RuleError: shard_retiring.
    """
    if get_phase(context) != Phase.ACTIVE:
        raise RuleError("shard_retiring", f"shard {context.shard} is retiring")


def validate_open(context: Context, shard: ShardId) -> None:
    """Check that money may be sent to a shard.

    Raises:
        RuleError: shard_closed.
    """
    if get_phase(context, shard) == Phase.SWEEPING:
        raise RuleError("shard_closed", f"shard {shard} is being emptied")
