"""
How fast the kernels of each packing multiply, without a model around them.

    python -m inference.measurement.kernel_speed

reads requests from stdin, one JSON object a line, and answers each with one line:

    {"shapes": [[outputs, inputs], ...], "layers": L, "rows": R, "rounds": N}
    {"plain": [S, ...], "native": [S, ...], "int8": [S, ...], "int4": [S, ...]}

CPU seconds of a layer, which is one product of every shape, for each round.  The
packings take turns, and a round goes through `layers` layers of different weights,
which should be more than the processor's caches hold.  "plain" is what the library
does with a matrix that nobody laid out.
"""

import json
import os
import sys
import time
from functools import partial
from typing import Any

from inference.device.precision import PACKINGS
from inference.worker.worker import ENVIRONMENT

PLAIN = "plain"


def main() -> int:
    """Answer requests until stdin ends."""
    # Before torch is imported, as in the workers: it reads them once.
    os.environ.update(ENVIRONMENT, OMP_NUM_THREADS="1")
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)
    return 0


def measure(
    shapes: list[list[int]], layers: int, rows: int, rounds: int
) -> dict[str, list[float]]:
    """Return CPU seconds per layer by packing, one for each round."""
    import torch
    from torch.nn.functional import linear

    from inference.engine.kernels import Kernel, build_kernel

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, rows, width, generator=generator) for _, width in shapes]
    stacks: dict[str, list[list[Kernel]]] = {name: [] for name in (PLAIN, *PACKINGS)}
    for _ in range(layers):
        weights = [torch.randn(shape, generator=generator) for shape in shapes]
        plain: list[Kernel] = [partial(linear, weight=weight) for weight in weights]
        stacks[PLAIN].append(plain)
        for packing in PACKINGS:
            kernels = [build_kernel(weight, None, packing) for weight in weights]
            stacks[packing].append(kernels)
    seconds: dict[str, list[float]] = {name: [] for name in stacks}
    with torch.inference_mode():
        for number in range(1 + rounds):
            for name, stack in stacks.items():
                started = time.thread_time()
                _run(stack, given)
                taken = time.thread_time() - started
                # The first round warms up.
                if number:
                    seconds[name].append(taken / layers)
    return seconds


def _run(stack: list[Any], given: list[Any]) -> None:
    for kernels in stack:
        for kernel, states in zip(kernels, given, strict=True):
            kernel(states)


if __name__ == "__main__":
    sys.exit(main())
