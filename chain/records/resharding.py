"""
Resharding as data: what validators send, and what shards send each other for it.

Rules: `reshard`, `reshard_vote` and `arrivals` of chain/contracts.

Spec: docs/protocol/06-shards.md
"""

from chain.records.account import Maturing
from chain.records.proposal import Change
from chain.records.registration import Registration
from primitives.codec import Record
from primitives.types import U32, Address


class Reshard(Record, tag=11):
    """Propose a change of the layout; it is the sender's vote too."""

    change: Change


class ReshardVote(Record, tag=12):
    """Approve a proposal."""

    number: U32


class Move(Record):
    """Payload of a MOVE packet: a registration whose first layer is there now."""

    registration: Registration


class Sweep(Record):
    """Payload of a SWEEP packet: what an account had in a shard that goes."""

    account: Address
    maturing: tuple[Maturing, ...]
    """Part of the packet's amount, with the heights from which it can be spent."""
