"""
Producing a layer shard's chunk: what a host of the shard does in its slot.

The chunk stands on an anchor, a block whose state the producer holds, and not on the
block that will include it.  It comes with its witness, so that a committee that does
not hold the shard can execute it again.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from chain.errors import InvalidTransaction
from chain.execution.chunk import (
    ChunkBody,
    ExecutedChunk,
    fill_header,
    finish_chunk,
)
from chain.execution.chunk_run import ChunkFull, ChunkLimits, ChunkRun
from chain.execution.context import build_context
from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from chain.execution.witness import (
    WitnessFull,
    WitnessMeter,
    build_witness,
    encode_witness,
)
from chain.records.spec import ChainSpec
from chain.records.transaction import SignedTransaction
from chain.state.chunk_state import ShardState
from primitives.types import Epoch, ShardId, View
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.packet import PacketProof

MAX_PASSED = 64
"""Transactions that are left out because the witness would be too long, before nobody
else is asked: one may touch a bucket that somebody made large on purpose, and those
behind it must not suffer for it."""

Candidates = Iterable[tuple[bytes, SignedTransaction]]
"""Bytes and what they say, in the order of preference and per sender by nonce."""


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Where a chunk stands."""

    shard: ShardId
    epoch: Epoch
    created_view: View
    producer: int
    """Index in the epoch's set."""


@dataclass(frozen=True, slots=True)
class FreshChunk:
    """A chunk that its producer has just made."""

    header: ChunkHeader
    body: ChunkBody
    witness: bytes
    executed: ExecutedChunk
    """For the producer, who need not execute it again."""


def produce_chunk(
    spec: ChainSpec,
    anchor: HeldBlock,
    place: ChunkPlace,
    *,
    inbox: Sequence[PacketProof],
    candidates: Candidates,
    limits: ChunkLimits,
    verified: VerifiedCache,
) -> FreshChunk | None:
    """Return a chunk on the shard's tip in `anchor`; None if there is nothing to do.

    Args:
        spec: The chain.
        anchor: A held block of the epoch, or its root, with the shard's state.
        place: Of the chunk.
        inbox: Packets that wait for the shard, in order per source.
        candidates: Transactions.
        limits: What one chunk may hold.
        verified: Transactions whose signature was checked before.
    """
    view, shard = anchor.view, place.shard
    state = ShardState(view, shard)
    context = build_context(spec, anchor, shard)
    try:
        run = ChunkRun(context, state.get, limits, verified, WitnessMeter(state))
        run.begin(state)
    except ChunkFull:
        # Somebody made buckets that every chunk touches too large for any witness.
        return None
    fill_chunk(run, limits, inbox, candidates)
    if run.is_empty:
        return None
    executed = finish_chunk(run, state)
    result = executed.result
    after = view.compute_child_with({shard: executed.buckets})
    return FreshChunk(
        header=fill_header(
            build_place(anchor, place),
            result,
            view.get_root(shard),
            after.get_root(shard),
        ),
        body=ChunkBody(result.consumed, result.transactions),
        witness=encode_witness(build_witness(state, executed.touched)),
        executed=executed,
    )


def fill_chunk(
    run: ChunkRun,
    limits: ChunkLimits,
    inbox: Sequence[PacketProof],
    candidates: Candidates,
) -> None:
    """Take packets up to half of the limits, then transactions.

    Half, so that neither a flood of packets nor one of transactions stops the other.
    """
    for proof in inbox:
        if run.work * 2 >= limits.work or run.bytes * 2 >= limits.bytes:
            break
        try:
            run.consume(proof)
        except ChunkFull:
            break
    passed = 0
    for signed_bytes, signed in candidates:
        try:
            run.execute(signed_bytes, signed)
        except InvalidTransaction:
            # It was good at the final state and is not here; it stays in the pool
            # until the next final block shows whether it is good again.
            continue
        except WitnessFull:
            passed += 1
            if passed == MAX_PASSED:
                break
        except ChunkFull:
            break


def build_place(anchor: HeldBlock, place: ChunkPlace) -> ChunkHeader:
    """Return the header of a chunk before anybody executed it: the place it has."""
    previous = anchor.heads[place.shard]
    return msgspec.structs.replace(
        previous,
        shard=place.shard,
        epoch=place.epoch,
        created_view=place.created_view,
        seq=previous.seq + 1,
        prev_chunk=compute_chunk_hash(previous),
        anchor=anchor.block_hash,
        producer=place.producer,
    )
