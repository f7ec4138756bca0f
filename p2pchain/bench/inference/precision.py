"""
Quantised weights against the model's own, at 0.5B, one session and eight.

The kernels alone say what could be had: what a step of the engine takes beyond them
(attention, norms, rotary embeddings, the head, Python) is the same in every precision.
"plain" are matrices that nobody laid out: those of `generate`, several prompts in one
batch, and of the library's linear layers.
"""

from contextlib import AsyncExitStack
from statistics import median

import trio

from inference.device.precision import PACKINGS, Precision
from inference.measurement.kernel_speed import PLAIN
from p2pchain.bench.inference.sessions import (
    SESSIONS,
    Trial,
    run_trial,
)
from p2pchain.bench.lab.bandwidth import measure_read_bytes_per_s
from p2pchain.bench.lab.lab import Lab, LineProcess
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.random_models import MIDDLE
from p2pchain.bench.lab.worker_swarm import draw_prompt, open_swarm
from p2pchain.bench.report import Figure, Goal, summarise

PROMPT_TOKENS = 4
"""So few that the steps of single tokens are nearly everything."""
TOKENS = 24
ROUNDS = 5
GOALS: dict[tuple[str, int], Goal] = {
    (Precision.INT8, 1): Goal(2),
    (Precision.INT4, 1): Goal(3),
    (Precision.INT8, SESSIONS): Goal(4),
}

KERNEL_LAYERS = 8
"""Of different weights: 87 MB in int4, more than the processor's caches hold."""
KERNEL_ROUNDS = 15
WEIGHT_BITS = {Precision.NATIVE: 32, Precision.INT8: 8, Precision.INT4: 5}
"""As they are read; four bits, and scale and zero of 16 bits for every 32 weights."""

Trials = dict[tuple[str, int], list[Trial]]
"""By what computed and the number of sessions."""


def run_kernels(_: Lab) -> list[Figure]:
    """Multiply by weights of the shapes of 0.5B, and nothing else."""
    shapes = MIDDLE.list_products()
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    request = {"shapes": shapes, "layers": KERNEL_LAYERS, "rounds": KERNEL_ROUNDS}
    figures = []
    with LineProcess("inference.measurement.kernel_speed") as process:
        for rows in (1, SESSIONS):
            limit = measure_read_bytes_per_s()
            seconds = process.ask(request | {"rows": rows})
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
                for other in (PLAIN, Precision.NATIVE):
                    if other != packing:
                        pairs = zip(seconds[other], taken, strict=True)
                        ratios = [a / b for a, b in pairs]
                        figures.append(summarise(f"{name}: to {other}", ratios, "x"))
    return figures


def run_precisions(lab: Lab) -> list[Figure]:
    """Let every precision answer in turns."""
    directory = get_model(lab, MIDDLE, "float32")

    async def measure(reference: LineProcess) -> Trials:
        trials: Trials = {}
        async with AsyncExitStack() as stack:
            swarms = {}
            for precision in PACKINGS:
                opening = open_swarm(directory, precision=precision)
                swarms[precision] = await stack.enter_async_context(opening)
            for number in range(1 + ROUNDS):
                for sessions in (1, SESSIONS):
                    done = {PLAIN: _run_plain(reference, sessions)}
                    for precision, swarm in swarms.items():
                        done[precision] = await run_trial(
                            swarm, sessions, TOKENS, PROMPT_TOKENS
                        )
                    # The first round warms up.
                    for name, trial in done.items() if number else ():
                        trials.setdefault((name, sessions), []).append(trial)
        return trials

    with LineProcess(
        "inference.worker.reference", "--model", str(directory)
    ) as reference:
        trials = trio.run(measure, reference)
    return [figure for key in trials for figure in _describe(trials, *key)]


def _run_plain(reference: LineProcess, sessions: int) -> Trial:
    """Let `generate` answer in one batch, with its plain float32 matrices."""
    prompt = draw_prompt(PROMPT_TOKENS)
    request = {"prompt": prompt, "tokens": TOKENS, "copies": sessions}
    answer = reference.ask(request)
    speed = sessions * TOKENS / answer["seconds"]
    return Trial(speed, answer["cpu_seconds"], sessions)


def _describe(trials: Trials, name: str, sessions: int) -> list[Figure]:
    found = trials[name, sessions]
    title = f"{name}, {sessions} session{'s' * (sessions > 1)}"
    figures = [summarise(title, [trial.speed for trial in found], "tokens/s")]
    for other in (PLAIN, Precision.NATIVE):
        if name in (other, PLAIN):
            continue
        pairs = list(zip(found, trials[other, sessions], strict=True))
        goal = GOALS.get((name, sessions))
        speeds = [a.speed / b.speed for a, b in pairs]
        costs = [b.cpu_s / a.cpu_s for a, b in pairs]
        figures += [
            summarise(f"{title}: to {other}", speeds, "x", goal=goal),
            summarise(f"{title}: to {other} in CPU seconds", costs, "x"),
        ]
    if sessions > 1 and name != PLAIN:
        shared = [trial.shared for trial in found]
        figures.append(summarise(f"{title}: in a pass of a stage", shared, "sessions"))
    return figures
