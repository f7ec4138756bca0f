"""
Who executes a block's chunks: this process, or somebody beside it.

Shards touch nothing but their own state, so the chunks of a block may run in any order
and side by side.  The tree hands all of them over at once and waits for all results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chain.execution.chunk import ChunkBody, ExecutedChunk, execute_chunk
from chain.execution.chunk_run import ChunkLimits
from chain.execution.verified import VerifiedCache
from chain.execution.witness import execute_witnessed
from chain.ledger.context import Context
from chain.state.chunk_state import ShardState
from shards.chunk import ChunkHeader


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """A chunk to execute; the arguments of `execute_chunk`."""

    context: Context
    state: ShardState
    body: ChunkBody
    limits: ChunkLimits


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """A chunk to execute from its witness; the arguments of `execute_witnessed`."""

    context: Context
    header: ChunkHeader
    body: ChunkBody
    witness: bytes
    """Untrusted."""
    limits: ChunkLimits


class ChunkExecutor(Protocol):
    """Executes chunks."""

    def execute(
        self, tasks: Sequence[ChunkTask], verified: VerifiedCache
    ) -> list[ExecutedChunk]:
        """Return what each chunk brings about, in the order of the tasks.

        Args:
            tasks: Of different shards.
            verified: Transactions whose signature was checked; more are added.

        Raises:
            InvalidChunk: One of them cannot be executed; the first one's reason.
        """

    def judge(self, task: JudgeTask, verified: VerifiedCache) -> ExecutedChunk:
        """Return what a chunk brings about, which is what its header says.

        Raises:
            InvalidWitness: The witness is not the one of this chunk.
            InvalidChunk: Executing it does not give its header.
        """


class InProcess:
    """One after the other, here."""

    def execute(
        self, tasks: Sequence[ChunkTask], verified: VerifiedCache
    ) -> list[ExecutedChunk]:
        """Return what each chunk brings about; see `ChunkExecutor`."""
        return [
            execute_chunk(task.context, task.state, task.body, task.limits, verified)
            for task in tasks
        ]

    def judge(self, task: JudgeTask, verified: VerifiedCache) -> ExecutedChunk:
        """Return what a chunk brings about; see `ChunkExecutor`."""
        return execute_witnessed(
            task.context, task.header, task.body, task.witness, task.limits, verified
        )
