"""
The context of what runs on a held block: chunks, the system step, the mempool.

A context is all that a rule knows besides its shard's state.  As canonical bytes it
crosses into the processes that execute chunks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.execution.held import HeldBlock
from chain.ledger.context import Context
from chain.ledger.epochs import EpochState
from chain.ledger.halts import find_halted, read_halts
from chain.records.model import ModelRecord
from chain.records.params import ChainParams
from chain.records.spec import ChainSpec
from primitives.codec import Record, decode, encode
from primitives.types import Epoch, Hash32, Height, ShardId, TimeMs
from shards.chunk import ChunkHeader, Counter, get_count
from shards.layout import ROOT_SHARD, Layout


class ContextRecord(Record):
    """A context as bytes; the fields are those of `Context`."""

    chain_id: Hash32
    shard: ShardId
    epoch: Epoch
    height: Height
    time_ms: TimeMs
    layout: Layout
    models: tuple[ModelRecord, ...]
    """Ascending by id."""
    params: ChainParams
    consumed: tuple[Counter, ...]
    """Ascending by shard."""
    emitted: tuple[Counter, ...]
    """Likewise."""
    halted: tuple[ShardId, ...]
    """Ascending."""


def encode_context(context: Context) -> bytes:
    """Return the canonical bytes of a context."""
    models = context.models
    record = ContextRecord(
        chain_id=context.chain_id,
        shard=context.shard,
        epoch=context.epoch,
        height=context.height,
        time_ms=context.time_ms,
        layout=context.layout,
        models=tuple(models[model_id] for model_id in sorted(models)),
        params=context.params,
        consumed=_build_counters(context.consumed),
        emitted=_build_counters(context.emitted),
        halted=tuple(sorted(context.halted)),
    )
    return encode(record)


def decode_context(data: bytes) -> Context:
    """Return the context that the bytes encode.

    Raises:
        DecodeError: Not the canonical encoding of a context.
    """
    record = decode(ContextRecord, data)
    return Context(
        chain_id=record.chain_id,
        shard=record.shard,
        epoch=record.epoch,
        height=record.height,
        time_ms=record.time_ms,
        layout=record.layout,
        models={model.model_id: model for model in record.models},
        params=record.params,
        consumed={counter.shard: counter.count for counter in record.consumed},
        emitted={counter.shard: counter.count for counter in record.emitted},
        halted=frozenset(record.halted),
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """What "now" is in a chunk: its anchor."""

    height: Height
    time_ms: TimeMs
    heads: Mapping[ShardId, ChunkHeader]
    """Every shard's newest chunk header."""
    halted: frozenset[ShardId]
    """Shards that stand still."""


def build_context(spec: ChainSpec, parent: HeldBlock, shard: ShardId) -> Context:
    """Return what the rules may know in a chunk that stands on `parent`."""
    halts = read_halts(lambda key: parent.view.get(ROOT_SHARD, key))
    moment = Moment(
        parent.height,
        parent.header.time_ms,
        parent.heads,
        find_halted(halts, parent.height),
    )
    return build_context_at(spec, parent.child_epoch, moment, shard)


def build_context_at(
    spec: ChainSpec, epoch: EpochState, moment: Moment, shard: ShardId
) -> Context:
    """Return what the rules may know in a chunk of `epoch` at some moment of it."""
    return build_context_of(
        spec, epoch.epoch, epoch.layout, epoch.models, moment, shard
    )


def build_context_of(
    spec: ChainSpec,
    epoch: Epoch,
    layout: Layout,
    models: Mapping[bytes, ModelRecord],
    moment: Moment,
    shard: ShardId,
) -> Context:
    """Return the same for an epoch of which no more is known than layout and models."""
    return Context(
        chain_id=spec.chain_id,
        shard=shard,
        epoch=epoch,
        height=moment.height,
        time_ms=moment.time_ms,
        layout=layout,
        models=models,
        params=spec.params,
        consumed={
            other: get_count(head.in_cursor, shard)
            for other, head in moment.heads.items()
        },
        emitted={
            other: get_count(head.out_count, shard)
            for other, head in moment.heads.items()
        },
        halted=moment.halted,
    )


def _build_counters(counts: Mapping[ShardId, int]) -> tuple[Counter, ...]:
    return tuple(Counter(shard, counts[shard]) for shard in sorted(counts))
