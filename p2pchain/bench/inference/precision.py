"""Quantised weights against the model's own, at 0.5B, one session and eight."""

from contextlib import AsyncExitStack
from functools import partial

import trio

from inference.precision import PACKINGS, Precision
from p2pchain.bench.inference.sessions import SESSIONS, Trial, run_trial
from p2pchain.bench.lab import Lab
from p2pchain.bench.models import get_model
from p2pchain.bench.random_models import MIDDLE
from p2pchain.bench.report import Figure, Goal, summarise
from p2pchain.bench.worker_swarm import open_swarm

TOKENS = 10
ROUNDS = 5
GOALS = {
    (Precision.INT8, 1): Goal(2),
    (Precision.INT4, 1): Goal(3),
    (Precision.INT8, SESSIONS): Goal(4),
}

Trials = dict[tuple[Precision, int], list[Trial]]


def run_precisions(lab: Lab) -> list[Figure]:
    """Let every precision answer in turns."""
    directory = get_model(lab, MIDDLE, "float32")

    async def measure() -> Trials:
        trials: Trials = {}
        async with AsyncExitStack() as stack:
            swarms = {}
            for precision in PACKINGS:
                opening = open_swarm(directory, precision=precision)
                swarms[precision] = await stack.enter_async_context(opening)
            for number in range(1 + ROUNDS):
                for sessions in (1, SESSIONS):
                    for precision, swarm in swarms.items():
                        trial = await run_trial(swarm, sessions, TOKENS)
                        # The first round warms up.
                        if number:
                            trials.setdefault((precision, sessions), []).append(trial)
        return trials

    trials = trio.run(measure)
    return [figure for key in trials for figure in _describe(trials, *key)]


def _describe(trials: Trials, precision: Precision, sessions: int) -> list[Figure]:
    found = trials[precision, sessions]
    pairs = list(zip(found, trials[Precision.NATIVE, sessions], strict=True))
    name = f"{precision}, {sessions} session{'s' * (sessions > 1)}"
    figures = [summarise(name, [trial.speed for trial in found], "tokens/s")]
    if precision is not Precision.NATIVE:
        goal = GOALS.get((precision, sessions))
        to_native = partial(summarise, unit="x")
        figures += [
            to_native(f"{name}: to native", [a.speed / b.speed for a, b in pairs],
                      goal=goal),
            to_native(f"{name}: to native in CPU seconds",
                      [b.cpu_s / a.cpu_s for a, b in pairs]),
        ]  # fmt: skip
    return figures
