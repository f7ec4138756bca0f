"""A worker process that holds layers, as the node sees it."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from inference.device.hardware import CPU
from inference.device.memory import (
    DEFAULT_KV_BUDGET_BYTES,
    PAGE_TOKENS,
    CacheCost,
    Reservations,
)
from inference.device.precision import Precision
from inference.errors import (
    NoMemory,
    WorkerLost,
)
from inference.weights.model_info import Model
from inference.worker.supervisor import SupervisedWorker
from inference.worker.wire import (
    Counts,
    Forward,
    HiddenStates,
    KeepPages,
    Opened,
    OpenSession,
    Pages,
    ReadCounts,
    ReadPages,
    Ready,
    WritePages,
)
from primitives.errors import P2PChainError


class StageWorker(SupervisedWorker):
    """A worker that holds the layers [start, end).

    It counts the memory of its sessions by the worker's own formula (inference/device),
    so that it can say Busy at once, also while the worker computes.
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
                is loaded (inference/device/memory_limit.py); None for what the machine
                has free.
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

    async def count_passes(self) -> tuple[int, int]:
        """Return how many passes there were, and how many requests they answered.

        Raises:
            Busy, WorkerLost, WorkerFailed: Not now; died during it; never.
        """
        answer, _ = await self._call(Counts, ReadCounts)
        return answer.passes, answer.answers

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

    def begin_forward(
        self,
        session_id: bytes,
        position: int,
        hidden: bytes | memoryview,
        tokens: int,
        on_done: Callable[[bytes | P2PChainError], None],
    ) -> Callable[[], None]:
        """Begin what `forward` does; `on_done` gets what it returns or raises.

        Returns:
            What gives the answer up.

        Raises:
            Busy, WorkerLost, WorkerFailed: It cannot begin.
        """

        def take(answer: tuple[HiddenStates, bytes] | P2PChainError) -> None:
            if isinstance(answer, NoMemory):
                self._reservations.close(session_id)
            on_done(answer if isinstance(answer, P2PChainError) else answer[1])

        return self._begin(
            HiddenStates,
            lambda n: Forward(n, session_id, position, tokens),
            hidden,
            take,
        )
