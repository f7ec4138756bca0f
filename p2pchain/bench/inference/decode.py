"""One session through two stages beside `generate` of the library, in turns."""

import math
from dataclasses import replace
from statistics import median
from typing import Any

import trio

from p2pchain.bench.lab.bandwidth import measure_read_bytes_per_s
from p2pchain.bench.lab.lab import Lab, LineProcess
from p2pchain.bench.lab.models import get_model
from p2pchain.bench.lab.random_models import LARGE, MIDDLE, SMALL, LlamaSize
from p2pchain.bench.lab.worker_swarm import Answer, draw_prompt, open_swarm
from p2pchain.bench.report import Figure, Goal, summarise

PROMPT_TOKENS = 16
DECODE_TOKENS = {SMALL.name: 48, MIDDLE.name: 24, LARGE.name: 16}
ROUNDS = {SMALL.name: 4, MIDDLE.name: 4, LARGE.name: 3}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
MANTISSA_BITS = {"float32": 23, "bfloat16": 7}
PREFILL_TOKENS = 512
PREFILL_ROUNDS = 4


def run_decodes(size: LlamaSize, lab: Lab) -> list[Figure]:
    """One size in every dtype."""
    return [figure for dtype in DTYPE_BYTES for figure in run_decode(lab, size, dtype)]


def run_decode(lab: Lab, size: LlamaSize, dtype: str) -> list[Figure]:
    """One session through two stages beside `generate`."""
    directory = get_model(lab, size, dtype)
    prompt = draw_prompt(PROMPT_TOKENS)
    tokens, rounds = DECODE_TOKENS[size.name], ROUNDS[size.name]
    limits: list[float] = []

    async def race(reference: LineProcess) -> tuple[list[Answer], list[dict[str, Any]]]:
        async with open_swarm(directory) as swarm:
            await swarm.answer(b"warm", prompt, 2)
            ask_reference(reference, prompt, 2)
            ours, theirs = [], []
            for number in range(rounds):
                limits.append(measure_read_bytes_per_s())
                ours.append(await swarm.answer(bytes([number]), prompt, tokens))
                theirs.append(ask_reference(reference, prompt, tokens))
            return ours, theirs

    with LineProcess(
        "inference.worker.reference", "--model", str(directory)
    ) as reference:
        ours, theirs = trio.run(race, reference)
        same = _compare_tokens(reference, prompt, ours[0].ids, theirs[0]["ids"], dtype)
    speeds = [_compute_decode_speed(answer) for answer in ours]
    reference_speeds = [tokens / answer["seconds"] for answer in theirs]
    whole = [tokens / answer.seconds for answer in ours]
    token_bytes = size.read_parameters * DTYPE_BYTES[dtype]
    pairs = list(zip(ours, theirs, strict=True))
    title = f"{size.name} {dtype}"
    return [
        summarise(f"{title}: to generate",
                  [other["seconds"] / answer.seconds for answer, other in pairs], "x",
                  goal=Goal(1)),
        summarise(f"{title}: the same in CPU seconds",
                  [other["cpu_seconds"] / ours.cpu_s for ours, other in pairs], "x"),
        summarise(f"{title}: two stages", whole, "tokens/s", f"{tokens} tokens each"),
        summarise(f"{title}: generate", reference_speeds, "tokens/s"),
        summarise(f"{title}: share of the memory's speed",
                  [a * token_bytes / b for a, b in zip(speeds, limits, strict=True)],
                  "",
                  f"one thread reads {median(limits) / 1e9:.1f} GB/s"),
        replace(same, name=f"{title}: {same.name}"),
    ]  # fmt: skip


def _compare_tokens(
    reference: LineProcess,
    prompt: list[int],
    ours: list[int],
    theirs: list[int],
    dtype: str,
) -> Figure:
    """Tell whether greedy tokens are the same, and if not, how close the choice was."""
    name = "the same greedy tokens"
    places = (n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    place = next(places, None)
    if place is None:
        return Figure(name, True)
    request = {"prompt": prompt, "tokens": place + 1, "best": True}
    first, second = reference.ask(request)["best"][place]
    step = 2.0 ** (math.floor(math.log2(abs(first))) - MANTISSA_BITS[dtype])
    note = (
        f"token {place + 1} is another; its two best logits, {first:.4g} and "
        f"{second:.4g}, are {(first - second) / step:.3g} rounding steps apart"
    )
    return Figure(name, False, "", note)


def run_prefill(lab: Lab) -> list[Figure]:
    """A prompt of 512 tokens through two stages beside `generate`."""
    directory = get_model(lab, SMALL, "float32")
    prompt = draw_prompt(PREFILL_TOKENS)

    async def race(reference: LineProcess) -> tuple[list[float], list[float]]:
        async with open_swarm(directory) as swarm:
            ours, theirs = [], []
            for number in range(PREFILL_ROUNDS):
                answer = await swarm.answer(bytes([number]), prompt, 1)
                ours.append(PREFILL_TOKENS / answer.first_s)
                seconds = ask_reference(reference, prompt, 1)["seconds"]
                theirs.append(PREFILL_TOKENS / seconds)
            return ours, theirs

    with LineProcess(
        "inference.worker.reference", "--model", str(directory)
    ) as reference:
        ours, theirs = trio.run(race, reference)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        summarise("to generate", ratios, "x", goal=Goal(1)),
        summarise("two stages, chunks of 128", ours, "tokens/s"),
        summarise("generate, one token", theirs, "tokens/s"),
    ]


def ask_reference(
    reference: LineProcess, prompt: list[int], tokens: int
) -> dict[str, Any]:
    """Return what `generate` answers, with its seconds."""
    return reference.ask({"prompt": prompt, "tokens": tokens})


def _compute_decode_speed(answer: Answer) -> float:
    return (len(answer.ids) - 1) / (answer.seconds - answer.first_s)
