"""
Executing a whole chunk: one function for everybody who ever does it.

Theory of operation
-------------------
    context, state before, transactions and packets --> result, buckets after

A validator that follows a block, an endorser with nothing but a witness, and a worker
process all call `execute_chunk`; a producer, which has still to find out what fits,
drives a `ChunkRun` and ends it with `finish_chunk`.  Nothing else is read and nothing
is written: where the state comes from is the caller's, as a `ChunkState`, and so is
what becomes of the buckets.  So the same chunk has the same result bit for bit
wherever it runs, and a chunk can run anywhere.

What `ChunkHeader` says besides, its place in the chain and the roots, is judged by
the callers; `fill_header` puts what the execution gave into a header.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from chain.errors import InvalidTransaction
from chain.execution.chunk_run import ChunkFull, ChunkLimits, ChunkResult, ChunkRun
from chain.execution.prediction import predict_keys
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.records.transaction import SignedTransaction, decode_transaction
from chain.state.bucket_writes import NewBucket, compute_new_buckets
from chain.state.chunk_state import ChunkState
from primitives.codec import Record, encode
from primitives.merkle import compute_list_root
from primitives.types import ShardId
from shards.chunk import ChunkHeader
from shards.errors import InvalidChunk, InvalidPacket
from shards.packet import PacketProof, compute_out_root


class ChunkBody(Record):
    """What a chunk consumes and executes, in this order."""

    packets: tuple[PacketProof, ...]
    """Proven: whoever executes a chunk has checked their way to an out_root."""
    transactions: tuple[bytes, ...]
    """Signed transactions, canonical bytes."""


@dataclass(frozen=True, slots=True)
class ExecutedChunk:
    """What a chunk brought about."""

    result: ChunkResult
    buckets: Mapping[int, NewBucket]
    """The shard's changed buckets, by number."""
    touched: frozenset[int]
    """Numbers of all buckets that were read or written, also by rules that refused:
    what a witness has to show, and all that it may show."""


def execute_chunk(
    context: Context,
    state: ChunkState,
    body: ChunkBody,
    limits: ChunkLimits,
    verified: VerifiedCache,
    pause: Callable[[], None] | None = None,
) -> ExecutedChunk:
    """Execute all of a chunk.

    Args:
        context: Of the chunk's shard, at its anchor.
        state: Before the chunk.
        body: What it holds.
        limits: What it may hold.
        verified: Transactions whose signature was checked before.
        pause: Called before every transaction, so that the caller may look after
            something else meanwhile.

    Raises:
        InvalidChunk: No producer's chunk holds this; says what and where.
    """
    shard = context.shard
    transactions = _decode_transactions(shard, body)
    state.prepare(predict_keys(context, body.packets, transactions))
    run = ChunkRun(context, state.get, limits, verified)
    try:
        run.begin(state)
        for proof in body.packets:
            run.consume(proof)
        for index, signed in enumerate(transactions):
            if pause is not None:
                pause()
            try:
                run.execute(body.transactions[index], signed)
            except InvalidTransaction as error:
                raise _build_refusal(shard, index, error) from error
    except InvalidPacket as error:
        raise InvalidChunk(f"packet in shard {shard}: {error}") from error
    except ChunkFull as error:
        raise InvalidChunk(
            f"the chunk of shard {shard} has too many {error}"
        ) from error
    if run.is_empty:
        raise InvalidChunk(f"an empty chunk of shard {shard}")
    return finish_chunk(run, state)


def finish_chunk(run: ChunkRun, state: ChunkState) -> ExecutedChunk:
    """Return what a run over `state` brought about; the run is over."""
    result = run.finish()
    buckets = compute_new_buckets(state.get_index, state.get_bucket, result.writes)
    touched = frozenset(state.get_index(key) for key in run.compute_touched())
    touched = touched.union(run.walked)
    return ExecutedChunk(result, buckets, touched)


def fill_header(
    place: ChunkHeader, result: ChunkResult, pre_root: bytes, post_root: bytes
) -> ChunkHeader:
    """Return the header that executing a chunk gives.

    Args:
        place: Its fields up to the producer are kept; they say where the chunk
            stands, and execution does not know.
        result: Of the execution.
        pre_root: The shard's state root before.
        post_root: And after.
    """
    return msgspec.structs.replace(
        place,
        pre_root=pre_root,
        post_root=post_root,
        tx_root=compute_list_root(result.transactions),
        tx_count=len(result.transactions),
        in_root=compute_list_root([encode(proof) for proof in result.consumed]),
        in_cursor=result.in_cursor,
        out_count=result.out_count,
        out_root=compute_out_root(result.emitted),
        fees=result.fees,
        work=result.work,
        bytes=result.bytes,
    )


def validate_filled(given: ChunkHeader, computed: ChunkHeader) -> None:
    """Check a header against the one that executing its chunk gave.

    Raises:
        InvalidChunk: Names the first field that differs.
    """
    if given == computed:
        return
    for name in ChunkHeader.__struct_fields__:
        mine, theirs = getattr(computed, name), getattr(given, name)
        if mine != theirs:
            raise InvalidChunk(
                f"chunk of shard {given.shard}: {name} is {_show(theirs)}, "
                f"executing it gives {_show(mine)}"
            )


def _decode_transactions(shard: ShardId, body: ChunkBody) -> list[SignedTransaction]:
    transactions = []
    for signed_bytes in body.transactions:
        try:
            transactions.append(decode_transaction(signed_bytes))
        except InvalidTransaction as error:
            raise _build_refusal(shard, len(transactions), error) from error
    return transactions


def _build_refusal(
    shard: ShardId, index: int, error: InvalidTransaction
) -> InvalidChunk:
    return InvalidChunk(f"transaction {index} of shard {shard}: {error.code}: {error}")


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
