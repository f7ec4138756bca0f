"""
The stage engine: sessions, requests and steps over the layers of one stage.

It joins what decides and what computes: the scheduler (scheduler.py, integers only)
says which tokens run in the next step, the executor (executor.py, tensors only) runs
them.  Requests of many sessions are submitted as they come; `step` runs one pass and
returns the answers that are ready.  A request names its first position: the next one
continues the session, an earlier one first rolls it back.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from inference.device.memory import DEFAULT_KV_BUDGET_BYTES, MAX_SESSIONS, CacheCost
from inference.device.precision import Precision
from inference.engine.executor import TEST_PAGES, Executor, draw_hidden, test_executor
from inference.engine.ghost_executor import GhostExecutor
from inference.engine.packed import is_packed
from inference.engine.ragged import TEST_TOKENS, build_ragged
from inference.engine.scheduler import Scheduler, Work
from inference.engine.text_executor import TextExecutor
from inference.errors import BadAnswer, NoMemory, UnsupportedModel
from inference.model.part import Part
from inference.model.split import load_stage
from inference.model.stand_ins import CPU

_SELF_TEST_TOKENS = 4

log = logging.getLogger(__name__)


class StageAnswer(NamedTuple):
    """What became of a request."""

    call: int
    output: torch.Tensor | Exception
    """(1, T, H) on the way to the next stage, or why there is none."""


@dataclass(slots=True)
class _Input:
    hidden: torch.Tensor
    """(1, T, H)"""
    output: torch.Tensor | None = None
    """Of the same shape; made when the request is computed in pieces."""


class StageEngine:
    """The layers of one stage and the sessions that run through them."""

    def __init__(
        self,
        part: Part,
        executor: Executor | None = None,
        *,
        kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES,
        max_positions: int | None = None,
    ) -> None:
        """Take a loaded part and test its engine with real passes.

        Args:
            part: A loaded part.
            executor: Runs it; chosen here where none is given.
            kv_budget_bytes: For the caches of all sessions.
            max_positions: Of the longest session; bounds the store of a tiny model.

        Raises:
            UnsupportedModel: The test did not give what it must.
        """
        self.part = part
        self.hidden_size: int = part.config.hidden_size
        # The library looks it up in every parameter.
        self._dtype, self._device = part.dtype, part.device
        self.executor = executor or choose_executor(part)
        _test(self.executor, part)
        cost = self.executor.cost
        if max_positions is not None:
            most = MAX_SESSIONS * cost.compute_bytes(max_positions)
            kv_budget_bytes = min(kv_budget_bytes, most)
        self.executor.allocate(cost.count_budget_pages(kv_budget_bytes))
        self.scheduler = Scheduler(cost, kv_budget_bytes, splits=self.executor.splits)
        self._inputs: dict[int, _Input] = {}
        self._next_call = -1

    @classmethod
    def load(
        cls,
        directory: Path,
        layers: range,
        *,
        kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES,
        max_positions: int | None = None,
        precision: Precision = Precision.NATIVE,
        device: torch.device = CPU,
    ) -> "StageEngine":
        """Load `layers` from a model directory; reads only their weights.

        Args:
            directory: Of the model.
            layers: Not empty.
            kv_budget_bytes: For the caches of all sessions.
            max_positions: Of the longest session.
            precision: In which numbers they compute.
            device: Where.

        Raises:
            BadWeights, UnsupportedModel: Says why.
        """
        part = load_stage(directory, layers, precision=precision, device=device)
        packing = precision.packing
        try:
            executor: Executor = build_ragged(part, _draw(part, TEST_TOKENS), packing)
        except UnsupportedModel as error:
            if packing is not Precision.NATIVE:
                raise UnsupportedModel(f"not in {precision}: {error}") from error
            log.info("layers %s are for another engine: %s", layers, error)
            if is_packed(part):
                part = load_stage(directory, layers, precision=precision, device=device)
            executor = choose_executor(part)
        return cls(
            part,
            executor,
            kv_budget_bytes=kv_budget_bytes,
            max_positions=max_positions,
        )

    @property
    def cost(self) -> CacheCost:
        """What a session takes."""
        return self.executor.cost

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self.scheduler.has_work

    def open_session(
        self, session_id: bytes, max_positions: int, keys: Sequence[bytes] = ()
    ) -> int:
        """Admit a session of at most `max_positions` tokens.

        Args:
            session_id: Its name.
            max_positions: At least 1.
            keys: Of its first full pages, as `keep` was given them by others.

        Returns:
            How many positions are here already; it may begin at any of them.

        Raises:
            BadRequest: The name is in use or not a name, or no positions.
            Busy: No room for it now.
        """
        known = keys if self.executor.shares else ()
        return self.scheduler.open_session(session_id, max_positions, known)

    def keep(self, session_id: bytes, first: int, keys: Sequence[bytes]) -> None:
        """Let others begin with full pages of a session.

        Args:
            session_id: A session; one that is not open is no matter.
            first: Which of its pages the first key is for, counted from 0.
            keys: One per page; those that are not full, or known, change nothing.
        """
        if self.executor.shares:
            self.scheduler.keep(session_id, first, keys)

    def read_pages(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return what named pages hold, as far as they are known."""
        pages = self.scheduler.find_pages(keys)
        return [self.executor.read_page(page) for page in pages]

    def write_pages(self, session_id: bytes, contents: Sequence[memoryview]) -> int:
        """Give a session its next pages, as another stage of the same layers read them.

        Args:
            session_id: A session that has computed nothing.
            contents: At least one.

        Returns:
            How many positions it has then.

        Raises:
            UnknownSession, WrongPosition: The session cannot take them.
            BadAnswer: They are no pages of these layers; the session has what it had.
        """
        pages = self.scheduler.get_next_pages(session_id, len(contents))
        for page, content in zip(pages, contents, strict=True):
            self.executor.write_page(page, content)
        return self.scheduler.skip_pages(session_id, len(pages))

    def close_session(self, session_id: bytes) -> list[int]:
        """Forget a session; return its calls that nobody will answer.

        Closing one that is not open does nothing.
        """
        dropped = self.scheduler.close_session(session_id)
        self._forget_inputs(dropped)
        self.executor.forget(session_id)
        return dropped

    def submit(
        self, call: int, session_id: bytes, position: int, hidden: torch.Tensor
    ) -> None:
        """Take a request: (1, T, H) hidden states of T tokens from `position` on.

        Args:
            call: Names the request; not negative.
            session_id: An open session.
            position: An earlier one than the session's next rolls it back first.
            hidden: In the model's dtype.

        Raises:
            UnknownSession, WrongPosition: The session cannot take this step.
            BadAnswer: The input is not (1, T, H) in the model's dtype.
            Busy: Too many requests wait.
        """
        tokens = hidden.shape[1] if hidden.ndim == 3 else 0
        if not tokens or hidden.shape != (1, tokens, self.hidden_size):
            raise BadAnswer(f"hidden states of shape {tuple(hidden.shape)}")
        if hidden.dtype != self._dtype:
            raise BadAnswer(f"hidden states in {hidden.dtype}")
        self.scheduler.submit(call, session_id, position, tokens)
        self._inputs[call] = _Input(hidden.to(self._device))

    def step(self) -> list[StageAnswer]:
        """Run one pass over what waits; return what is ready."""
        works = self.scheduler.plan()
        if not works:
            return []
        for copy in self.scheduler.take_copies():
            self.executor.copy_page(copy.source, copy.target)
        try:
            outputs = self._run(works)
        except Exception as error:
            if len(works) == 1:
                return self._fail(works[0], error)
            # One of them broke the pass of all: each alone then shows which.
            return [answer for work in works for answer in self._step_alone(work)]
        return self._finish(works, outputs)

    def forward(
        self, session_id: bytes, position: int, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Submit one request and run steps until it is answered.

        For whoever has one session at a time: tests, probes and benches.
        """
        call, self._next_call = self._next_call, self._next_call - 1
        self.submit(call, session_id, position, hidden)
        while True:
            for answer in self.step():
                if answer.call == call:
                    if isinstance(answer.output, Exception):
                        raise answer.output
                    return answer.output

    def _run(self, works: list[Work]) -> list[torch.Tensor]:
        hidden = []
        for work in works:
            states = self._inputs[work.call].hidden
            hidden.append(states[:, work.offset : work.offset + work.tokens])
        return self.executor.run(works, hidden)

    def _step_alone(self, work: Work) -> list[StageAnswer]:
        try:
            outputs = self._run([work])
        except Exception as error:
            return self._fail(work, error)
        return self._finish([work], outputs)

    def _finish(
        self, works: list[Work], outputs: list[torch.Tensor]
    ) -> list[StageAnswer]:
        self.scheduler.finish(works)
        answers = []
        for work, output in zip(works, outputs, strict=True):
            taken = self._inputs[work.call]
            if work.offset or not work.is_last:
                if taken.output is None:
                    taken.output = torch.empty_like(taken.hidden)
                end = work.offset + work.tokens
                taken.output[:, work.offset : end] = output
                output = taken.output
            if work.is_last:
                del self._inputs[work.call]
                answers.append(StageAnswer(work.call, output))
        return answers

    def _fail(self, work: Work, error: Exception) -> list[StageAnswer]:
        """Answer what a session has queued with an error; it stays as it was.

        But where memory ran out it is closed: it will go on elsewhere, and those who
        stay get what it had.
        """
        if _is_memory_error(error):
            error = NoMemory(f"no memory for {work.tokens} tokens")
            calls = self.close_session(work.session_id)
        else:
            calls = self.scheduler.fail(work.session_id)
            self._forget_inputs(calls)
        return [StageAnswer(call, error) for call in calls]

    def _forget_inputs(self, calls: list[int]) -> None:
        for call in calls:
            del self._inputs[call]


def choose_executor(part: Part) -> Executor:
    """Return the fast engine where it does what the general one does, or that one."""
    if part.is_encoder:
        return TextExecutor(part)
    try:
        return build_ragged(part, _draw(part, TEST_TOKENS))
    except UnsupportedModel as error:
        log.info("the general engine serves these layers: %s", error)
        return GhostExecutor(part)


def _test(executor: Executor, part: Part) -> None:
    if isinstance(executor, TextExecutor):
        executor.self_test(_draw(part, _SELF_TEST_TOKENS))
        return
    executor.allocate(TEST_PAGES)
    test_executor(executor, _draw(part, _SELF_TEST_TOKENS))


def _draw(part: Part, tokens: int) -> torch.Tensor:
    """Return some hidden states for a self-test, (1, T, H)."""
    return draw_hidden(tokens, part.config.hidden_size, part.dtype, part.device)


def _is_memory_error(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The allocator of the CPU raises nothing more special.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
