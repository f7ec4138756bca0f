"""Answers through four stages beside those of one process: the same, and how fast."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from inference.bundled.pairs import load_pairs
from inference.bundled.paths import model_dir
from p2pchain.bench.lab.lab import Lab, LineProcess, RunningNetwork
from p2pchain.bench.report import Figure, summarise
from p2pchain.node.home.initialise import BUNDLED_NAME

IDENTITY_QUESTIONS = 8
STRANGE_QUESTIONS = (
    "Tell me something that nobody has asked before.",
    "0 1 1 2 3 5 8 13 21",
)
"""Not among those that the bundled model knows, so its probabilities are close."""
IDENTITY_TOKENS = 64
DECODE_TOKENS = 128
DECODE_ROUNDS = 6

LARGE = "large"
LARGE_HIDDEN = 1024
"""About 100 million parameters: some 30 ms a step on a core of today."""
LARGE_TOKENS = 48
LARGE_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An answer through /v1, and when it came."""

    text: str
    tokens: int
    seconds: float
    """From the request to the last byte."""
    first_s: float
    """From the request to the first text."""
    account: dict[str, Any]
    """What the gateway says of laps and hops."""

    @property
    def hops_us(self) -> int:
        """Sum of the hops' own median times of a decode step."""
        return sum(hop["step_us"] for hop in self.account["hops"])

    @property
    def lap_us(self) -> int:
        """Median time of a decode step through all hops, as the client saw it."""
        return int(self.account["lap_us"])


def ask(
    network: RunningNetwork,
    question: str,
    tokens: int,
    model: str = BUNDLED_NAME,
    *,
    guesses: bool = True,
) -> TimedAnswer:
    """Ask through /v1, greedily, for exactly `tokens` tokens.

    Args:
        network: Where.
        question: What; nobody keeps what was computed for it, so it may be asked again.
        tokens: How many.
        model: Whose.
        guesses: Whether steps may carry guesses; without, a lap is one token.
    """
    body = {
        "model": model,
        "speculation": "auto" if guesses else "off",
        "prefix_cache": False,
        "messages": _build_messages(question),
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    text, account, usage, first_s = "", {}, {}, 0.0
    for chunk in network.client().stream_chat(body):
        account = chunk.get("p2pchain", account)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            text += choice["delta"].get("content") or ""
            first_s = first_s or (text and time.perf_counter() - started) or 0.0
    seconds = time.perf_counter() - started
    return TimedAnswer(text, usage["completion_tokens"], seconds, first_s, account)


def run_decode(lab: Lab) -> list[Figure]:
    """Compare the bundled model through four stages with one process."""
    network = lab.get_network()
    first = ask(network, STRANGE_QUESTIONS[0], 8)
    figures = [
        Figure("first answer of all, to its first text", first.first_s, "s",
               "opens a channel to every hop on chain"),
    ]  # fmt: skip
    with LineProcess(
        "inference.worker.reference", "--model", str(model_dir())
    ) as reference:
        figures.append(_compare(network, reference))
        lab.report("decoding")
        figures += _race(network, reference, DECODE_TOKENS, DECODE_ROUNDS)
    return figures


def run_large(lab: Lab) -> list[Figure]:
    """The same with a model whose steps take long enough to outweigh the way."""
    directory = lab.folder / LARGE
    lab.report("making a model of random weights")
    _save_random_model(directory, LARGE_HIDDEN)
    lab.create("large-devnet", model=str(directory))
    with (
        lab.open_network("large-devnet") as network,
        LineProcess(
            "inference.worker.reference", "--model", str(directory)
        ) as reference,
    ):
        lab.report("decoding")
        return _race(network, reference, LARGE_TOKENS, LARGE_ROUNDS, LARGE)


def _compare(network: RunningNetwork, reference: LineProcess) -> Figure:
    """Tell whether greedy answers are the same, trained and strange questions."""
    questions = [pair.question for pair in load_pairs()]
    step = max(1, len(questions) // IDENTITY_QUESTIONS)
    chosen = [*questions[::step][:IDENTITY_QUESTIONS], *STRANGE_QUESTIONS]
    different = 0
    for question in chosen:
        ours = ask(network, question, IDENTITY_TOKENS)
        theirs = _ask_reference(reference, question, IDENTITY_TOKENS)
        is_same = ours.text == theirs["text"] and ours.tokens == len(theirs["ids"])
        different += not is_same
    note = f"{len(chosen)} answers of {IDENTITY_TOKENS} tokens, {different} differ"
    return Figure("greedy answers are those of one process", different == 0, "", note)


def _race(
    network: RunningNetwork,
    reference: LineProcess,
    tokens: int,
    rounds: int,
    model: str = BUNDLED_NAME,
) -> list[Figure]:
    """Answer the same question in turns, so that both meet the same machine."""
    question = STRANGE_QUESTIONS[0]
    _ask_reference(reference, question, 4)
    ask(network, question, 4, model)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(ask(network, question, tokens, model))
        theirs.append(_ask_reference(reference, question, tokens))
    rates = [answer.tokens / answer.seconds for answer in ours]
    reference_rates = [tokens / answer["seconds"] for answer in theirs]
    ratios = [a / b for a, b in zip(rates, reference_rates, strict=True)]
    hops = len(ours[0].account["hops"])
    pairs = zip(ours, theirs, strict=True)
    return [
        Figure("the same text", all(a.text == b["text"] for a, b in pairs)),
        summarise("ratio to generate in one process, one thread", ratios, ""),
        summarise("through four stages", rates, "tokens/s", f"{tokens} tokens each"),
        summarise("generate", reference_rates, "tokens/s"),
        summarise("to the first text", [a.first_s * 1000 for a in ours], "ms"),
        summarise(
            "one token", [a.seconds / a.tokens * 1000 for a in ours], "ms"
        ),
        summarise("hops' own time", [a.hops_us / 1000 for a in ours], "ms"),
        summarise(
            "per hop beyond that",
            [(a.lap_us - a.hops_us) / 1000 / hops for a in ours],
            "ms",
            f"lap {median(a.lap_us for a in ours) / 1000:.1f} ms",
        ),
    ]  # fmt: skip


def _ask_reference(
    reference: LineProcess, question: str, tokens: int
) -> dict[str, Any]:
    return reference.ask({"messages": _build_messages(question), "tokens": tokens})


def _build_messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def _save_random_model(directory: Path, hidden: int) -> None:
    """Write the bundled model again, wider and with random weights."""
    directory.mkdir()
    source = model_dir()
    config = json.loads((source / "config.json").read_text())
    config |= {
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "head_dim": 64,
    }
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and "safetensors" not in path.name:
            (directory / path.name).write_bytes(path.read_bytes())
    (directory / "config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(0)
    tensors = {
        name: _draw(generator, name, shape)
        for name, shape in _list_shapes(config).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _draw(
    generator: np.random.Generator, name: str, shape: tuple[int, ...]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    scale = np.float32(shape[-1] ** -0.5)
    return generator.standard_normal(shape, np.float32) * scale


def _list_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama model."""
    hidden, inner, words = (
        config[name] for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (words, hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (hidden, hidden)
        shapes[layer + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[layer + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[layer + "mlp.down_proj.weight"] = (hidden, inner)
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
    return shapes
