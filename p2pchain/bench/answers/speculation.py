"""
Guesses over slow links: what they bring where text repeats, and cost where not.

Four stages of the bundled model, every link between two nodes delayed.  Text that
repeats is the answer to a question that was asked and answered in the conversation
before; text that does not is drawn at random from the model beyond the end of what it
has to say.  The same request goes with and without guesses, in turns, and the texts
are compared.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from inference.bundled.pairs import load_pairs
from p2pchain.bench.lab.lab import Lab, RunningNetwork
from p2pchain.bench.lab.links import open_linked_network
from p2pchain.bench.report import Figure, Goal, format_number
from p2pchain.node.home.initialise import BUNDLED_NAME

DELAY_S = 0.05
"""One way."""
ROUNDS = 2
QUESTION = 32
"""Number of the pair that is asked twice; its answer has about sixty tokens."""
RANDOM_TOKENS = 32


@dataclass(frozen=True, slots=True)
class _Spoken:
    text: str
    token_s: float
    """Per token after the first one."""
    guesses: int
    right: int


def run_speculation(lab: Lab) -> list[Figure]:
    """Compare answers with and without guesses over links of 50 ms."""
    pair = load_pairs()[QUESTION]
    asked = {"role": "user", "content": pair.question}
    said = {"role": "assistant", "content": pair.answer}
    repeated = {"messages": [asked, said, asked], "temperature": 0}
    random = {
        "messages": [asked],
        "temperature": 1.0,
        "seed": 1,
        "ignore_eos": True,
        "max_tokens": RANDOM_TOKENS,
    }
    with open_linked_network(lab, "speculation") as (network, links):
        for body in (repeated, random):
            _ask(network, body, "off")
        links.set_delay(DELAY_S)
        repeats = _compare(network, repeated)
        fresh = _compare(network, random)
    return [
        *_build_figures("repetitive", repeats, Goal(1.5)),
        *_build_figures("unrepetitive", fresh, Goal(0.95)),
    ]


def _compare(network: RunningNetwork, body: dict[str, Any]) -> dict[str, list[_Spoken]]:
    """Return answers with and without guesses, in turns."""
    answers: dict[str, list[_Spoken]] = {"off": [], "auto": []}
    for _ in range(ROUNDS):
        for mode, found in answers.items():
            found.append(_ask(network, body, mode))
    return answers


def _ask(network: RunningNetwork, body: dict[str, Any], mode: str) -> _Spoken:
    wanted = body | {
        "model": BUNDLED_NAME,
        "speculation": mode,
        "stream_options": {"include_usage": True},
    }
    started, first_s, text = time.perf_counter(), 0.0, ""
    usage: dict[str, Any] = {}
    for chunk in network.client().stream_chat(wanted):
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            text += choice["delta"].get("content") or ""
            first_s = first_s or (text and time.perf_counter() - started) or 0.0
    seconds = time.perf_counter() - started - first_s
    details = usage["completion_tokens_details"]
    right = details["accepted_prediction_tokens"]
    return _Spoken(
        text=text,
        token_s=seconds / (usage["completion_tokens"] - 1),
        guesses=right + details["rejected_prediction_tokens"],
        right=right,
    )


def _build_figures(
    name: str, answers: dict[str, list[_Spoken]], goal: Goal
) -> list[Figure]:
    without, with_guesses = answers["off"], answers["auto"]
    plain_s = median(answer.token_s for answer in without)
    guessed_s = median(answer.token_s for answer in with_guesses)
    counts = f"{with_guesses[0].right} of {with_guesses[0].guesses} guesses right"
    rates = f"{format_number(1 / plain_s)} and {format_number(1 / guessed_s)} tokens/s"
    texts = {answer.text for answer in (*without, *with_guesses)}
    return [
        Figure(f"{name} text", plain_s / guessed_s, "x", f"{counts}; {rates}", goal),
        Figure(f"{name} text is the same", len(texts) == 1),
    ]
