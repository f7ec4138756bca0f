"""What the bundled model is trained on: conversations drawn from the corpus.

Most are one question and its answer.  Some have several turns or a system
message, so that a second question in a chat is answered like a first; some are
worded in another way (see wording.py); a few are a bare answer, so that plain
completion has something to go on with.

Nothing here touches torch; the luck is the caller's `random.Random`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inference.bundled.pairs import Pair
from inference.bundled.wording import alter_question, list_wordings

SYSTEM_MESSAGES = (
    "You answer questions about p2pchain.",
    "Answer in one or two sentences.",
    "You are a helpful assistant.",
    "Be brief.",
)
"""System messages seen in training; the answer never depends on them."""

TURNS = (1, 2, 3)
TURN_WEIGHTS = (70, 20, 10)
"""How many questions a conversation has, and how often (percent)."""

SYSTEM_SHARE = 0.15
"""Part of the conversations that open with a system message."""

PLAIN_SHARE = 0.06
"""Part of the pairs that also come as a bare answer, without marks."""

MAIN_SHARE = 0.35
"""Part of the times a pair is asked by its main question, letter for letter."""

RULED_SHARE = 0.3
"""Part of the other times that a wording made by rule is taken."""

ALTERED_SHARE = 0.5
"""Part of the other times that the wording is altered besides."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, or a bare text."""

    turns: tuple[tuple[str, str], ...]
    """(question, answer) of each turn."""

    system: str | None = None
    """What the conversation opens with, if anything."""

    plain: bool = False
    """Only the answer of the one turn, without marks: for plain completion."""


def draw_question(pair: Pair, luck: random.Random) -> str:
    """Return one way to ask for the answer of `pair`."""
    if luck.random() < MAIN_SHARE:
        return pair.question
    ruled = list_wordings(pair)
    if ruled and luck.random() < RULED_SHARE:
        question = luck.choice(ruled)
    else:
        question = luck.choice(pair.questions)
    if luck.random() < ALTERED_SHARE:
        return alter_question(question, luck)
    return question


def draw_conversations(
    pairs: Sequence[Pair], luck: random.Random
) -> Iterator[Conversation]:
    """Yield conversations in which each pair is asked exactly once."""
    order = list(pairs)
    luck.shuffle(order)
    while order:
        count = min(luck.choices(TURNS, TURN_WEIGHTS)[0], len(order))
        asked, order = order[:count], order[count:]
        turns = tuple((draw_question(pair, luck), pair.answer) for pair in asked)
        opens = luck.random() < SYSTEM_SHARE
        yield Conversation(turns, luck.choice(SYSTEM_MESSAGES) if opens else None)
        if luck.random() < PLAIN_SHARE:
            yield Conversation((luck.choice(turns),), plain=True)
