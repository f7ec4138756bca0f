"""
Chunks of layer shards: making one, and judging what somebody else made.

    producer    anchor's state, packets, candidates --> header, body, witness
    endorser    header, body, witness               --> the same header, or not

What was executed here once is remembered by the chunk's hash, so the block that holds
the chunk costs nothing any more.

Spec: docs/protocol/06-shards.md
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from chain.branch import Branch
from chain.building import Picker, fill_chunk
from chain.chunk_context import build_context
from chain.chunk_execution import (
    ChunkBody,
    ExecutedChunk,
    fill_header,
    finish_chunk,
)
from chain.chunk_state import ShardState
from chain.execution import ChunkRun
from chain.executor import ChunkExecutor, JudgeTask
from chain.limits import compute_layer_limits, compute_share
from chain.processing import (
    build_chunk_context,
    build_claim,
    build_place,
    validate_sources,
)
from chain.spec import ChainSpec
from chain.verified import VerifiedCache
from chain.witness import (
    WitnessMeter,
    build_witness,
    encode_witness,
)
from primitives.types import ShardId
from shards.chunk import compute_chunk_hash
from shards.layout import ROOT_SHARD
from shards.messages import ProducedChunk
from shards.slots import Slot

MAX_EXECUTED = 64
"""Chunks whose result is remembered: one per shard; each weighs what it writes, below
a megabyte."""

NO_SIGNATURE = bytes(96)
"""Stands in a chunk that its producer has not signed yet."""


class ExecutedChunks(Mapping[bytes, ExecutedChunk]):
    """What chunks brought about, by chunk hash; the newest ones."""

    def __init__(self, capacity: int = MAX_EXECUTED) -> None:
        self._capacity = capacity
        self._chunks: OrderedDict[bytes, ExecutedChunk] = OrderedDict()

    def __getitem__(self, chunk_hash: bytes) -> ExecutedChunk:
        return self._chunks[chunk_hash]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __len__(self) -> int:
        return len(self._chunks)

    def add(self, chunk_hash: bytes, executed: ExecutedChunk) -> None:
        """Remember a result; the oldest one goes when there is no room."""
        self._chunks[chunk_hash] = executed
        if len(self._chunks) > self._capacity:
            self._chunks.popitem(last=False)


def produce_chunk(
    spec: ChainSpec,
    branch: Branch,
    slot: Slot,
    producer: int,
    picker: Picker,
    verified: VerifiedCache,
    done: ExecutedChunks,
) -> ProducedChunk | None:
    """Return an unsigned chunk on a branch's tip; None if the shard has nothing to do.

    Args:
        spec: The chain.
        branch: Its tip is the anchor.
        slot: Of the tip's child epoch, of a later view than the tip.
        producer: Our index in the epoch's set.
        picker: Candidates.
        verified: Signatures checked before.
        done: Takes the result.

    Raises:
        ChunkFull: Not even an empty chunk's witness fits.
    """
    shard, parent = slot.shard, branch.tip
    state = ShardState(parent.view, shard)
    share = compute_share(
        compute_layer_limits(spec.params, len(parent.heads)),
        _count_busy(branch, shard, picker),
    )
    context = build_context(spec, parent, shard)
    run = ChunkRun(context, state.get, share, verified, WitnessMeter(state))
    inbox = branch.get_inbox(shard, spec.params.chunk_packets)
    fill_chunk(run, state, share, inbox, picker)
    if run.is_empty:
        return None
    executed = finish_chunk(run, state)
    result = executed.result
    after = parent.view.compute_child_with({shard: executed.buckets})
    header = fill_header(
        build_place(parent.heads[shard], slot, parent.block_hash, producer),
        result,
        parent.view.get_root(shard),
        after.get_root(shard),
    )
    done.add(compute_chunk_hash(header), executed)
    witness = build_witness(state, executed.touched)
    return ProducedChunk(
        header=header,
        signature=NO_SIGNATURE,
        transactions=result.transactions,
        packets=result.consumed,
        witness=encode_witness(witness),
    )


def judge_chunk(
    spec: ChainSpec,
    branch: Branch,
    produced: ProducedChunk,
    verified: VerifiedCache,
    executor: ChunkExecutor,
    done: ExecutedChunks,
) -> None:
    """Execute somebody's chunk from its witness.

    Args:
        spec: The chain.
        branch: On which a block could hold the chunk, by its header.
        produced: Its body is the one that its header binds.
        verified: Signatures checked before.
        executor: Runs it.
        done: Takes the result.

    Raises:
        InvalidChunk: Executing it does not give its header.
        InvalidWitness: The witness is not the chunk's.
    """
    header = produced.header
    validate_sources(produced.packets, branch)
    task = JudgeTask(
        build_chunk_context(spec, branch, header),
        header,
        ChunkBody(produced.packets, produced.transactions),
        produced.witness,
        build_claim(spec.params, header),
    )
    done.add(compute_chunk_hash(header), executor.judge(task, verified))


def _count_busy(branch: Branch, shard: ShardId, picker: Picker) -> int:
    """Return among how many shards a block's room is to be shared, `shard` included."""
    others = [
        other
        for other in branch.tip.heads
        if other not in (shard, ROOT_SHARD)
        and (picker.get_waiting(other) or branch.has_inbox(other))
    ]
    return 1 + len(others)
