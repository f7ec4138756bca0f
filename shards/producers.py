"""
Who produces the chunks of a shard: hosts as they registered, and custodians by lot.

Theory of operation
-------------------
    home shard                       root shard
      | Register, of an account        |
      | -- HOSTING ------------------> |  a stake of that account? keep (account, home)
      |                                |
      |                    boundary of e: the set of e + 2 is chosen, and its hosts
      |                                |  and custodians with it: ProducerTable(e + 2)

A validator says which layers it holds in the one place where it says so anyway, its
registration; the home shard passes it on, and the root shard, which knows stakes, turns
accounts into places in a validator set.  Two epochs of notice give a new custodian the
time to fetch a shard before it has to produce.

Saying to host what one does not only costs the slots in which one is ranked: the next
in rank produces a Delta later.  Nothing is minted by hosting.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from consensus.validators import MAX_VALIDATORS
from primitives.codec import Record
from primitives.types import U16, U32, Address, ShardId
from shards.errors import InvalidPacket
from shards.layout import MAX_SHARDS
from shards.slots import CUSTODIANS, draw_custodians

MAX_HOSTED_SHARDS = 8
"""Shards of one registration, as the rules of registrations have it."""

MAX_HOMES = 8
"""Homes from which one account hosts: a node rarely has more than one; the record stays
below 256 bytes."""


class Hosting(Record):
    """Payload of a HOSTING packet: the shards that a registration covers now."""

    account: Address
    version: U32
    """Of the registration in the home shard, which is the packet's source."""
    shards: Annotated[tuple[ShardId, ...], Meta(max_length=MAX_HOSTED_SHARDS)]
    """Ascending; empty once the registration is refused or over."""


class HostedHome(Record):
    """What one home shard said last."""

    home: ShardId
    version: U32
    shards: Annotated[tuple[ShardId, ...], Meta(max_length=MAX_HOSTED_SHARDS)]


class HostRecord(Record):
    """All that one account with a stake hosts; kept in the root shard."""

    homes: Annotated[tuple[HostedHome, ...], Meta(max_length=MAX_HOMES)]
    """Ascending by home, none without shards."""

    @property
    def shards(self) -> frozenset[ShardId]:
        """The shards of all homes together."""
        return frozenset(shard for home in self.homes for shard in home.shards)


NO_HOSTING = HostRecord(())


class ShardProducers(Record):
    """Who may produce the chunks of one shard for an epoch."""

    shard: ShardId
    hosts: Annotated[tuple[U16, ...], Meta(max_length=MAX_VALIDATORS)]
    """Indices in the epoch's set, ascending."""
    custodians: Annotated[tuple[U16, ...], Meta(max_length=CUSTODIANS)]
    """Indices in the epoch's set, ascending."""


class ProducerTable(Record):
    """The producers of every layer shard for one epoch."""

    shards: Annotated[tuple[ShardProducers, ...], Meta(max_length=MAX_SHARDS)]
    """Ascending by shard."""

    def get(self, shard: ShardId) -> ShardProducers | None:
        """Return the producers of a shard; None for one that has no chunks."""
        for producers in self.shards:
            if producers.shard == shard:
                return producers
        return None


def apply_hosting(record: HostRecord, home: ShardId, hosting: Hosting) -> HostRecord:
    """Return what an account hosts after a packet of one of its homes.

    Packets come in order, so a later one of a home always counts.  A ninth home is left
    out: it brings no right, only the turn to produce.

    Args:
        record: Of the account, `NO_HOSTING` at first.
        home: The packet's source.
        hosting: Its payload.

    Raises:
        InvalidPacket: Shards that do not ascend; no rule emits that.
    """
    if any(left >= right for left, right in pairwise(hosting.shards)):
        raise InvalidPacket("hosted shards that do not ascend")
    others = [known for known in record.homes if known.home != home]
    if not hosting.shards or len(others) >= MAX_HOMES:
        return HostRecord(tuple(others))
    said = HostedHome(home, hosting.version, hosting.shards)
    return HostRecord(tuple(sorted([*others, said], key=lambda known: known.home)))


def drop_homes(record: HostRecord, shards: Collection[ShardId]) -> HostRecord:
    """Return what an account hosts by the word of homes among `shards`."""
    return HostRecord(tuple(home for home in record.homes if home.home in shards))


def choose_producers(
    seed: bytes,
    shards: Iterable[ShardId],
    powers: Sequence[int],
    hosted: Mapping[int, HostRecord],
) -> ProducerTable:
    """Return the producers of an epoch, as a boundary two epochs before chooses them.

    Args:
        seed: Of that epoch.
        shards: The layer shards of that epoch's layout.
        powers: Of that epoch's validators, in their order.
        hosted: By index in that set; those who host nothing may be left out.
    """
    return ProducerTable(
        tuple(
            ShardProducers(
                shard,
                tuple(i for i in sorted(hosted) if shard in hosted[i].shards),
                tuple(sorted(draw_custodians(seed, shard, powers))),
            )
            for shard in sorted(shards)
        )
    )
