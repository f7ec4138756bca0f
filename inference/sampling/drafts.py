"""
Guesses of what follows, from what was said: looked up, not computed.

Answers repeat: names, code, quotes from the prompt.  So the last tokens are looked for
further up, longest first, and what followed them there is guessed to follow here:

    ... the quick brown fox | jumps over ...   said before
    ... the quick brown     | fox jumps over   guessed now

A guess that runs into the end goes on with its own beginning, as a list or a line of
dashes does.  Whoever guesses wrongly loses time, never correctness: what is shown is
what the model chose (inference/sampling/speculation.py).
"""

from collections.abc import Sequence
from typing import Protocol

LONGEST_MATCH = 5
"""Tokens that are looked for: a longer match hardly ever guesses better."""
SHORTEST_MATCH = 2
"""A single token is followed by too many others."""


class Drafter(Protocol):
    """Guesses the tokens of one answer."""

    def push(self, token_ids: Sequence[int]) -> None:
        """Note tokens that were said."""

    def draft(self, count: int) -> list[int]:
        """Return at most `count` tokens that may follow; none without an idea."""


class DraftSource(Protocol):
    """Makes drafters that compute; inference/requester/draft_model.py has one."""

    def open(self, session_id: bytes, token_ids: Sequence[int]) -> Drafter | None:
        """Begin to guess what follows; None where there is no room."""

    def close(self, session_id: bytes) -> None:
        """Forget an answer; harmless where none is known."""


class NgramDrafter:
    """Guesses by what followed the same tokens before.

    Args:
        token_ids: Of the prompt.
    """

    def __init__(self, token_ids: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}
        """Where the tokens after a sequence were said last."""
        self.push(token_ids)

    def push(self, token_ids: Sequence[int]) -> None:
        """Note tokens that were said."""
        tokens, follows = self._tokens, self._follows
        for token_id in token_ids:
            place = len(tokens)
            for length in range(SHORTEST_MATCH, min(LONGEST_MATCH, place) + 1):
                follows[tuple(tokens[-length:])] = place
            tokens.append(token_id)

    def draft(self, count: int) -> list[int]:
        """Return `count` tokens that may follow, or none without a match."""
        said = self._tokens
        for length in range(min(LONGEST_MATCH, len(said)), SHORTEST_MATCH - 1, -1):
            place = self._follows.get(tuple(said[-length:]))
            if place is not None:
                period = len(said) - place
                return [said[place + i % period] for i in range(count)]
        return []


class FirstDrafter:
    """Asks one drafter, and another where that has no idea.

    Args:
        first: Asked first; cheap.
        second: Asked then, unless a single guess is wanted: that is asked for only to
            see how good guesses are, and is not worth a computation.
    """

    def __init__(self, first: Drafter, second: Drafter) -> None:
        self._first = first
        self._second = second

    def push(self, token_ids: Sequence[int]) -> None:
        """Note tokens that were said."""
        self._first.push(token_ids)
        self._second.push(token_ids)

    def draft(self, count: int) -> list[int]:
        """Return at most `count` tokens that may follow."""
        drafts = self._first.draft(count)
        return drafts if drafts or count == 1 else self._second.draft(count)
