"""Several sessions at once: what they are worth together, and who waits for whom."""

import time
from dataclasses import dataclass

import trio

from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.random_models import SMALL
from p2pchain.bench.lab.worker_swarm import WorkerSwarm, draw_prompt, open_swarm
from p2pchain.bench.report import Figure, Goal, summarise

SESSIONS = 8
PROMPT_TOKENS = 16
SESSION_TOKENS = 24
SESSION_ROUNDS = 4
LONG_TOKENS = 2048
SHORT_TOKENS = 24
FAIRNESS_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """Some sessions at once."""

    speed: float
    """Tokens per second of all together."""
    cpu_s: float
    """Of all workers."""
    shared: float
    """Sessions in a pass of a stage, on average."""


async def run_trial(
    swarm: WorkerSwarm, sessions: int, tokens: int, prompt_tokens: int = PROMPT_TOKENS
) -> Trial:
    """Answer short prompts of so many sessions at once."""
    prompts = [draw_prompt(prompt_tokens, number) for number in range(sessions)]
    before = await swarm.count_passes()
    started, cpu_started = time.perf_counter(), swarm.read_cpu_s()
    async with trio.open_nursery() as nursery:
        for number, prompt in enumerate(prompts):
            nursery.start_soon(swarm.answer, bytes([number]), prompt, tokens)
    speed = sessions * tokens / (time.perf_counter() - started)
    cpu_s = swarm.read_cpu_s() - cpu_started
    after = await swarm.count_passes()
    passes, answers = (b - a for a, b in zip(before, after, strict=True))
    return Trial(speed, cpu_s, answers / passes)


def run_sessions(lab: Lab) -> list[Figure]:
    """Eight sessions at once against one."""
    directory = get_model(lab, SMALL, "float32")

    async def measure() -> tuple[list[Trial], list[Trial]]:
        async with open_swarm(directory) as swarm:
            await run_trial(swarm, SESSIONS, 4)
            one, many = [], []
            for _ in range(SESSION_ROUNDS):
                one.append(await run_trial(swarm, 1, SESSION_TOKENS))
                many.append(await run_trial(swarm, SESSIONS, SESSION_TOKENS))
            return one, many

    one, many = trio.run(measure)
    pairs = list(zip(one, many, strict=True))
    return [
        summarise("eight together to one", [b.speed / a.speed for a, b in pairs], "x",
                  goal=Goal(3)),
        summarise("the same in tokens per CPU second",
                  [SESSIONS * a.cpu_s / b.cpu_s for a, b in pairs], "x"),
        summarise("one session", [trial.speed for trial in one], "tokens/s"),
        summarise("eight together", [trial.speed for trial in many], "tokens/s"),
        summarise("eight together: in a pass of a stage",
                  [trial.shared for trial in many], "sessions"),
    ]  # fmt: skip


def run_fairness(lab: Lab) -> list[Figure]:
    """A short request that comes while a prompt of 2,048 tokens is computed."""
    directory = get_model(lab, SMALL, "float32")
    long_prompt, prompt = draw_prompt(LONG_TOKENS), draw_prompt(SHORT_TOKENS, 1)

    async def measure() -> tuple[list[float], list[float]]:
        async with open_swarm(directory) as swarm:
            await swarm.answer(b"warm", prompt, 1)
            shared, queued = [], []
            for number in range(FAIRNESS_ROUNDS):
                name = bytes([number])
                long_answer = await swarm.answer(b"l" + name, long_prompt, 1)
                short_answer = await swarm.answer(b"s" + name, prompt, 1)
                queued.append(long_answer.first_s + short_answer.first_s)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(swarm.answer, b"L" + name, long_prompt, 1)
                    await trio.sleep(long_answer.first_s / 8)
                    answer = await swarm.answer(b"S" + name, prompt, 1)
                    shared.append(answer.first_s)
            return shared, queued

    shared, queued = trio.run(measure)
    ratios = [a / b for a, b in zip(queued, shared, strict=True)]
    return [
        summarise("first come first served to ours", ratios, "x", goal=Goal(10)),
        summarise("to the first token of the short one", shared, "s"),
        summarise("the long one alone, and the short one after it", queued, "s"),
    ]
