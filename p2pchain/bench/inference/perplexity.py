"""
What each precision loses: perplexity of the bundled model on three texts.

The first is what the model was trained to say, where it is certain of every token.  The
second are the same answers to other questions.  The third was drawn from the model
itself, as it is, at a temperature at which it strays from what it has learnt.  Prose
from elsewhere would say nothing: a model of two million parameters that never read any
is surprised by it without bound, whatever its precision.

Beside them stands the float32 model over eight hops of a layer each, with hidden states
of eight bits on each of the nine ways.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from inference.bundled.pairs import load_pairs
from inference.bundled.paths import model_dir
from inference.device.precision import Precision
from p2pchain.bench.lab.lab import Lab, LineProcess
from p2pchain.bench.report import Figure

PRECISIONS = (Precision.FP32, Precision.BF16, Precision.INT8, Precision.INT4)
COARSE = "fp32, int8 activations"
PAIRS = 40
DRAWN = 16
DRAWN_TOKENS = 64
TEMPERATURE = 2.0

Text = dict[str, Any]
"""Token ids, and the first of those that are foretold."""


def run_perplexity(lab: Lab) -> list[Figure]:
    """Foretell the texts in every precision."""
    every = load_pairs()
    pairs = every[:: max(1, len(every) // PAIRS)]
    questions = [pair.question for pair in pairs]
    answers = [pair.answer for pair in pairs]
    with ExitStack() as stack:
        readers: dict[str, LineProcess] = {
            precision: stack.enter_context(_open_reader(precision))
            for precision in PRECISIONS
        }
        coarse = _open_reader(Precision.FP32, "--hops", "8", "--activations", "int8")
        readers[COARSE] = stack.enter_context(coarse)
        exact = readers[Precision.FP32]
        others = [*answers[1:], answers[0]]
        texts = {
            "its own answers": _encode_chats(exact, questions, answers),
            "answers to other questions": _encode_chats(exact, questions, others),
            "drawn from it": _draw_answers(exact, questions[:DRAWN]),
        }
        return [
            figure
            for kind, chosen in texts.items()
            for figure in _compare(kind, chosen, readers)
        ]


def _compare(
    kind: str, texts: list[Text], readers: dict[str, LineProcess]
) -> Iterator[Figure]:
    """Yield each reader's perplexity beside the first one's."""
    tokens = sum(len(text["ids"]) - text["first"] for text in texts)
    first = None
    for name, reader in readers.items():
        said = [reader.ask(text) for text in texts]
        loss = sum(each["loss"] for each in said) / tokens
        error = sum(each["error"] for each in said) / len(said)
        first = loss if first is None else first
        more = 100 * math.expm1(loss - first)
        note = f"{tokens} tokens; {more:+.2f} % of fp32's"
        if error:
            note += f"; {100 * error:.2f} % lost per way"
        yield Figure(f"{kind}: {name}", math.exp(loss), "", note)


def _encode_chats(
    reader: LineProcess, questions: list[str], answers: list[str]
) -> list[Text]:
    return [
        reader.ask({"question": question, "answer": answer})
        for question, answer in zip(questions, answers, strict=True)
    ]


def _draw_answers(reader: LineProcess, questions: list[str]) -> list[Text]:
    """Return what the model says by lot, always the same."""
    request = {"draw": TEMPERATURE, "tokens": DRAWN_TOKENS}
    return [
        reader.ask(request | {"seed": seed, "question": question})
        for seed, question in enumerate(questions)
    ]


def _open_reader(precision: Precision, *options: str) -> LineProcess:
    model = str(model_dir())
    return LineProcess(
        "inference.measurement.perplexity",
        "--model",
        model,
        "--precision",
        precision,
        *options,
    )
