"""
What a stage's process takes, beside what the memory formula says.

    taken = weights + pages that tokens have touched + a constant

That formula (inference/device/memory.py) is the one by which layers are placed and
sessions are admitted.  The constant is what is left: interpreter, libraries, the
largest pass.
"""

from dataclasses import dataclass
from pathlib import Path

import trio

from inference.bundled.paths import model_dir
from inference.device.memory import WORKER_BYTES, CacheCost
from inference.device.precision import Precision
from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.procfs import read_memory
from p2pchain.bench.lab.random_models import SMALL
from p2pchain.bench.lab.worker_swarm import draw_prompt, open_swarm
from p2pchain.bench.report import Figure, Goal

MIB = 2**20
POSITIONS = (16, 512, 2048)
"""Tokens of a session, one after another in the same process."""
BUNDLED_POSITIONS = (16, 512)


@dataclass(frozen=True, slots=True)
class Sample:
    """A stage's process after a session of so many positions."""

    weights: int
    pages: int
    """Bytes that the formula counts for its positions."""
    rss: int
    pss: int

    @property
    def rest(self) -> int:
        """What the formula's constant stands for."""
        return self.rss - self.weights - self.pages


def run_memory(lab: Lab) -> list[Figure]:
    """Read the memory of stages of several sizes after sessions of several lengths."""
    figures: list[Figure] = []
    rests: list[int] = []
    small = get_model(lab, SMALL, "float32")
    for title, directory, stages, positions, precision in (
        ("half of bundled", model_dir(), 2, BUNDLED_POSITIONS, Precision.NATIVE),
        ("half of 110M", small, 2, POSITIONS, Precision.NATIVE),
        ("all of 110M", small, 1, POSITIONS, Precision.NATIVE),
        ("all of 110M in int8", small, 1, POSITIONS, Precision.INT8),
    ):  # fmt: skip
        lab.report(f"memory of {title}")
        samples = trio.run(_measure, directory, stages, positions, precision)
        for count, sample in zip(positions, samples, strict=True):
            figures.append(_describe(f"{title}, {count:,} positions", sample))
            # Quantised weights are smaller than those that were read.
            if precision is Precision.NATIVE:
                rests.append(sample.rest)
    bound = Goal(WORKER_BYTES / MIB, is_floor=False)
    least, most = min(rests) / MIB, max(rests) / MIB
    note = f"least {least:.0f}; int8 left out, whose weights shrink when they are read"
    return [
        Figure("beside weights and pages, most", most, "MiB", note, bound),
        *figures,
    ]


async def _measure(
    directory: Path, stages: int, positions: tuple[int, ...], precision: Precision
) -> list[Sample]:
    samples = []
    async with open_swarm(directory, stages=stages, precision=precision) as swarm:
        stage = swarm.stages[0]
        status = stage.status
        for count in positions:
            await swarm.answer(b"%d" % count, draw_prompt(count - 1), 1)
            assert stage.pid is not None
            memory = read_memory(stage.pid)
            pages = CacheCost(status.position_bytes).compute_bytes(count)
            samples.append(Sample(status.bytes_read, pages, memory.rss, memory.pss))
    return samples


def _describe(name: str, sample: Sample) -> Figure:
    note = (
        f"weights {sample.weights / MIB:.0f}, pages {sample.pages / MIB:.0f}, beside "
        f"them {sample.rest / MIB:.0f}; PSS {sample.pss / MIB:.0f}"
    )
    return Figure(name, sample.rss / MIB, "MiB RSS", note)
