"""
Turning tokens into text one at a time, without ever taking a character back.

Theory of operation
-------------------
A token may end inside a UTF-8 character, and decoding tokens one by one loses spaces
that the tokenizer puts between them.  So a window of tokens is decoded twice:

    ... emitted ... | prefix .. read | new token
                      ^ decoded with and without what follows

The difference is new text.  It is held back while it ends in U+FFFD, which is how an
incomplete character decodes.  Behind that, `StopScanner` holds back any end of the
text that may turn out to be the beginning of a stop string.

What has been handed out is final: the concatenation of all pieces is the answer.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Text of a growing list of tokens."""

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        """Start behind `context`, the last tokens of the prompt.

        Args:
            decode: Text of token ids, special tokens left out.
            context: Decoded along with what follows, never part of the text.
        """
        self._decode = decode
        self._tokens = list(context)
        self._prefix = 0
        self._read = len(self._tokens)

    def push(self, token_id: int) -> str:
        """Return the text that became readable with `token_id`."""
        self._tokens.append(token_id)
        return self._take(hold=True)

    def flush(self) -> str:
        """Return what was held back; the answer ends here."""
        return self._take(hold=False)

    def _take(self, *, hold: bool) -> str:
        known = self._decode(self._tokens[self._prefix : self._read])
        text = self._decode(self._tokens[self._prefix :])
        new = text[len(known) :]
        if not new or (hold and text.endswith(_INCOMPLETE)):
            return ""
        # Keep the window short; what lies before it cannot change the new text.
        self._prefix, self._read = self._read, len(self._tokens)
        return new


class StopScanner:
    """Finds the first stop string in a stream of text pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False
        """Whether a stop string was found; nothing comes after it."""

    def push(self, text: str) -> str:
        """Return what is certainly before any stop string."""
        if self.is_stopped:
            return ""
        text = self._held + text
        hits = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            self.is_stopped, self._held = True, ""
            return text[: min(hits)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; no stop string can follow any more."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how long a beginning of `stop` the text ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
