"""Stages and a requester as processes, driven over their sockets without a network."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.device.precision import Precision
from inference.sampling.params import SamplingParams
from inference.weights.model_info import Model, load_model
from inference.worker.requester_worker import RequesterWorker
from inference.worker.stage_worker import StageWorker
from inference.worker.supervisor import supervise
from p2pchain.bench.lab.procfs import read_cpu_s

CHUNK_TOKENS = 128
"""Of a prompt that travel together, as on the network."""
KV_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Answer:
    """The tokens of an answer, and when they came."""

    ids: list[int]
    seconds: float
    first_s: float
    """Until the first token."""
    cpu_s: float
    """Of all workers together; only its own where no other answer ran beside it."""


class WorkerSwarm:
    """A model over some stage processes."""

    def __init__(self, requester: RequesterWorker, stages: list[StageWorker]) -> None:
        """Take workers that are ready."""
        self.requester = requester
        self.stages = stages

    async def answer(self, name: bytes, prompt: Sequence[int], tokens: int) -> Answer:
        """Answer greedily, with exactly `tokens` tokens."""
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        started, cpu_started = time.perf_counter(), self.read_cpu_s()
        await self.requester.open(name, params, prompt)
        for stage in self.stages:
            await stage.open(name, len(prompt) + tokens)
        hidden = b""
        for first in range(0, len(prompt), CHUNK_TOKENS):
            chunk = prompt[first : first + CHUNK_TOKENS]
            hidden = await self.requester.embed(name, first, chunk)
            hidden = await self._run(name, first, hidden, len(chunk))
        token = await self.requester.sample(name, hidden, len(chunk))
        first_s = time.perf_counter() - started
        ids = [token.token_id]
        while token.finish_reason is None:
            position = len(prompt) + len(ids) - 1
            hidden = await self._run(name, position, token.embedding, 1)
            token = await self.requester.sample(name, hidden, 1)
            ids.append(token.token_id)
        seconds = time.perf_counter() - started
        cpu_s = self.read_cpu_s() - cpu_started
        for worker in (self.requester, *self.stages):
            await worker.close(name)
        return Answer(ids, seconds, first_s, cpu_s)

    def read_cpu_s(self) -> float:
        """Return the CPU seconds that the workers have used so far."""
        workers = (self.requester, *self.stages)
        return sum(read_cpu_s(worker.pid) for worker in workers if worker.pid)

    async def count_passes(self) -> tuple[int, int]:
        """Return the passes of all stages so far, and the requests they answered."""
        counts = [await stage.count_passes() for stage in self.stages]
        return sum(passes for passes, _ in counts), sum(done for _, done in counts)

    async def _run(
        self, name: bytes, position: int, hidden: bytes, tokens: int
    ) -> bytes:
        for stage in self.stages:
            hidden = await stage.forward(name, position, hidden, tokens)
        return hidden


@asynccontextmanager
async def open_swarm(
    directory: Path,
    *,
    stages: int = 2,
    precision: Precision = Precision.NATIVE,
    model: Model | None = None,
    null: bool = False,
) -> AsyncIterator[WorkerSwarm]:
    """Run a model's workers inside the block, one thread each."""
    model = model or load_model(directory)
    cuts = [model.info.layers * index // stages for index in range(stages + 1)]
    requester = RequesterWorker(directory, model, precision=precision)
    workers = [
        StageWorker(
            directory,
            model,
            (cuts[index], cuts[index + 1]),
            kv_budget_bytes=KV_BYTES,
            precision=precision,
            null=null,
        )
        for index in range(stages)
    ]
    async with AsyncExitStack() as stack:
        for worker in (requester, *workers):
            await stack.enter_async_context(supervise(worker))
        for worker in (requester, *workers):
            await worker.wait_ready()
        yield WorkerSwarm(requester, workers)


def draw_prompt(tokens: int, seed: int = 0) -> list[int]:
    """Return random token ids that every model here knows."""
    generator = np.random.default_rng(seed)
    return [int(token) for token in generator.integers(3, 1000, tokens)]
