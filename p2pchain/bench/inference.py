"""
`python -m p2pchain.bench.inference [SECTION ...] [--json FILE]`, or
`make bench-inference`: what the inference engine makes of this machine.

Ours is a requester and two stage processes of one thread each, driven over their
sockets without a network between them (a hop of the network is measured by the section
`hop` of the general bench).  Beside it stands `generate` of the library in one process
of one thread, asked in turns, so that both meet the same machine; figures are medians,
and what says something on a busy machine are the ratios.

Models have random weights and are written to a folder that is removed at the end.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import trio

from inference.device import measure_bytes_per_s
from inference.precision import PACKINGS, Precision
from p2pchain.bench.lab import LineProcess
from p2pchain.bench.procfs import read_memory
from p2pchain.bench.random_models import LARGE, MIDDLE, SMALL, LlamaSize, write_model
from p2pchain.bench.report import (
    Figure,
    Section,
    build_document,
    collect_conditions,
    compute_quantile,
    format_section,
    get_load,
    summarise,
)
from p2pchain.bench.worker_swarm import Answer, WorkerSwarm, draw_prompt, open_swarm

PROMPT_TOKENS = 16
DECODE_TOKENS = {SMALL.name: 48, MIDDLE.name: 24, LARGE.name: 12}
ROUNDS = {SMALL.name: 4, MIDDLE.name: 3, LARGE.name: 2}
SESSIONS = 8
SESSION_TOKENS = 24
PRECISION_TOKENS = 10
PRECISION_ROUNDS = 3
PREFILL_TOKENS = 512
LONG_TOKENS = 2048
SHORT_TOKENS = 24
NULL_STEPS = 400
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(slots=True)
class Bench:
    """Where models are written; one at a time, for they are large."""

    folder: Path

    def get_model(self, size: LlamaSize, dtype: str) -> Path:
        """Return a model's directory; writing it removes the one before."""
        directory = self.folder / f"{size.name}-{dtype}"
        if not directory.exists():
            for other in self.folder.iterdir():
                shutil.rmtree(other)
            print(f"  writing {directory.name}", file=sys.stderr, flush=True)
            write_model(self.folder, size, dtype)
        return directory


def run_decode(bench: Bench, size: LlamaSize, dtype: str) -> list[Figure]:
    """One session through two stages beside `generate`."""
    directory = bench.get_model(size, dtype)
    prompt = draw_prompt(PROMPT_TOKENS)
    tokens, rounds = DECODE_TOKENS[size.name], ROUNDS[size.name]

    async def race(reference: LineProcess) -> tuple[list[Answer], list[dict[str, Any]]]:
        async with open_swarm(directory) as swarm:
            await swarm.answer(b"warm", prompt, 2)
            _ask(reference, prompt, 2)
            ours, theirs = [], []
            for number in range(rounds):
                ours.append(await swarm.answer(bytes([number]), prompt, tokens))
                theirs.append(_ask(reference, prompt, tokens))
            return ours, theirs

    with LineProcess("inference.reference", "--model", str(directory)) as reference:
        ours, theirs = trio.run(race, reference)
    speeds = [_compute_decode_speed(answer) for answer in ours]
    reference_speeds = [tokens / answer["seconds"] for answer in theirs]
    whole = [tokens / answer.seconds for answer in ours]
    ratios = [a / b for a, b in zip(whole, reference_speeds, strict=True)]
    token_bytes = size.read_parameters * DTYPE_BYTES[dtype]
    bandwidth = measure_bytes_per_s()
    title = f"{size.name} {dtype}"
    pairs = zip(ours, theirs, strict=True)
    is_same = all(answer.ids == other["ids"] for answer, other in pairs)
    cpu_ratios = [
        other["cpu_seconds"] / answer.cpu_s
        for answer, other in zip(ours, theirs, strict=True)
    ]
    return [
        summarise(f"{title}: ratio to generate", ratios, "", "goal 1.0"),
        summarise(f"{title}: the same in CPU seconds", cpu_ratios, ""),
        summarise(f"{title}: two stages", whole, "tokens/s", f"{tokens} tokens each"),
        summarise(f"{title}: generate", reference_speeds, "tokens/s"),
        Figure(
            f"{title}: of the memory's speed",
            median(speeds) * token_bytes / bandwidth,
            "",
            f"one thread reads {bandwidth / 1e9:.1f} GB/s now",
        ),
        Figure(f"{title}: the same greedy tokens", is_same),
    ]


def run_decodes(size: LlamaSize, bench: Bench) -> list[Figure]:
    """One size in every dtype."""
    return [
        figure for dtype in DTYPE_BYTES for figure in run_decode(bench, size, dtype)
    ]


def run_precisions(bench: Bench) -> list[Figure]:
    """Quantised weights against the model's own, at 0.5B, one session and eight."""
    directory = bench.get_model(MIDDLE, "float32")
    trials: dict[tuple[Precision, int], list[Trial]] = {}

    async def measure() -> None:
        async with AsyncExitStack() as stack:
            swarms = {
                precision: await stack.enter_async_context(
                    open_swarm(directory, precision=precision)
                )
                for precision in PACKINGS
            }
            for number in range(1 + PRECISION_ROUNDS):
                for sessions in (1, SESSIONS):
                    for precision, swarm in swarms.items():
                        trial = await _run_sessions(swarm, sessions, PRECISION_TOKENS)
                        # The first round warms up.
                        if number:
                            trials.setdefault((precision, sessions), []).append(trial)

    trio.run(measure)
    figures = []
    for (precision, sessions), found in trials.items():
        native = trials[Precision.NATIVE, sessions]
        pairs = list(zip(found, native, strict=True))
        name = f"{precision}, {sessions} session{'s' * (sessions > 1)}"
        figures.append(summarise(name, [trial.speed for trial in found], "tokens/s"))
        if precision is not Precision.NATIVE:
            ratios = [a.speed / b.speed for a, b in pairs]
            figures.append(summarise(f"{name}, to native", ratios, ""))
            ratios = [b.cpu_s / a.cpu_s for a, b in pairs]
            figures.append(summarise(f"{name}, to native in CPU seconds", ratios, ""))
    return figures


def run_sessions(bench: Bench) -> list[Figure]:
    """Eight sessions at once against one."""
    directory = bench.get_model(SMALL, "float32")

    async def measure() -> tuple[list[Trial], list[Trial]]:
        async with open_swarm(directory) as swarm:
            await _run_sessions(swarm, SESSIONS, 4)
            one, many = [], []
            for _ in range(4):
                one.append(await _run_sessions(swarm, 1, SESSION_TOKENS))
                many.append(await _run_sessions(swarm, SESSIONS, SESSION_TOKENS))
            return one, many

    one, many = trio.run(measure)
    pairs = list(zip(one, many, strict=True))
    return [
        summarise("eight sessions to one", [b.speed / a.speed for a, b in pairs], "",
                  "goal 3"),
        summarise("the same in tokens per CPU second",
                  [SESSIONS * a.cpu_s / b.cpu_s for a, b in pairs], ""),
        summarise("one session", [trial.speed for trial in one], "tokens/s"),
        summarise("eight together", [trial.speed for trial in many], "tokens/s"),
    ]  # fmt: skip


def run_prefill(bench: Bench) -> list[Figure]:
    """A prompt of 512 tokens through two stages beside `generate`."""
    directory = bench.get_model(SMALL, "float32")
    prompt = draw_prompt(PREFILL_TOKENS)

    async def race(reference: LineProcess) -> tuple[list[float], list[float]]:
        async with open_swarm(directory) as swarm:
            ours, theirs = [], []
            for number in range(4):
                answer = await swarm.answer(bytes([number]), prompt, 1)
                ours.append(PREFILL_TOKENS / answer.first_s)
                seconds = _ask(reference, prompt, 1)["seconds"]
                theirs.append(PREFILL_TOKENS / seconds)
            return ours, theirs

    with LineProcess("inference.reference", "--model", str(directory)) as reference:
        ours, theirs = trio.run(race, reference)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        summarise("ratio to generate", ratios, "", "goal 1.0"),
        summarise("two stages, chunks of 128", ours, "tokens/s"),
        summarise("generate, one token", theirs, "tokens/s"),
    ]


def run_fairness(bench: Bench) -> list[Figure]:
    """A short request that comes while a prompt of 2,048 tokens is computed."""
    directory = bench.get_model(SMALL, "float32")
    long_prompt, prompt = draw_prompt(LONG_TOKENS), draw_prompt(SHORT_TOKENS, 1)

    async def measure() -> tuple[list[float], list[float]]:
        async with open_swarm(directory) as swarm:
            await swarm.answer(b"warm", prompt, 1)
            shared, queued = [], []
            for number in range(2):
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
        summarise("first come first served to ours", ratios, "", "goal 10"),
        summarise("to the first token of the short one", shared, "s"),
        summarise("the long one alone, and the short one after it", queued, "s"),
    ]


def run_null_stage(bench: Bench) -> list[Figure]:
    """What the way to a stage process and back costs, without computing."""
    directory = bench.get_model(SMALL, "float32")

    async def measure() -> list[float]:
        async with open_swarm(directory, stages=1, null=True) as swarm:
            stage = swarm.stages[0]
            hidden = bytes(stage.info.token_bytes)
            times = []
            for position in range(NULL_STEPS):
                started = time.perf_counter()
                await stage.forward(b"null", position, hidden, 1)
                times.append((time.perf_counter() - started) * 1000)
            return times

    times = trio.run(measure)
    p95 = compute_quantile(times, 0.95)
    note = f"p95 {p95:.2f}, n {NULL_STEPS}; sockets of one machine, no network hop"
    return [Figure("to a stage and back, nothing computed", median(times), "ms", note)]


def run_memory(bench: Bench) -> list[Figure]:
    """What a stage takes beside its weights and the pages that were touched."""
    directory = bench.get_model(SMALL, "float32")

    async def measure() -> list[Figure]:
        async with open_swarm(directory) as swarm:
            stage = swarm.stages[0]
            before = _read_rss(swarm)
            await swarm.answer(b"m", draw_prompt(LONG_TOKENS), 1)
            after = _read_rss(swarm)
            weights = stage.status.bytes_read
            cache = LONG_TOKENS * stage.status.position_bytes
            return [
                Figure("weights of the stage", weights / 2**20, "MiB"),
                Figure("beside them when it is ready", (before - weights) / 2**20,
                       "MiB", "interpreter, libraries"),
                Figure("pages of 2,048 positions", cache / 2**20, "MiB"),
                Figure("what these added", (after - before) / 2**20, "MiB",
                       "pages and the largest pass"),
            ]  # fmt: skip

    return trio.run(measure)


SECTIONS: dict[str, tuple[str, Callable[[Bench], list[Figure]]]] = {
    "null": ("The way to a stage and back", run_null_stage),
    "sessions": ("Eight sessions at once, 110M float32", run_sessions),
    "prefill": ("A prompt of 512 tokens, 110M float32", run_prefill),
    "fairness": ("A short request behind a prompt of 2,048", run_fairness),
    "memory": ("Memory of a stage, 110M float32", run_memory),
    "precision": ("Precision of weights, 0.5B", run_precisions),
    "decode-110M": ("One session through two stages", partial(run_decodes, SMALL)),
    "decode-0.5B": ("One session through two stages", partial(run_decodes, MIDDLE)),
    "decode-1.1B": ("One session through two stages", partial(run_decodes, LARGE)),
}
"""Small models first; each writes over the one before."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Some sessions at once."""

    speed: float
    """Tokens per second of all together."""
    cpu_s: float
    """Of all workers."""


async def _run_sessions(swarm: WorkerSwarm, sessions: int, tokens: int) -> Trial:
    prompts = [draw_prompt(PROMPT_TOKENS, number) for number in range(sessions)]
    started, cpu_started = time.perf_counter(), swarm.read_cpu_s()
    async with trio.open_nursery() as nursery:
        for number, prompt in enumerate(prompts):
            nursery.start_soon(swarm.answer, bytes([number]), prompt, tokens)
    speed = sessions * tokens / (time.perf_counter() - started)
    return Trial(speed, swarm.read_cpu_s() - cpu_started)


def _compute_decode_speed(answer: Answer) -> float:
    return (len(answer.ids) - 1) / (answer.seconds - answer.first_s)


def _ask(reference: LineProcess, prompt: list[int], tokens: int) -> dict[str, Any]:
    return reference.ask({"prompt": prompt, "tokens": tokens})


def _read_rss(swarm: WorkerSwarm) -> int:
    pid = swarm.stages[0].pid
    assert pid is not None
    return read_memory(pid).rss


def main() -> int:
    """Run the chosen sections; returns 1 when one could not measure."""
    parser = argparse.ArgumentParser(prog="python -m p2pchain.bench.inference")
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="results as JSON")
    options = parser.parse_args()
    conditions = collect_conditions()
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    sections = []
    with TemporaryDirectory(prefix="p2pchain-bench-") as folder:
        bench = Bench(Path(folder))
        for name in options.sections or SECTIONS:
            sections.append(_run(name, bench))
            print("\n" + format_section(sections[-1]), flush=True)
    if options.json is not None:
        document = build_document(conditions, sections)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(section.error for section in sections) else 0


def _run(name: str, bench: Bench) -> Section:
    title, measure = SECTIONS[name]
    load, started = get_load(), time.monotonic()
    figures: list[Figure] = []
    error = ""
    try:
        figures = measure(bench)
    except Exception as problem:
        # The other sections can still measure; this one says what went wrong.
        error = f"{type(problem).__name__}: {problem}"
    return Section(
        name=name,
        title=title,
        seconds=time.monotonic() - started,
        load_before=load,
        load_after=get_load(),
        figures=tuple(figures),
        error=error,
    )


if __name__ == "__main__":
    sys.exit(main())
