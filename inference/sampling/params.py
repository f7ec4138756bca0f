"""What a client may ask of an answer, and what one step of it gives back."""

from math import isfinite
from typing import Annotated

from msgspec import Meta
from msgspec.structs import force_setattr

from inference.sampling.speculation import Speculation
from primitives.codec import Record
from primitives.types import U32, U63

MAX_STOPS = 16
"""Four are usual; each costs a comparison per character."""
MAX_STOP_CHARACTERS = 256
"""Text that may be a beginning of a stop string is held back, so they stay short."""
MAX_TEMPERATURE = 100.0
"""Already as good as uniform."""
MAX_PENALTY = 100.0
"""Already as good as a ban."""

MAX_LOGPROBS = 20
"""What OpenAI's API allows."""

StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class ChatMessage(Record):
    """One message of a conversation."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    """Usually system, user or assistant; the model's template decides."""
    content: str


class SamplingParams(Record):
    """How tokens are chosen and when an answer ends."""

    temperature: float = 1.0
    """0 takes the most likely token, always."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probabilities reach this sum, in (0, 1]."""
    top_k: U32 = 0
    """Keep so many of the most likely tokens; 0 keeps all."""
    seed: U63 = 0
    """Same seed, same prompt, same model: same answer."""
    max_tokens: Annotated[int, Meta(ge=1, le=2**31)] = 256
    stop: Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)] = ()
    """The answer ends before the first of these; they are not part of it."""
    ignore_eos: bool = False
    """Go on after the model's own end of text, up to `max_tokens`."""
    repetition_penalty: float = 1.0
    """Above 1: logits of tokens in prompt and answer are divided by it (CTRL, 4.1)."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token that the answer has."""
    frequency_penalty: float = 0.0
    """Taken from it once per occurrence in the answer."""
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    """Say how likely each token was, and so many of the most likely ones; None: no."""
    speculation: Speculation = Speculation.AUTO
    """Whether steps carry guesses; the answer is the same with and without."""

    def __post_init__(self) -> None:
        """Turn integers into floats and check the ranges.

        Raises:
            ValueError: A number out of its range.
        """
        for name, low, high in (
            ("temperature", 0.0, MAX_TEMPERATURE),
            ("top_p", 0.0, 1.0),
            ("repetition_penalty", 0.0, MAX_PENALTY),
            ("presence_penalty", -MAX_PENALTY, MAX_PENALTY),
            ("frequency_penalty", -MAX_PENALTY, MAX_PENALTY),
        ):
            value = float(getattr(self, name))
            if not isfinite(value) or not low <= value <= high:
                raise ValueError(f"{name} is not between {low:g} and {high:g}")
            force_setattr(self, name, value)
        if not self.top_p or not self.repetition_penalty:
            raise ValueError("top_p and repetition_penalty are above 0")
        # The decoder checks these bounds by their types; constructors do not.
        if not 0 <= self.seed < 2**63 or not 0 <= self.top_k < 2**32:
            raise ValueError("seed and top_k are not negative and not huge")
        if not 1 <= self.max_tokens <= 2**31:
            raise ValueError("max_tokens is at least 1")
        if len(self.stop) > MAX_STOPS:
            raise ValueError(f"more than {MAX_STOPS} stop strings")
        if not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            raise ValueError(f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters")


class TokenLogprob(Record):
    """How likely the model found a token, before penalties and temperature."""

    token_id: U32
    text: str
    """A part of a character shows as a replacement character."""
    logprob: float
    """Natural logarithm, at least -9999."""


class SampledToken(Record):
    """What one step adds to an answer."""

    token_id: U32
    text: str
    """What became readable; may be empty while a character or a stop is incomplete."""
    finish_reason: str | None = None
    """"stop" (end of text or a stop string), "length", or None: go on."""
    embedding: bytes = b""
    """What enters layer 0 for this token, if the worker has looked it up already."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """If asked for: of this token, then of the most likely ones in order."""


class Choice(Record):
    """What one step adds to an answer, and what may follow."""

    tokens: tuple[SampledToken, ...]
    """At least one: as long as the guesses before were what was chosen."""
    drafts: tuple[U32, ...] = ()
    """Guesses of what follows, if they were wanted."""
    embedding: bytes = b""
    """What enters layer 0 for the last token and the guesses, if it has been looked
    up already."""
