"""
The node's chunk workers: chunks of several shards, side by side on several cores.

Theory of operation
-------------------
    BlockTree --tasks--> ChunkWorkers --Execute--> worker 1   decode, verify, execute
        ^                  |   ^      --Execute--> worker 2
        |                  |   +--------Need-------            which buckets
        |                  +------------Supply---->            this process has LevelDB
        |                  |   executes the remaining chunks itself meanwhile
        +----results-------+<-----------Done-------            results and new buckets

The tree is synchronous and so is this: `execute` returns when all chunks are done.
`judge` takes one chunk with its witness, for endorsers, and may run in a thread beside.

Workers are an accelerator and nothing else.  One that dies, hangs or talks nonsense is
killed and replaced, and its chunk is executed here, by the same code and with the same
result.  They are started when blocks first hold enough work for two, so that an idle
node has none, and nobody waits for a start: until a worker is ready, work is done here.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from chain.errors import InvalidWitness
from chain.execution.chunk import ChunkBody, ExecutedChunk
from chain.execution.context import encode_context
from chain.execution.executor import ChunkTask, InProcess, JudgeTask
from chain.execution.verified import VerifiedCache
from p2pchain.node.chunks.batch import Batch, pack_known, take_done
from p2pchain.node.chunks.process import ChunkProcess, WorkerLost
from p2pchain.node.chunks.wire import Done, Judge, Refused
from shards.errors import InvalidChunk

log = logging.getLogger(__name__)

MOST_WORKERS = 8
"""More chunks than that are rarely in one block."""
LEAST_TRANSACTIONS = 32
"""In a chunk that is worth handing over: about 2 ms of work for 0.5 ms of talk."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between the loss of a worker and the start of the next one; doubles."""


def compute_default_workers() -> int:
    """Return how many workers a node has by itself: one core stays for the node."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1)


class ChunkWorkers:
    """A `ChunkExecutor` with worker processes; close it, or use it as a context."""

    def __init__(
        self,
        count: int,
        *,
        bls: str = "native",
        least_transactions: int = LEAST_TRANSACTIONS,
    ) -> None:
        """
        Args:
            count: Worker processes at most; 0 executes everything here.
            bls: Backend of signatures, as this process uses it.
            least_transactions: With packets, in a chunk that is worth handing over.
        """
        self._count = count
        self._bls = bls
        self._least = least_transactions
        self._here = InProcess()
        self._lock = threading.Lock()
        """Over the fields below: judges run in threads."""
        self._workers: set[ChunkProcess] = set()
        self._taken: set[ChunkProcess] = set()
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        """On the monotonic clock: when the next process may be started."""
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [worker.process.pid for worker in self._workers]

    def execute(
        self, tasks: Sequence[ChunkTask], verified: VerifiedCache
    ) -> list[ExecutedChunk]:
        """Return what each chunk brings about; see `ChunkExecutor`."""
        large = [task for task in tasks if self._is_large(task.body)]
        workers = self._take(len(large) - 1)
        if not workers:
            return self._here.execute(tasks, verified)
        try:
            results = Batch(tasks, workers, verified, self._lose).run()
            self._praise(workers)
            return results
        finally:
            self._give_back(workers)

    def judge(self, task: JudgeTask, verified: VerifiedCache) -> ExecutedChunk:
        """Return what a chunk brings about; see `ChunkExecutor`."""
        workers = self._take(1)
        if workers:
            try:
                return judge_there(workers[0], task, verified)
            except WorkerLost as error:
                self._lose(workers[0], error)
            finally:
                self._give_back(workers)
        return self._here.judge(task, verified)

    def wait_ready(self, timeout_s: float) -> bool:
        """Start all workers now and wait until they are ready; False if they are not.

        Nothing needs this but what measures them.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            workers = self._take(self._count)
            self._give_back(workers)
            if len(workers) == self._count:
                return True
            time.sleep(0.01)
        return False

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._is_closed = True
            workers, self._workers = self._workers, set()
        for worker in workers:
            worker.kill()

    def _is_large(self, body: ChunkBody) -> bool:
        return len(body.transactions) + len(body.packets) >= self._least

    def _take(self, count: int) -> list[ChunkProcess]:
        """Return up to `count` workers that are ready, for the caller alone."""
        if count <= 0 or self._count == 0:
            return []
        with self._lock:
            self._start_missing()
            free = list(self._workers - self._taken)
            self._taken.update(free)
        ready: list[ChunkProcess] = []
        for worker in free:
            try:
                if len(ready) < count and worker.is_ready():
                    ready.append(worker)
            except WorkerLost as error:
                self._lose(worker, error)
        self._give_back([worker for worker in free if worker not in ready])
        return ready

    def _give_back(self, workers: Sequence[ChunkProcess]) -> None:
        with self._lock:
            self._taken.difference_update(workers)

    def _lose(self, worker: ChunkProcess, error: WorkerLost) -> None:
        """Take a worker out; the next one is started when there is work again."""
        worker.kill()
        with self._lock:
            self._workers.discard(worker)
            pause_s = self._pause_s
            self._not_before = time.monotonic() + pause_s
            self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        log.warning("chunk worker lost (%s); next try in %g s", error, pause_s)

    def _praise(self, workers: Sequence[ChunkProcess]) -> None:
        """Forget old losses, unless one of these is a new one."""
        with self._lock:
            if self._workers.issuperset(workers):
                self._pause_s = FIRST_PAUSE_S

    def _start_missing(self) -> None:
        """Start processes up to our number; the lock is held."""
        if self._is_closed or time.monotonic() < self._not_before:
            return
        try:
            while len(self._workers) < self._count:
                self._workers.add(ChunkProcess.start(self._bls))
        except OSError as error:
            log.warning("cannot start a chunk worker: %s", error)
            self._not_before = time.monotonic() + self._pause_s


def judge_there(
    worker: ChunkProcess, task: JudgeTask, verified: VerifiedCache
) -> ExecutedChunk:
    """Let a worker judge a chunk.

    Raises:
        WorkerLost: It did not.
        InvalidWitness: The witness is not the one of this chunk.
        InvalidChunk: Executing it does not give its header.
    """
    worker.send(
        Judge(
            context=encode_context(task.context),
            limits=task.limits,
            header=task.header,
            body=task.body,
            known=pack_known(task.body, verified),
            witness=task.witness,
        )
    )
    match worker.receive():
        case Done() as done:
            return take_done(task.body, done, verified)
        case Refused(is_witness=True, message=message):
            raise InvalidWitness(message)
        case Refused(message=message):
            raise InvalidChunk(message)
        case answer:
            raise WorkerLost(f"{type(answer).__name__} is no answer")
