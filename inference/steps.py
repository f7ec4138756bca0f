"""
Which step carries which positions, what it costs, and when a receipt is due.

A session's schedule follows from the prompt's length alone, so both sides know every
step in advance and none is negotiated:

    prompt of 300 tokens   |-- 128 --|-- 128 --|- 44 -|1|1|1|1|...
    step                        0         1        2   3 4 5 6
    price                     input     input    input output ...
    a range closes              ^         ^        ^   after 16 decode steps, and
                                                       at FINISH for the remainder

Prefill steps are always full: were their size free, a client could send its decode
steps as tiny prefill steps at the input price.

A text that is only to be encoded is one step, whatever its length: every token of it
looks at all the others.
"""

from dataclasses import dataclass

PREFILL_TOKENS = 128
"""Most tokens of a prefill step: what a client or provider can lose in one step."""

MAX_TEXT_TOKENS = 8_192
"""Most tokens of a text that is encoded: 32 MiB of 1,024 float32 numbers, half of the
longest message."""

RANGE_TOKENS = 16
"""Decode tokens per receipt: a signature costs 0.1 ms, so 6 microseconds per token."""


@dataclass(frozen=True, slots=True)
class Step:
    """One visit of every hop."""

    number: int
    position: int
    """Position of its first token in the sequence."""
    tokens: int
    is_prefill: bool
    closes_range: bool
    """A receipt is due when it has been computed."""


def compute_step(prompt_tokens: int, number: int, *, is_text: bool = False) -> Step:
    """Return step `number` of a session whose prompt has `prompt_tokens` tokens.

    Args:
        prompt_tokens: Positions at the input price.
        number: From 0.
        is_text: There is no answer to be decoded: step 0 is all of it.
    """
    if is_text and number == 0:
        return Step(0, 0, prompt_tokens, is_prefill=True, closes_range=True)
    prefill_steps = -(-prompt_tokens // PREFILL_TOKENS)
    if number < prefill_steps:
        position = number * PREFILL_TOKENS
        tokens = min(PREFILL_TOKENS, prompt_tokens - position)
        return Step(number, position, tokens, is_prefill=True, closes_range=True)
    decoded = number - prefill_steps
    return Step(
        number,
        prompt_tokens + decoded,
        tokens=1,
        is_prefill=False,
        closes_range=decoded % RANGE_TOKENS == RANGE_TOKENS - 1,
    )


def compute_number(prompt_tokens: int, position: int) -> int:
    """Return the number of the step that begins at `position`, or is under way there.

    With the schedule of a changed route, `prompt_tokens` counts what is computed anew.
    """
    if position < prompt_tokens:
        return position // PREFILL_TOKENS
    return -(-prompt_tokens // PREFILL_TOKENS) + position - prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What one hop charges."""

    layers: int
    input_price: int
    """Atoms per layer and prompt token."""
    output_price: int
    """Atoms per layer and decoded token."""
    unit_price: int
    """Atoms per unit of the payment channel."""

    def compute_units(self, step: Step) -> int:
        """Return the whole units that `step` costs, rounded up, for the provider."""
        price = self.input_price if step.is_prefill else self.output_price
        return -(-step.tokens * self.layers * price // self.unit_price)
