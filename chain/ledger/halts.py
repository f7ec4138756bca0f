"""
Halted shards in the root shard's state.

    H                    HaltedShards

A shard halts when its fraud is proven, and never goes on: what its state should be is
for people to decide.  From the children of the block that holds the proof on, no chunk
of it is valid and nobody consumes its packets.  What it holds stays in the books.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from chain.ledger.ledger import Ledger, ShardLedger
from chain.records.keys import HALTED_KEY
from primitives.codec import Record
from primitives.types import Height, ShardId
from shards.fraud import Halt
from shards.layout import MAX_SHARDS


class HaltedShards(Record):
    """All of them."""

    halts: Annotated[tuple[Halt, ...], Meta(max_length=MAX_SHARDS)]
    """Ascending by shard."""


def get_halts(ledger: Ledger) -> tuple[Halt, ...]:
    """Return what is halted, ascending by shard."""
    known = ledger.get(HALTED_KEY, HaltedShards)
    return () if known is None else known.halts


def is_halted(ledger: Ledger, shard: ShardId) -> bool:
    """Tell whether a shard is halted."""
    return any(halt.shard == shard for halt in get_halts(ledger))


def put_halt(ledger: Ledger, halt: Halt) -> None:
    """Halt a shard that is not halted yet."""
    halts = sorted((*get_halts(ledger), halt), key=lambda known: known.shard)
    ledger.put(HALTED_KEY, HaltedShards(tuple(halts)))


def read_halts(read: Callable[[bytes], bytes | None]) -> tuple[Halt, ...]:
    """Return what is halted, by a reader of the root shard's state."""
    return get_halts(ShardLedger(read))


def find_halted(halts: tuple[Halt, ...], height: Height) -> frozenset[ShardId]:
    """Return the shards that are halted for what stands on the block at `height`."""
    return frozenset(halt.shard for halt in halts if halt.height <= height)
