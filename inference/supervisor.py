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
from msgspec.structs import replace

from inference.errors import (
    BadWeights,
    ModelError,
    NoMemory,
    WorkerError,
    WorkerFailed,
    WorkerLost,
)
from inference.hardware import CPU
from inference.memory import (
    DEFAULT_KV_BUDGET_BYTES,
    PAGE_TOKENS,
    CacheCost,
    Reservations,
)
from inference.model_info import Model, ModelInfo
from inference.precision import Precision
from inference.sampling import ChatMessage, Choice, SampledToken, SamplingParams
from inference.worker import ENVIRONMENT
from inference.worker_link import BuildRequest, WorkerLink, open_pair
from inference.worker_wire import (
    Answer,
    CloseSession,
    Done,
    Embed,
    EncodeChat,
    EncodeText,
    Forward,
    HiddenStates,
    KeepPages,
    OpenAnswer,
    Opened,
    OpenSession,
    Pages,
    ReadPages,
    Ready,
    Sample,
    Sampled,
    TokenIds,
    WritePages,
)
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
            *(sys.executable, "-m", "inference.worker", *role),
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
        if self._link is None:
            if self._state is WorkerState.FAILED:
                raise WorkerFailed(self._reason)
            raise WorkerLost(self._reason or "the worker is starting")
        answer, answer_payload = await self._link.call(build, payload)
        if not isinstance(answer, kind):
            raise WorkerError(f"{type(answer).__name__} instead of {kind.__name__}")
        return answer, answer_payload


class StageWorker(SupervisedWorker):
    """A worker that holds the layers [start, end).

    It counts the memory of its sessions by the worker's own formula (memory.py), so
    that it can say Busy at once, also while the worker computes.
    """

    layers: tuple[int, int]

    def __init__(
        self,
        directory: Path,
        model: Model,
        layers: tuple[int, int],
        *,
        threads: int = 1,
        kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES,
        precision: Precision = Precision.NATIVE,
        device: str = CPU,
        null: bool = False,
        growth_bytes: int | None = None,
    ) -> None:
        """Describe the stage; `run` starts it.

        Args:
            directory: The model's directory.
            model: What `load_model` found there.
            layers: First layer, and the one after the last.
            threads: Of torch.
            kv_budget_bytes: Memory for the caches of all sessions.
            precision: In which numbers they compute.
            device: Where: a name of torch's, or `auto`.
            null: Compute nothing and return the input, to measure the rest.
            growth_bytes: Memory that the process may take beyond what it has when it
                is loaded (memory_limit.py); None for what the machine has free.
        """
        role = ["stage", "--layers", f"{layers[0]}:{layers[1]}"]
        role += ["--kv-bytes", str(kv_budget_bytes)]
        role += ["--null"] if null else []
        role += [] if growth_bytes is None else ["--growth-bytes", str(growth_bytes)]
        super().__init__(
            directory,
            model,
            role=role,
            threads=threads,
            precision=precision,
            device=device,
        )
        self.layers = layers
        self._kv_budget_bytes = kv_budget_bytes
        self._reservations = Reservations(CacheCost(0), kv_budget_bytes)

    async def open(
        self, session_id: bytes, max_positions: int, keys: Sequence[bytes] = ()
    ) -> int:
        """Admit a session of at most `max_positions` tokens.

        Args:
            session_id: Its name.
            max_positions: At least 1.
            keys: Of its first full pages, 32 bytes each.

        Returns:
            How many of its first positions are there already.

        Raises:
            Busy: No memory for it now; said without asking the worker.
            BadRequest: The name is in use.
            WorkerLost, WorkerFailed: No worker now, or none ever.
        """
        reservations = self._reservations
        if self._link is not None:
            reservations.open(session_id, max_positions)
        try:
            answer, _ = await self._call(
                Opened,
                lambda n: OpenSession(n, session_id, max_positions, tuple(keys)),
            )
        except P2PChainError:
            reservations.close(session_id)
            raise
        except trio.Cancelled:
            reservations.close(session_id)
            await super().close(session_id)
            raise
        return answer.cached

    def keep(self, session_id: bytes, first: int, keys: Sequence[bytes]) -> None:
        """Let later sessions begin with full pages of this one, if the worker lives.

        Args:
            session_id: An open session.
            first: Which of its pages the first key is for, counted from 0.
            keys: One per page, 32 bytes each.
        """
        if self._link is not None:
            with contextlib.suppress(WorkerLost):
                self._link.post(lambda n: KeepPages(n, session_id, first, tuple(keys)))

    @property
    def page_bytes(self) -> int:
        """What a page of a session takes; 0 until the worker is ready."""
        report = self._report
        return 0 if report is None else PAGE_TOKENS * report.position_bytes

    async def read_pages(self, keys: Sequence[bytes]) -> bytes:
        """Return what named pages hold, one after another, as far as they are there.

        Raises:
            Busy, WorkerLost, WorkerFailed: Not now; died during it; never.
        """
        _, payload = await self._call(Pages, lambda n: ReadPages(n, tuple(keys)))
        return payload

    async def write_pages(self, session_id: bytes, content: bytes, pages: int) -> int:
        """Give a session its next pages, as another worker of these layers read them.

        Returns:
            How many positions it has then.

        Raises:
            UnknownSession, WrongPosition: The session cannot take them.
            BadAnswer: They are no pages of these layers; the session has what it had.
            Busy, WorkerLost, WorkerFailed: Not now; died during it; never.
        """
        answer, _ = await self._call(
            Opened, lambda n: WritePages(n, session_id, pages), content
        )
        return answer.cached

    async def close(self, session_id: bytes) -> None:
        """Forget a session and give its memory back; harmless where it is not there."""
        self._reservations.close(session_id)
        await super().close(session_id)

    def _count_used_bytes(self) -> int:
        return self._reservations.used_bytes

    def _on_ready(self, report: Ready) -> None:
        cost = CacheCost(report.position_bytes, report.state_bytes)
        self._reservations = Reservations(cost, self._kv_budget_bytes)

    @property
    def rolls_back(self) -> bool:
        """Whether the last positions can be forgotten: no layer keeps a state."""
        return not self._reservations.cost.state_bytes

    async def forward(
        self,
        session_id: bytes,
        position: int,
        hidden: bytes | memoryview,
        tokens: int,
    ) -> bytes:
        """Run hidden states of `tokens` tokens from `position` on.

        Args:
            session_id: An open session.
            position: Of the first token; an earlier one rolls the session back.
            hidden: (tokens, hidden_size) in the model's dtype, as it lies in memory.
            tokens: At least 1.

        Returns:
            The same shape, on the way to the next stage.

        Raises:
            UnknownSession, WrongPosition, BadAnswer: The step cannot be taken.
            NoMemory: The machine has none left; the session is closed by it.
            Busy, WorkerLost, WorkerFailed: Not now; died during it; never.
        """
        try:
            _, payload = await self._call(
                HiddenStates, lambda n: Forward(n, session_id, position, tokens), hidden
            )
        except NoMemory:
            # The worker has closed it.
            self._reservations.close(session_id)
            raise
        return payload


class RequesterWorker(SupervisedWorker):
    """A worker that holds all of a model but its layers."""

    def __init__(
        self,
        directory: Path,
        model: Model,
        *,
        threads: int = 1,
        precision: Precision = Precision.NATIVE,
        device: str = CPU,
        draft_model: Path | None = None,
    ) -> None:
        """Describe the requester; `run` starts it.

        Args:
            directory: The model's directory.
            model: What `load_model` found there.
            threads: Of torch.
            precision: Of the layers whose answers it reads.
            device: Where the ends compute: a name of torch's, or `auto`.
            draft_model: Directory of a small model that guesses, if there is one.
        """
        self.has_draft_model = draft_model is not None
        """Whether a model of its own guesses what follows."""
        guesses = () if draft_model is None else ("--draft-model", str(draft_model))
        super().__init__(
            directory,
            model,
            role=["requester", *guesses],
            threads=threads,
            precision=precision,
            device=device,
        )

    async def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation; raises BadPrompt."""
        answer, _ = await self._call(TokenIds, lambda n: EncodeChat(n, tuple(messages)))
        return list(answer.token_ids)

    async def encode_text(self, text: str) -> list[int]:
        """Return the token ids of plain text; raises BadPrompt."""
        answer, _ = await self._call(TokenIds, lambda n: EncodeText(n, text))
        return list(answer.token_ids)

    async def open(
        self, session_id: bytes, sampling: SamplingParams, prompt_tokens: Sequence[int]
    ) -> None:
        """Begin an answer to `prompt_tokens`.

        Raises:
            BadPrompt: Empty, or too long for the model.
            Busy, BadRequest: Too many sessions; the name is in use.
        """
        prompt = tuple(prompt_tokens)
        await self._call(Done, lambda n: OpenAnswer(n, session_id, sampling, prompt))

    async def embed(
        self, session_id: bytes, position: int, token_ids: Sequence[int]
    ) -> bytes:
        """Return what enters layer 0, (tokens, hidden_size) in the model's dtype."""
        ids = tuple(token_ids)
        _, payload = await self._call(
            HiddenStates, lambda n: Embed(n, session_id, position, ids)
        )
        return payload

    async def choose(
        self,
        session_id: bytes,
        hidden: bytes | memoryview,
        tokens: int,
        drafts: Sequence[int] = (),
        wanted: int = 0,
    ) -> Choice:
        """Judge the last stage's answer to a step and choose the next tokens.

        Args:
            session_id: An open session.
            hidden: (tokens, hidden_size) in the model's dtype.
            tokens: Of the step.
            drafts: Its guesses; the last rows belong to them.
            wanted: Guesses that the next step may carry.

        Raises:
            BadAnswer: A wrong length, or NaN or infinity: nobody is paid for it.
        """
        guesses = tuple(drafts)
        answer, payload = await self._call(
            Sampled, lambda n: Sample(n, session_id, tokens, guesses, wanted), hidden
        )
        return Choice(answer.tokens, answer.drafts, payload)

    async def sample(
        self, session_id: bytes, hidden: bytes | memoryview, tokens: int
    ) -> SampledToken:
        """Choose one token from the last row; it carries its own embedding.

        Raises:
            BadAnswer: As `choose` says.
        """
        choice = await self.choose(session_id, hidden, tokens)
        [token] = choice.tokens
        return replace(token, embedding=token.embedding or choice.embedding)


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
