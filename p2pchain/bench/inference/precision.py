"""
Quantised weights against the model's own, at 0.5B, one session and eight.

The kernels alone say what could be had: what a step of the engine takes beyond them
(attention, norms, rotary embeddings, the head, Python) is the same in every precision.
"""

from contextlib import AsyncExitStack
from functools import partial
from statistics import median

import trio

from inference.precision import PACKINGS, Precision
from p2pchain.bench.bandwidth import measure_read_bytes_per_s
from p2pchain.bench.inference.sessions import SESSIONS, Trial, run_trial
from p2pchain.bench.lab import Lab, LineProcess
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

KERNEL_LAYERS = 8
"""Of different weights: 87 MB in int4, more than the processor's caches hold."""
KERNEL_ROUNDS = 15
WEIGHT_BITS = {Precision.NATIVE: 32, Precision.INT8: 8, Precision.INT4: 5}
"""As they are read; four bits, and scale and zero of 16 bits for every 32 weights."""

Trials = dict[tuple[Precision, int], list[Trial]]


def run_kernels(_: Lab) -> list[Figure]:
    """Multiply by weights of the shapes of 0.5B, and nothing else."""
    shapes = MIDDLE.list_products()
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    request = {"shapes": shapes, "layers": KERNEL_LAYERS, "rounds": KERNEL_ROUNDS}
    figures = []
    with LineProcess("inference.kernel_speed") as process:
        for rows in (1, SESSIONS):
            limit = measure_read_bytes_per_s()
            seconds = process.ask(request | {"rows": rows})
            native = seconds[Precision.NATIVE]
            for packing in PACKINGS:
                taken = seconds[packing]
                name = f"{packing}, {rows} row{'s' * (rows > 1)}"
                layer_bytes = weights * WEIGHT_BITS[packing] / 8
                speed = layer_bytes / median(taken)
                note = (
                    f"reads {speed / 1e9:.1f} GB/s, "
                    f"{100 * speed / limit:.0f} % of one thread's {limit / 1e9:.1f}"
                )
                figures.append(
                    summarise(name, [each * 1000 for each in taken], "ms", note)
                )
                if packing is not Precision.NATIVE:
                    ratios = [a / b for a, b in zip(native, taken, strict=True)]
                    figures.append(summarise(f"{name}: to native", ratios, "x"))
    return figures


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
