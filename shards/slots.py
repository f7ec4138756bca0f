"""
Slots: one place for one chunk of a shard, and who may fill it.

    slot = (epoch, shard, created_view)

    view entered          + Delta       + 2 Delta      + 3 Delta ...
      rank 0: a host      rank 1        rank 2         the epoch's custodians
      produces            if nothing came before, and so on

Hosts of a shard's layers hold its state and come first, three of them in an order that
changes with every slot; then come the epoch's three custodians, drawn by stake from all
validators, so that a shard without hosts stays alive.

A producer signs one chunk per slot and an endorser one endorsement, whatever the fork
or the rank (evidence E6 and E4), so a slot is what these signatures name first.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterable, Sequence

from primitives.codec import Record
from primitives.hashing import compute_hash
from primitives.types import Epoch, ShardId, View
from shards.chunk import ChunkHeader
from shards.committee import draw_distinct

CUSTODIANS = 3
"""Paid keepers of a shard per epoch: with a third of the stake faulty, all three are
once in 27 shards and epochs, and then the next epoch draws others."""

MAX_RANKED_HOSTS = 3
"""Hosts with a turn in one slot.  More would only push the custodians back: the next
slot, a second later, ranks other hosts first."""

MAX_PRODUCERS = MAX_RANKED_HOSTS + CUSTODIANS
"""Different chunks that one slot can see from honest and lying producers together."""


def compute_brief_turn_ms(interval_ms: int, delta_ms: int) -> int:
    """Return how long a producer is awaited that let its last turn pass.

    A slot is over when its view is, and a view may last no longer than the interval
    between two blocks.  Within that every rank has its turn after silent ones, or
    silent hosts would keep custodians from ever having one.

    Args:
        interval_ms: Between the times of two blocks.
        delta_ms: How long a message takes at most while the network is well.
    """
    return min(delta_ms, interval_ms // MAX_PRODUCERS)


class Slot(Record):
    """Where a chunk belongs; at most one chunk of a shard per view of an epoch."""

    epoch: Epoch
    shard: ShardId
    created_view: View
    """The view in which its producer made it."""


def get_slot(header: ChunkHeader) -> Slot:
    """Return the slot that a chunk fills."""
    return Slot(header.epoch, header.shard, header.created_view)


def draw_custodians(
    seed: bytes, shard: ShardId, powers: Sequence[int]
) -> tuple[int, ...]:
    """Return the indices of a shard's custodians for an epoch, in the order drawn.

    Args:
        seed: Of the epoch.
        shard: What they keep.
        powers: Of the epoch's validators; fewer than three give fewer custodians.
    """
    shard_seed = compute_hash("custodians", seed, shard.to_bytes(8, "big"))
    return draw_distinct(shard_seed, powers, CUSTODIANS)


def rank_producers(
    seed: bytes, slot: Slot, hosts: Iterable[int], custodians: Iterable[int]
) -> tuple[int, ...]:
    """Return who may produce the chunk of a slot, first the first.

    Args:
        seed: Of the slot's epoch.
        slot: What they fill.
        hosts: Indices of the validators that host layers of the shard.
        custodians: Indices of the epoch's custodians of the shard.
    """
    slot_seed = compute_hash(
        "produce-rank",
        seed,
        slot.shard.to_bytes(8, "big"),
        slot.created_view.to_bytes(8, "big"),
    )

    def compute_lot(index: int) -> bytes:
        return compute_hash("lot", slot_seed, index.to_bytes(8, "big"))

    ranked = sorted(set(hosts), key=compute_lot)[:MAX_RANKED_HOSTS]
    fallback = sorted(set(custodians) - set(ranked), key=compute_lot)
    return (*ranked, *fallback)
