"""
Chunks of blocks that are final already, and what executing them anew needs.

A chunk's rules know the moment of its anchor: its time, every shard's newest chunk
header as of then, and the layout of its epoch.  Headers of final blocks are here for
all shards; layouts are in the root shard's state for the last epoch, the running one
and the next.  So what was done since the last boundary but one can be executed anew.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterator
from dataclasses import dataclass

from chain.errors import PastChunk, StoreError
from chain.execution.context import Moment, build_context_of
from chain.ledger.context import Context
from chain.ledger.epochs import compute_last_height
from chain.ledger.halts import find_halted, read_halts
from chain.ledger.layouts import find_layout, list_models
from chain.ledger.ledger import ShardLedger
from chain.records.spec import ChainSpec
from chain.storage.store import ChainReader, build_key
from chain.tree.branch import Branch
from primitives.types import Epoch, Height, ShardId
from shards.chunk import ChunkHeader
from shards.layout import ROOT_SHARD


@dataclass(frozen=True, slots=True)
class FinalChunk:
    """A layer shard's chunk in a final block."""

    height: Height
    """Of the block."""
    header: ChunkHeader
    context: Context
    """What its rules may know."""
    branch: Branch
    """Up to the last final block; of it only the database is still to be read."""


def iterate_next_headers(
    store: ChainReader, shard: ShardId, height: Height
) -> Iterator[tuple[Height, ChunkHeader]]:
    """Yield the headers of a shard's final chunks above a height, ascending."""
    prefix, start = (shard, 2), (height + 1, 8)
    headers = store.iterate(
        build_key(b"K", prefix), ChunkHeader, start=build_key(b"K", prefix, start)
    )
    for key, header in headers:
        yield int.from_bytes(key[3:], "big"), header


def find_next_chunk(
    spec: ChainSpec, branch: Branch, shard: ShardId, height: Height
) -> FinalChunk | None:
    """Return the first final chunk of a shard above a height.

    Args:
        spec: The chain.
        branch: Up to the last final block.
        shard: A layer shard.
        height: Of a final block.

    Raises:
        PastChunk: The state has forgotten its epoch.
    """
    for at, header in iterate_next_headers(branch.store, shard, height):
        context = build_past_context(spec, branch, header)
        return FinalChunk(at, header, context, branch)
    return None


def list_past_boundaries(
    epoch: Epoch, epoch_blocks: int, first_height: Height
) -> tuple[Height, ...]:
    """Return the heights from which chunks can be executed anew, the newest first.

    Args:
        epoch: Of the next block.
        epoch_blocks: Of the parameters.
        first_height: Where our history begins.
    """
    heights = (compute_last_height(e - 1, epoch_blocks) for e in (epoch, epoch - 1))
    return tuple(height for height in heights if height >= first_height)


def build_past_context(spec: ChainSpec, branch: Branch, header: ChunkHeader) -> Context:
    """Return what the rules may know in a chunk that a final block holds.

    Args:
        spec: The chain.
        branch: That the block is on.
        header: Of the chunk.

    Raises:
        PastChunk: The state has forgotten its epoch.
    """
    tip = branch.tip

    def read(key: bytes) -> bytes | None:
        return tip.view.get(ROOT_SHARD, key)

    ledger = ShardLedger(read)
    anchor = branch.find_anchor(header.anchor)
    layout = find_layout(ledger, header.epoch)
    is_there = layout is not None and header.shard in layout.shard_ids
    if anchor is None or layout is None or not is_there:
        raise PastChunk(header.shard, header.epoch)
    try:
        models = list_models(ledger, layout)
    except StoreError as error:
        raise PastChunk(header.shard, header.epoch) from error
    heads = {
        shard: head
        for shard in layout.shard_ids
        if (head := branch.find_head(shard, anchor.height)) is not None
    }
    time_ms = branch.get_time_ms(header.anchor)
    halted = find_halted(read_halts(read), anchor.height)
    moment = Moment(anchor.height, time_ms, heads, halted)
    return build_context_of(spec, header.epoch, layout, models, moment, header.shard)
