"""One block's chunks, shared between this process and its workers."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from chain.execution.chunk import ChunkBody, ExecutedChunk, execute_chunk
from chain.execution.context import encode_context
from chain.execution.executor import ChunkTask
from chain.execution.verified import VerifiedCache
from chain.records.transaction import compute_tx_id
from p2pchain.node.chunks.process import (
    PATIENCE_S,
    ChunkProcess,
    WorkerLost,
    wait_readable,
)
from p2pchain.node.chunks.wire import (
    Answer,
    Done,
    Execute,
    Need,
    Refused,
    Supply,
    build_executed,
    pack_bits,
)
from primitives.buckets import CorruptBucket, compute_bucket_count
from primitives.errors import DecodeError
from shards.errors import InvalidChunk

log = logging.getLogger(__name__)

PAUSE_TRANSACTIONS = 16
"""Of our own, between two looks at the workers: a millisecond, while a look takes a few
microseconds."""

Lose = Callable[[ChunkProcess, WorkerLost], None]
"""Told of a worker that is of no use any more."""


class Batch:
    """Chunks that are being executed; lives for one call.

    Larger chunks are handed out first.  This process executes chunks too, and looks
    every few transactions whether a worker needs a part of the state or another chunk.
    """

    def __init__(
        self,
        tasks: Sequence[ChunkTask],
        workers: Sequence[ChunkProcess],
        verified: VerifiedCache,
        lose: Lose,
    ) -> None:
        """
        Args:
            tasks: More than workers.
            workers: Ready and idle.
            verified: Signatures checked before; more are added.
            lose: Called once for a worker that fails.
        """
        self._tasks = tasks
        self._verified = verified
        self._lose = lose
        self._idle = list(workers)
        self._busy: dict[ChunkProcess, int] = {}
        """Number of the task that each one has."""
        self._is_executing = False
        """This process has one too."""
        self._pauses = 0
        order = sorted(range(len(tasks)), key=self._compute_size, reverse=True)
        self._waiting = deque(order)
        self._results: dict[int, ExecutedChunk | InvalidChunk] = {}

    def run(self) -> list[ExecutedChunk]:
        """Return the result of every task.

        Raises:
            InvalidChunk: Of the first task that has none.
        """
        try:
            self._hand_out()
            while self._waiting or self._busy:
                if self._waiting:
                    self._execute_here(self._waiting.popleft())
                else:
                    self._serve(PATIENCE_S)
        finally:
            # Only when something here failed: nobody will take their answers.
            for worker in list(self._busy):
                self._drop(worker, WorkerLost("its block was given up"))
        results = []
        for number in range(len(self._tasks)):
            result = self._results[number]
            if isinstance(result, InvalidChunk):
                raise result
            results.append(result)
        return results

    def _compute_size(self, number: int) -> int:
        body = self._tasks[number].body
        return len(body.transactions) + len(body.packets)

    def _hand_out(self) -> None:
        """Give idle workers chunks, but let this process have one."""
        while self._idle and len(self._waiting) > (0 if self._is_executing else 1):
            worker = self._idle.pop()
            number = self._waiting.popleft()
            self._busy[worker] = number
            try:
                worker.send(build_request(self._tasks[number], self._verified))
            except WorkerLost as error:
                self._drop(worker, error)

    def _execute_here(self, number: int) -> None:
        task = self._tasks[number]
        self._is_executing = True
        try:
            self._results[number] = execute_chunk(
                task.context,
                task.state,
                task.body,
                task.limits,
                self._verified,
                self._look_up,
            )
        except InvalidChunk as error:
            self._results[number] = error
        self._is_executing = False

    def _look_up(self) -> None:
        """Look after the workers, now and then."""
        self._pauses += 1
        if self._pauses % PAUSE_TRANSACTIONS == 0:
            self._serve(0)

    def _serve(self, patience_s: float) -> None:
        """Take what workers say, after waiting for it for at most `patience_s`."""
        if not self._busy:
            return
        speaking = wait_readable(self._busy, patience_s)
        if not speaking and patience_s > 0:
            for worker in list(self._busy):
                self._drop(worker, WorkerLost(f"silent for {patience_s:g} s"))
        for worker in speaking:
            try:
                self._on_answer(worker, worker.receive())
            except WorkerLost as error:
                self._drop(worker, error)
        self._hand_out()

    def _on_answer(self, worker: ChunkProcess, answer: Answer) -> None:
        number = self._busy[worker]
        task = self._tasks[number]
        match answer:
            case Need(indices=indices):
                worker.send(_build_supply(task, indices))
                return
            case Done():
                self._results[number] = take_done(task.body, answer, self._verified)
            case Refused(is_witness=False, message=message):
                self._results[number] = InvalidChunk(message)
            case _:
                raise WorkerLost(f"{type(answer).__name__} is no answer")
        del self._busy[worker]
        self._idle.append(worker)

    def _drop(self, worker: ChunkProcess, error: WorkerLost) -> None:
        self._waiting.append(self._busy.pop(worker))
        self._lose(worker, error)


def build_request(task: ChunkTask, verified: VerifiedCache) -> Execute:
    """Return a task as a worker takes it."""
    return Execute(
        context=encode_context(task.context),
        limits=task.limits,
        levels=task.state.levels,
        body=task.body,
        known=pack_known(task.body, verified),
    )


def pack_known(body: ChunkBody, verified: VerifiedCache) -> bytes:
    """Return which signatures of a chunk were checked before."""
    return pack_bits([compute_tx_id(data) in verified for data in body.transactions])


def take_done(body: ChunkBody, done: Done, verified: VerifiedCache) -> ExecutedChunk:
    """Return a worker's result, and remember what signatures it has checked.

    Raises:
        WorkerLost: It is none.
    """
    try:
        executed = build_executed(body, done)
    except (DecodeError, CorruptBucket) as error:
        raise WorkerLost(f"a result that is none: {error}") from error
    for outcome in executed.result.outcomes:
        if outcome.tx_id not in verified:
            verified.add(outcome.tx_id)
    return executed


def _build_supply(task: ChunkTask, indices: Sequence[int]) -> Supply:
    count = compute_bucket_count(task.state.levels)
    if any(index >= count for index in indices):
        raise WorkerLost(f"it asks for a bucket beyond the {count} of the tree")
    return Supply(tuple(task.state.get_bucket_bytes(index) for index in indices))
