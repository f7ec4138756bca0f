"""
Epochs: which blocks belong to one, and what a block of one has to know.

    height   0 | 1 .. L | L+1 .. 2L | ...        L = `epoch_blocks`
    epoch    0 |   0    |     1     |
             root of 0  ^ boundary of 0, root of 1

Sets, seeds and layouts are chosen two epochs ahead, so those of an epoch, and set and
layout of the one after it, are the same for every block of it and can be read from the
state of its root.

Spec: docs/protocol/11-staking.md
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chain.errors import StoreError
from chain.ledger.layouts import get_layout, list_models
from chain.ledger.ledger import Ledger
from chain.ledger.producers import get_producers
from chain.ledger.roster import get_epoch_record, get_validators
from chain.records.model import ModelRecord
from consensus.epoch import EpochConfig
from consensus.validators import ValidatorSet
from primitives.hashing import compute_hash
from shards.layout import Layout
from shards.roles import Roles


@dataclass(frozen=True, slots=True)
class EpochState:
    """What every block of an epoch commits to and is judged by."""

    config: EpochConfig
    """Number, seed, validators, and where it ends."""
    valset_root: bytes
    """Of its validators."""
    next_valset_root: bytes
    """Of the validators of the epoch after."""
    layout: Layout
    """Its shards."""
    next_layout: Layout
    """Those of the epoch after."""
    layout_root: bytes
    next_layout_root: bytes
    models: Mapping[bytes, ModelRecord]
    """Of its layout, by id."""
    roles: Roles = field(compare=False)
    """Who produces and endorses its chunks."""

    @property
    def epoch(self) -> int:
        """Its number."""
        return self.config.epoch

    @property
    def validators(self) -> ValidatorSet:
        """Who votes in it."""
        return self.config.validators


def compute_epoch(height: int, epoch_blocks: int) -> int:
    """Return the epoch of the block at `height`; genesis counts to epoch 0."""
    return max(height - 1, 0) // epoch_blocks


def compute_last_height(epoch: int, epoch_blocks: int) -> int:
    """Return the height of the epoch's last block, its boundary."""
    return (epoch + 1) * epoch_blocks


def compute_first_height(epoch: int, epoch_blocks: int) -> int:
    """Return the height of the epoch's first block."""
    return epoch * epoch_blocks + 1


def compute_seed(mix: bytes) -> bytes:
    """Return the seed that the mix of a boundary block gives, for two epochs on."""
    return compute_hash("seed", mix)


def load_epoch(ledger: Ledger, epoch_blocks: int) -> EpochState:
    """Return the epoch of the next block.

    Args:
        ledger: Of the root shard.
        epoch_blocks: Of the parameters.

    Raises:
        StoreError: The state has no validators or layout of it or of the one after,
            or no producers of it.
    """
    record = get_epoch_record(ledger)
    validators = get_validators(ledger, record.epoch)
    following = get_validators(ledger, record.epoch + 1)
    if validators is None or following is None:
        raise StoreError(f"the state has no validators of epoch {record.epoch} or next")
    producers = get_producers(ledger, record.epoch)
    if producers is None:
        raise StoreError(f"the state has no producers of epoch {record.epoch}")
    layout = get_layout(ledger, record.epoch)
    next_layout = get_layout(ledger, record.epoch + 1)
    return EpochState(
        EpochConfig(
            epoch=record.epoch,
            seed=record.seed,
            validators=validators,
            last_height=compute_last_height(record.epoch, epoch_blocks),
        ),
        validators.compute_root(),
        following.compute_root(),
        layout=layout,
        next_layout=next_layout,
        layout_root=layout.compute_root(),
        next_layout_root=next_layout.compute_root(),
        models=list_models(ledger, layout),
        roles=Roles(record.epoch, record.seed, validators, producers),
    )
