"""
Worker processes as the node sees them: start, readiness, restart, end.  No torch.

Theory of operation
-------------------
Layers run in processes of their own, so that a forward pass never delays a vote and a
crash or the kernel's out-of-memory killer never stops a validator.  A worker object
lives as long as the node; the process behind it may die and be started again:

    STARTING --first frame: loaded and self-tested--> READY
     |   ^                                              |
     |   +--- after a pause that doubles up to 30 s ----+  (died)
     +--- refuses its model: not mended by a restart ---> FAILED

Calls made while no process is READY raise at once: WorkerLost, or WorkerFailed with
the reason.  Sessions live in the process; after a restart they are unknown, and
whoever holds them replays or gives up.

The worker is told to end by closing its socket and SIGTERM, and after a grace by
SIGKILL; it is always reaped before `run` returns.  The hashes of what it read are
compared with the manifest before it is READY.
"""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import trio

from inference.device.hardware import CPU
from inference.device.precision import Precision
from inference.errors import (
    BadWeights,
    ModelError,
    WorkerError,
    WorkerFailed,
    WorkerLost,
)
from inference.weights.model_info import Model, ModelInfo
from inference.worker.link import BuildRequest, WorkerLink, open_pair
from inference.worker.wire import (
    Answer,
    CloseSession,
    Ready,
)
from inference.worker.worker import ENVIRONMENT
from primitives.errors import P2PChainError

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
"""Between restarts: soon after the first death, rarely when it keeps dying."""
STABLE_S = 60.0
"""Alive so long, the next death counts as a first one again."""
GRACE_S = 2.0
"""A worker has nothing to save; SIGTERM ends it at once unless it is stuck."""

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Answer)


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What the node tells about a worker."""

    state: WorkerState
    reason: str
    """Why it failed or was last lost; empty where nothing went wrong."""
    pid: int | None
    restarts: int
    layers: tuple[int, int] | None
    """None for a requester."""
    bytes_read: int
    """Weights that the running process read from disk."""
    position_bytes: int
    """Bytes of cache per position of a session."""
    used_bytes: int
    """Of the cache's budget, promised to open sessions."""
    engine: str
    """Which engine runs the layers; empty for a requester and before it is ready."""


class SupervisedWorker:
    """One worker of any role; `run` is its life."""

    def __init__(
        self,
        directory: Path,
        model: Model,
        *,
        role: Sequence[str],
        threads: int = 1,
        precision: Precision = Precision.NATIVE,
        device: str = CPU,
    ) -> None:
        """Describe the worker; nothing is started yet.

        Args:
            directory: The model's directory.
            model: What `load_model` found there; the worker is held to it.
            role: Its arguments before the common ones.
            threads: Of torch; more than 1 only where it has the cores to itself.
            precision: In which numbers it computes.
            device: Where: a name of torch's, or `auto`.
        """
        self.info: ModelInfo = model.info
        self.precision = precision
        self.layers: tuple[int, int] | None = None
        self.ready = trio.Event()
        """Set while the worker is READY; another event after each loss."""
        self._hashes = {piece.name: piece.blob_hash for piece in model.manifest.pieces}
        self._command = [
            *(sys.executable, "-m", "inference.worker.worker", *role),
            *("--model", str(directory), "--threads", str(threads)),
            *("--precision", precision, "--device", device),
        ]
        self._threads = threads
        self.prepare: Callable[[], Awaitable[None]] | None = None
        """Awaited before every start of a process: puts its directory in order."""
        self._link: WorkerLink | None = None
        self._process: trio.Process | None = None
        self._report: Ready | None = None
        self._state = WorkerState.STARTING
        self._reason = ""
        self._restarts = 0
        self._changed = trio.Event()

    @property
    def dtype(self) -> str:
        """What hidden states are computed and sent in."""
        return self.precision.get_dtype(self.info.dtype)

    @property
    def shares(self) -> bool:
        """Whether sessions that begin alike share what is kept; False until ready."""
        return self._report is not None and self._report.shares

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def status(self) -> WorkerStatus:
        """What to tell about it now."""
        report = self._report
        return WorkerStatus(
            state=self._state,
            reason=self._reason,
            pid=self.pid,
            restarts=self._restarts,
            layers=self.layers,
            bytes_read=0 if report is None else report.bytes_read,
            position_bytes=0 if report is None else report.position_bytes,
            used_bytes=self._count_used_bytes(),
            engine="" if report is None else report.engine,
        )

    def _count_used_bytes(self) -> int:
        return 0

    def _on_ready(self, report: Ready) -> None:
        """Take what a process says when it is loaded; it knows of no session."""

    async def wait_ready(self) -> None:
        """Wait until the worker is READY.

        Raises:
            WorkerFailed: It never will be.
        """
        while self._state is not WorkerState.READY:
            if self._state is WorkerState.FAILED:
                raise WorkerFailed(self._reason)
            await self._changed.wait()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the worker running until cancelled; returns only when FAILED."""
        task_status.started()
        pause_s = FIRST_PAUSE_S
        while True:
            started = trio.current_time()
            try:
                await self._run_process()
            except ModelError as error:
                log.error("worker cannot start: %s", error)
                self._set_state(WorkerState.FAILED, str(error))
                return
            except WorkerError as error:
                self._set_state(WorkerState.STARTING, str(error))
            if trio.current_time() - started >= STABLE_S:
                pause_s = FIRST_PAUSE_S
            log.warning("worker lost (%s); next try in %g s", self._reason, pause_s)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._restarts += 1

    async def _run_process(self) -> None:
        """Start one process and stay until it dies; it is gone afterwards."""
        if self.prepare is not None:
            await self.prepare()
        ours, theirs = open_pair()
        link = WorkerLink(ours)
        try:
            with theirs:
                self._process = await trio.lowlevel.open_process(
                    [*self._command, "--fd", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    env={
                        **os.environ,
                        **ENVIRONMENT,
                        "OMP_NUM_THREADS": str(self._threads),
                    },
                    # Ctrl-C goes to the node, which ends its workers itself.
                    start_new_session=True,
                )
            self._report = await link.receive_ready()
            self._validate(self._report)
            self._link = link
            self._on_ready(self._report)
            self._set_state(WorkerState.READY)
            await link.run()
        except OSError as error:
            raise WorkerLost(f"cannot start a process: {error}") from error
        finally:
            # At once: a call between the death and the next start must not wait.
            self._link = self._report = None
            if self._state is WorkerState.READY:
                self._set_state(WorkerState.STARTING, "the worker died")
            link.close()
            await self._end_process()

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Shielded: a cancelled node still reaps its workers, within the grace.
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(GRACE_S):
                await process.wait()
            process.kill()
            await process.wait()

    def _validate(self, report: Ready) -> None:
        info = self.info
        for name, found, expected in (
            ("hidden size", report.hidden_size, info.hidden_size),
            ("vocabulary", report.vocab_size, info.vocab_size),
            ("layers", report.layers, info.layers),
            ("dtype", report.dtype, self.dtype),
        ):
            if found != expected:
                raise BadWeights(f"{name} is {found}; {info.name} has {expected}")
        for piece in report.pieces:
            if self._hashes.get(piece.name) != piece.blob_hash:
                raise BadWeights(f"{piece.name} is not what the manifest says")

    def _set_state(self, state: WorkerState, reason: str = "") -> None:
        self._state, self._reason = state, reason
        if state is WorkerState.READY:
            self.ready.set()
        elif self.ready.is_set():
            self.ready = trio.Event()
        self._changed.set()
        self._changed = trio.Event()

    async def close(self, session_id: bytes) -> None:
        """Forget a session; nothing happens where it, or the worker, is not there.

        The request is on its way before the first checkpoint, so a caller that is
        being cancelled closes its session as well.  It is never refused as Busy.
        """
        if self._link is not None:
            with contextlib.suppress(WorkerLost):
                self._link.post(lambda n: CloseSession(n, session_id))
        await trio.lowlevel.checkpoint()

    async def _call(
        self,
        kind: type[A],
        build: BuildRequest,
        payload: bytes | memoryview = b"",
    ) -> tuple[A, bytes]:
        answer, answer_payload = await self._get_link().call(build, payload)
        if not isinstance(answer, kind):
            raise _build_surprise(answer, kind)
        return answer, answer_payload

    def _begin(
        self,
        kind: type[A],
        build: BuildRequest,
        payload: bytes | memoryview,
        on_done: Callable[[tuple[A, bytes] | P2PChainError], None],
    ) -> Callable[[], None]:
        """Send a request whose answer `on_done` gets; returns what gives it up."""

        def take(answer: Answer | P2PChainError, answer_payload: bytes) -> None:
            if isinstance(answer, kind):
                on_done((answer, answer_payload))
            elif isinstance(answer, P2PChainError):
                on_done(answer)
            else:
                on_done(_build_surprise(answer, kind))

        link = self._get_link()
        number = link.begin(build, payload, take)
        return lambda: link.give_up(number)

    def _get_link(self) -> WorkerLink:
        if self._link is not None:
            return self._link
        if self._state is WorkerState.FAILED:
            raise WorkerFailed(self._reason)
        raise WorkerLost(self._reason or "the worker is starting")


def _build_surprise(answer: Answer, kind: type[A]) -> WorkerError:
    return WorkerError(f"{type(answer).__name__} instead of {kind.__name__}")


W = TypeVar("W", bound=SupervisedWorker)


@contextlib.asynccontextmanager
async def supervise(worker: W) -> AsyncIterator[W]:
    """Run `worker` inside the block; afterwards its process is gone.

    The block begins at once; `worker.wait_ready()` waits for the model.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        try:
            yield worker
        finally:
            nursery.cancel_scope.cancel()
