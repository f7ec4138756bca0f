"""Other ways to ask a question of the corpus, made by rule.

A person asks "how to open a channel" or "tell me about vouchers" where the corpus
has "How do I open a channel?" and "What is a voucher?".  Training on such wordings
as well makes the toy less brittle; nobody promises that they all are answered.

Nothing here touches torch; the luck is the caller's `random.Random`.
"""

import random
import re

from inference.bundled.pairs import Pair

_TERM = re.compile(r"What (?:is|are) (an? |the )?((?:[\w-]+ ){0,2}[\w-]+)\?")
_ACTION = re.compile(r"How do I (.+)\?")

_TERM_WORDINGS = (
    "Explain {}.",
    "Tell me about {}.",
    "Define {}.",
    "Describe {}.",
    "What does {} mean?",
    "How does {} work?",
    "What do you know about {}?",
)
_ACTION_WORDINGS = (
    "How to {}?",
    "How can I {}?",
    "I want to {}.",
    "What do I do to {}?",
    "Show me how to {}.",
)
_OPENINGS = ("Please,", "Hello,", "So", "Can you tell me:", "I wonder,")

_NO_TERMS = frozenset({"you", "your", "for", "of", "used", "what", "between"})
"""Words after which a phrase is no term that could stand alone."""


def list_wordings(pair: Pair) -> list[str]:
    """Return the wordings that the rules make of the main question of `pair`."""
    if (action := _ACTION.fullmatch(pair.question)) is not None:
        return [wording.format(action[1]) for wording in _ACTION_WORDINGS]
    term = _TERM.fullmatch(pair.question)
    if term is None or _NO_TERMS.intersection(term[2].split()):
        return []
    article, noun = term[1] or "", term[2]
    wordings = [wording.format(article + noun) for wording in _TERM_WORDINGS]
    wordings.append(f"{noun[0].upper()}{noun[1:]}?")
    if article in ("a ", "an ") and noun[-1] not in "sy":
        wordings += [f"What are {noun}s?", f"Tell me about {noun}s."]
    return wordings


def alter_question(question: str, luck: random.Random) -> str:
    """Return `question` as a hurried or a polite person might type it."""
    if luck.random() < 0.15:
        opening = luck.choice(_OPENINGS)
        question = f"{opening} {question[0].lower()}{question[1:]}"
    if luck.random() < 0.3:
        question = question.replace("hat is ", "hat's ")
    if luck.random() < 0.5:
        question = question.lower()
    if luck.random() < 0.5:
        question = question.rstrip("?.!")
    if luck.random() < 0.1 and len(question) > 8:
        slip = luck.randrange(1, len(question))
        question = question[:slip] + question[slip + 1 :]
    return question
