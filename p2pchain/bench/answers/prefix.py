"""
What a kept beginning saves: a prompt of which 512 tokens are there from another one.

The workers of two stages and a requester run as processes, without a network; the
figures of a hit and of a miss take turns.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import trio

from inference.device.memory import PAGE_TOKENS
from inference.protocol.prefix_keys import name_beginnings
from inference.sampling.params import SamplingParams
from p2pchain.bench.lab.lab import BenchError, Lab
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.random_models import SMALL
from p2pchain.bench.lab.worker_swarm import (
    CHUNK_TOKENS,
    WorkerSwarm,
    draw_prompt,
    open_swarm,
)
from p2pchain.bench.report import Figure, Goal, summarise

SHARED_TOKENS = 512
OWN_TOKENS = 16
"""Behind the shared ones: a short question behind a long instruction."""
ROUNDS = 3
DECODE_TOKENS = 24
FIRST_TOKEN_GOAL = 10.0


@dataclass(frozen=True, slots=True)
class _Run:
    ids: list[int]
    cached: int
    first_s: float
    token_s: float
    """Median of the decode steps."""


def run_prefix(lab: Lab) -> list[Figure]:
    """Measure hits and misses on the small model; raises BenchError."""
    directory = get_model(lab, SMALL, "float32")
    return trio.run(partial(_measure, lab, directory))


async def _measure(lab: Lab, directory: Path) -> list[Figure]:
    misses, hits, plain = [], [], []
    async with open_swarm(directory) as swarm:
        await _run(swarm, draw_prompt(40), ())
        for number in range(ROUNDS):
            lab.report(f"prefix, round {number + 1} of {ROUNDS}")
            shared = draw_prompt(SHARED_TOKENS, seed=2 * number)
            for seed in range(2):
                prompt = [*shared, *draw_prompt(OWN_TOKENS, seed=100 + seed)]
                names = name_beginnings(b"bench", prompt)
                first = await _run(swarm, prompt, ())
                again = await _run(swarm, prompt, names)
                if seed == 0:
                    # Kept now, with its own end.
                    continue
                if again.cached != SHARED_TOKENS:
                    raise BenchError(f"{again.cached} tokens were kept")
                if again.ids != first.ids:
                    raise BenchError("a kept beginning changes the answer")
                misses.append(first.first_s)
                hits.append(again.first_s)
                plain.append(first.token_s / again.token_s)
    note = f"{SHARED_TOKENS} shared and {OWN_TOKENS} own tokens, {SMALL.name}, fp32"
    return [
        summarise("first token, nothing kept", misses, "s", note),
        summarise("first token, beginning kept", hits, "s", note),
        Figure(
            "first token, how much sooner",
            median(misses) / median(hits),
            "x",
            note,
            Goal(FIRST_TOKEN_GOAL),
        ),
        Figure(
            "decode speed behind shared pages",
            median(plain),
            "x",
            "of that with pages of its own",
        ),
    ]


async def _run(
    swarm: WorkerSwarm, prompt: Sequence[int], names: Sequence[bytes]
) -> _Run:
    """Answer greedily, from what the stages have on, and keep the prompt."""
    session = secrets.token_bytes(8)
    params = SamplingParams(temperature=0, max_tokens=DECODE_TOKENS, ignore_eos=True)
    started = time.perf_counter()
    await swarm.requester.open(session, params, prompt)
    length = len(prompt) + DECODE_TOKENS
    most = names[: (len(prompt) - 1) // PAGE_TOKENS]
    cached = min([await s.open(session, length, most) for s in swarm.stages])
    hidden, count = b"", 0
    for first in range(cached, len(prompt), CHUNK_TOKENS):
        chunk = prompt[first : first + CHUNK_TOKENS]
        hidden, count = await swarm.requester.embed(session, first, chunk), len(chunk)
        for stage in swarm.stages:
            hidden = await stage.forward(session, first, hidden, count)
    token = await swarm.requester.sample(session, hidden, count)
    first_s = time.perf_counter() - started
    for stage in swarm.stages:
        stage.keep(session, 0, names)
    ids, times = [token.token_id], []
    while token.finish_reason is None:
        before = time.perf_counter()
        position = len(prompt) + len(ids) - 1
        hidden = token.embedding
        for stage in swarm.stages:
            hidden = await stage.forward(session, position, hidden, 1)
        token = await swarm.requester.sample(session, hidden, 1)
        ids.append(token.token_id)
        times.append(time.perf_counter() - before)
    for worker in (swarm.requester, *swarm.stages):
        await worker.close(session)
    return _Run(ids, cached, first_s, median(times))
