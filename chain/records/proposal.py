"""
Proposals to change the layout, as the root shard keeps them.

How they are opened, voted for and decided: chain/ledger/docket.py and
chain/contracts/reshard.py.

Spec: docs/protocol/06-shards.md
"""

from typing import Annotated

from msgspec import Meta

from chain.records.model import ModelRecord
from primitives.codec import Record
from primitives.types import U8, U16, U32, Address, Epoch, Hash32, ShardId

MAX_PROPOSALS = 16
"""Open at a time: read at every boundary, and no validator has more than one."""
PROPOSAL_EPOCHS = 64
"""Boundaries that count a proposal's votes; an hour on a devnet."""
MAX_VOTES = 256
"""As many as there can be stakes."""


class SplitShard(Record, tag=1):
    """A new shard takes a shard's layers from `layer` on."""

    shard: ShardId
    layer: U16


class AddModel(Record, tag=2):
    """A model joins, with new and empty shards."""

    model: ModelRecord
    shards: U8
    """Into how many its layers are cut."""


class RetireModel(Record, tag=3):
    """A model leaves, with all its shards."""

    model_id: Hash32


Change = SplitShard | AddModel | RetireModel


class Proposal(Record):
    """A proposal and who approves of it."""

    number: U32
    """Counts all proposals from 0."""
    account: Address
    """Who proposed."""
    epoch: Epoch
    """In which."""
    change: Change
    votes: Annotated[tuple[Address, ...], Meta(max_length=MAX_VOTES)]
    """Owners of stakes, in order of their votes."""


class Docket(Record):
    """What is open."""

    next_number: U32
    next_shard: ShardId
    """Above every id that a shard of any layout ever had."""
    open: Annotated[tuple[U32, ...], Meta(max_length=MAX_PROPOSALS)]
    """Ascending."""
