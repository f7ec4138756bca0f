"""One block's chunks, shared between this process and its workers."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from chain.chunk_context import encode_context
from chain.chunk_execution import ChunkBody, ExecutedChunk
from chain.executor import ChunkTask, InProcess
from chain.transaction import compute_tx_id
from chain.verified import VerifiedCache
from p2pchain.node.chunk_process import (
    PATIENCE_S,
    ChunkProcess,
    WorkerLost,
    wait_readable,
)
from p2pchain.node.chunk_wire import (
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

Lose = Callable[[ChunkProcess, WorkerLost], None]
"""Told of a worker that is of no use any more."""


class Batch:
    """Chunks that are being executed; lives for one call.

    Larger chunks are handed out first.  Before this process turns to a chunk of its
    own it gives every worker the state that it asks for, so that all work side by
    side; what a worker asks for later has to wait until our own chunk is done.
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
        self._hungry: set[ChunkProcess] = set()
        """Those of them that have not got any state yet."""
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
            while self._hungry:
                self._serve(PATIENCE_S)
            while self._waiting or self._busy:
                if self._waiting:
                    self._execute_here(self._waiting.popleft())
                self._serve(0 if self._waiting else PATIENCE_S)
                self._hand_out()
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
        """Give idle workers chunks, but keep the last one for this process."""
        while self._idle and len(self._waiting) > (0 if self._busy else 1):
            worker = self._idle.pop()
            number = self._waiting.popleft()
            self._busy[worker] = number
            self._hungry.add(worker)
            try:
                worker.send(build_request(self._tasks[number], self._verified))
            except WorkerLost as error:
                self._drop(worker, error)

    def _execute_here(self, number: int) -> None:
        try:
            executed = InProcess().execute([self._tasks[number]], self._verified)
            self._results[number] = executed[0]
        except InvalidChunk as error:
            self._results[number] = error

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

    def _on_answer(self, worker: ChunkProcess, answer: Answer) -> None:
        number = self._busy[worker]
        task = self._tasks[number]
        match answer:
            case Need(indices=indices):
                worker.send(_build_supply(task, indices))
                self._hungry.discard(worker)
                return
            case Done():
                self._results[number] = take_done(task.body, answer, self._verified)
            case Refused(is_witness=False, message=message):
                self._results[number] = InvalidChunk(message)
            case _:
                raise WorkerLost(f"{type(answer).__name__} is no answer")
        del self._busy[worker]
        self._hungry.discard(worker)
        self._idle.append(worker)

    def _drop(self, worker: ChunkProcess, error: WorkerLost) -> None:
        self._waiting.append(self._busy.pop(worker))
        self._hungry.discard(worker)
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
