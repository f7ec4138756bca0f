"""
Gaps: blocks in which a shard was not followed, so that no list tells what it did.

Kept in the batch that makes blocks final: a gap opens with the first block after which
a shard is not followed, and closes with the first after which it is again.  Who takes
a shard on executes what it did since some boundary, and that much of the gap is gone.

Spec: docs/protocol/10-interfaces.md
"""

from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta

from chain.execution.held import HeldBlock
from chain.storage.store import ChainReader
from primitives.codec import Record, encode
from primitives.types import Height, ShardId

GAPS_KEY = b"Mgaps"
MAX_REASON = 200
"""Characters."""
MAX_GAPS = 256
"""Kept; the oldest go: each took somebody's command, a fraud or a change of layout."""


class Gap(Record):
    """Blocks of which it is not known here what a shard did."""

    shard: ShardId
    first: Height
    last: Height | None
    """None: it is not followed now."""
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""
    """Why, where it was not our choice: a certified chunk that executed differently."""


def read_gaps(store: ChainReader) -> tuple[Gap, ...]:
    """Return the gaps in our history, oldest first."""
    found = store.read(GAPS_KEY, GapList)
    return () if found is None else found.gaps


def has_gap(gaps: tuple[Gap, ...], shard: ShardId, height: Height) -> bool:
    """Tell whether some block at a height or above had a shard that was not followed.

    Then taking blocks back leads to no state of it at that height.
    """
    return any(
        gap.shard == shard and (gap.last is None or gap.last >= height) for gap in gaps
    )


class GapList(Record):
    """As it is stored."""

    gaps: tuple[Gap, ...]


def compute_gap_changes(
    store: ChainReader, chain: Sequence[HeldBlock]
) -> dict[bytes, bytes | None]:
    """Return what keeps the gaps right when blocks become final; mostly nothing.

    Args:
        store: Before them.
        chain: They, oldest first.
    """
    before = gaps = read_gaps(store)
    for held in chain:
        missing = held.heads.keys() - held.followed
        begun = {
            shard: adopted.first
            for shard in held.followed
            if (adopted := store.get_adopted(shard)) is not None
        }
        gaps = update_gaps(gaps, held.height, missing, begun, held.strayed)
    return {} if gaps == before else {GAPS_KEY: encode(GapList(gaps))}


def update_gaps(
    gaps: tuple[Gap, ...],
    height: Height,
    missing: Set[ShardId],
    begun: Mapping[ShardId, Height],
    strayed: Mapping[ShardId, str] = MappingProxyType({}),
) -> tuple[Gap, ...]:
    """Return the gaps after one more final block.

    Args:
        gaps: Before it.
        height: Its height.
        missing: Shards that are not followed after it.
        begun: Of those that were taken on, the block after which all is known.
        strayed: Why shards are not followed any more.
    """
    updated = []
    for gap in gaps:
        last = gap.last
        if last is None and gap.shard not in missing:
            last = begun.get(gap.shard, height - 1)
        if last is None or last >= gap.first:
            updated.append(Gap(gap.shard, gap.first, last, gap.reason))
    still_open = {gap.shard for gap in updated if gap.last is None}
    updated += [
        Gap(shard, height, None, strayed.get(shard, "")[:MAX_REASON])
        for shard in sorted(missing - still_open)
    ]
    return tuple(updated[-MAX_GAPS:])
