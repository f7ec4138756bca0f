"""
What an endorser does: execute somebody's chunk from its witness, and nothing else.

What was executed here once is remembered by the chunk's hash, so the block that holds
the chunk costs nothing any more.

Spec: docs/protocol/06-shards.md
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from chain.execution.chunk import ChunkBody, ExecutedChunk
from chain.execution.executor import ChunkExecutor, JudgeTask
from chain.execution.verified import VerifiedCache
from chain.records.spec import ChainSpec
from chain.tree.branch import Branch
from chain.tree.processing import build_chunk_context, build_claim, validate_sources
from shards.messages import ProducedChunk

MAX_EXECUTED = 64
"""Chunks whose result is remembered: one per shard; each weighs what it writes, below
a megabyte."""


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


def judge_chunk(
    spec: ChainSpec,
    branch: Branch,
    produced: ProducedChunk,
    verified: VerifiedCache,
    executor: ChunkExecutor,
) -> ExecutedChunk:
    """Return what somebody's chunk brings about, which is what its header says.

    Args:
        spec: The chain.
        branch: On which a block could hold the chunk, by its header.
        produced: Its body is the one that its header binds.
        verified: Signatures checked before.
        executor: Runs it.

    Raises:
        InvalidChunk: Executing it does not give its header.
        InvalidWitness: The witness is not the chunk's.
    """
    validate_sources(produced.packets, branch)
    header = produced.header
    task = JudgeTask(
        build_chunk_context(spec, branch, header),
        header,
        ChunkBody(produced.packets, produced.transactions),
        produced.witness,
        build_claim(spec.params, header),
    )
    return executor.judge(task, verified)
