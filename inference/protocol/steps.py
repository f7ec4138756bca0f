"""
Which step may come next, what it costs, and when a receipt is due.

A step's place stands in the header of its data; whether it is allowed, what it costs
and whether a receipt is due follow from one rule, which both sides compute alike:

    prompt of 300 tokens   |-- 128 --|-- 128 --|- 44 -|1|1+k|1+k|1|...
    step                        0         1        2   3  4   5  6
    price                     input     input    input  one output, k inputs
    a range closes              ^         ^        ^   after 16 decode steps, and
                                                       at FINISH for the remainder

Prefill steps are always full: were their size free, a client could send its decode
steps as tiny prefill steps at the input price.  The first one may begin behind pages
that every hop has from another session, and may have fewer pages than fit, so that a
hop that replaces another one gets as far as the others are.

A decode step carries the token that was chosen last and guesses of what follows.  What
was guessed wrongly is dropped by the next step, which begins earlier than the last one
ended; every hop forgets what lies behind.  The prompt is never dropped.  A visit is
paid like one output token, each further token like an input token: guessing right is
no way to buy answers at the price of prompts, for it takes the answer to know it, and
guessing wrong is paid as well.

No visit costs less than an output token, the prompt's neither: its last step chooses a
token as well, and behind kept pages it may be a single token long.  Else an answer
could be had in sessions of one token each, at the price of prompts.

A text that is only to be encoded is one step, whatever its length: every token of it
looks at all the others.
"""

from dataclasses import dataclass, replace

from inference.device.memory import PAGE_TOKENS
from inference.protocol.errors import BadMessage

PREFILL_TOKENS = 128
"""Most tokens of a prefill step: what a client or provider can lose in one step."""

MAX_DECODE_TOKENS = 16
"""Most tokens of a decode step.  When nine of ten guesses are right, a run of right
ones has nine on average, so longer guesses hardly ever pay; and a pass over 16 rows
still takes little longer than one over a single row, so nobody waits for it."""

MAX_TEXT_TOKENS = 8_192
"""Most tokens of a text that is encoded: 32 MiB of 1,024 float32 numbers, half of the
longest message."""

RANGE_STEPS = 16
"""Decode steps per receipt: a signature costs 0.1 ms, so 6 microseconds per step."""


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

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.position + self.tokens

    @property
    def output_tokens(self) -> int:
        """Tokens at the output price; the others are at the input price."""
        return 0 if self.is_prefill else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Where a session stands in one attempt, and what may come next."""

    prompt_tokens: int
    """Positions at the input price: the prompt, and what is computed anew of the
    answer after a change of the route."""
    max_positions: int
    """Of prompt and answer together."""
    cached: int = 0
    """Positions at the beginning that are there before the first step; it may begin at
    any page of them."""
    rolls_back: bool = True
    """Whether every layer can forget its last positions."""
    number: int = 0
    """Of the next step; counted anew in every attempt."""
    end: int = 0
    """The position after the last one that was computed."""
    decodes: int = 0
    """Decode steps in the open range."""

    @property
    def is_text(self) -> bool:
        """Tell whether a text is only to be encoded: there is nothing to decode."""
        return self.prompt_tokens == self.max_positions

    @property
    def is_fresh(self) -> bool:
        """Tell whether nothing was computed in this session."""
        return self.number == 0 and self.end == 0

    def may_begin_at(self, position: int) -> bool:
        """Tell whether the next step may have its first token there."""
        if self.is_fresh and position < self.prompt_tokens:
            return 0 <= position <= self.cached and position % PAGE_TOKENS == 0
        if self.rolls_back and self.end > self.prompt_tokens:
            return self.prompt_tokens <= position <= self.end
        return position == self.end

    def propose(self, position: int | None = None, tokens: int = 1) -> Step:
        """Return the next step, as who makes it wants it.

        Args:
            position: Of its first token; None continues where the last one ended.
            tokens: Of a decode step; those of a prefill step are fixed.
        """
        if position is None:
            position = self.end
        if self.is_text:
            return Step(0, 0, self.prompt_tokens, is_prefill=True, closes_range=True)
        if position < self.prompt_tokens:
            tokens = min(PREFILL_TOKENS, self.prompt_tokens - position)
        is_prefill = position < self.prompt_tokens
        return Step(
            self.number,
            position,
            tokens,
            is_prefill,
            closes_range=is_prefill or self.decodes == RANGE_STEPS - 1,
        )

    def propose_replay(self, position: int, until: int) -> Step:
        """Return the next step of a hop that is to compute up to `until`, anew.

        Args:
            position: Of its first token, a page's first one.
            until: Another page's, or the end of the positions at the input price.
        """
        step = self.propose(position)
        if until < self.prompt_tokens:
            tokens = (until - position) % PREFILL_TOKENS or PREFILL_TOKENS
            step = replace(step, tokens=tokens)
        return step

    def check(self, position: int, tokens: int) -> Step:
        """Return the next step, as a header describes it.

        Raises:
            BadMessage: It is none that may come next.
        """
        if position >= self.max_positions:
            raise BadMessage("a step beyond the session's last position")
        if not self.may_begin_at(position):
            raise BadMessage(f"position {position} where {self.end} is due")
        step = self.propose(position, tokens)
        may_be_short = self.is_fresh and step.is_prefill and not self.is_text
        if may_be_short and tokens % PAGE_TOKENS == 0:
            step = replace(step, tokens=min(tokens, step.tokens))
        if tokens != step.tokens or not 0 < tokens <= self.get_most_tokens():
            raise BadMessage(f"{tokens} tokens at position {position}")
        if step.end > self.max_positions or (self.is_text and self.number):
            raise BadMessage("a step beyond the session's last position")
        return step

    def get_most_tokens(self) -> int:
        """Return a bound of the next step's tokens."""
        if self.is_text:
            return self.prompt_tokens
        return PREFILL_TOKENS if self.end < self.prompt_tokens else MAX_DECODE_TOKENS

    def advance(self, step: Step) -> "Schedule":
        """Return the schedule after `step`, which is a valid next one."""
        return replace(
            self,
            number=self.number + 1,
            end=step.end,
            decodes=0 if step.closes_range else self.decodes + 1,
        )

    def resume(self, prompt_tokens: int, position: int) -> "Schedule":
        """Return the schedule of the next attempt, which goes on at `position`."""
        return replace(
            self, prompt_tokens=prompt_tokens, number=0, end=position, decodes=0
        )


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
        if step.is_prefill:
            price = max(step.tokens * self.input_price, self.output_price)
        else:
            price = self.output_price + (step.tokens - 1) * self.input_price
        return -(-self.layers * price // self.unit_price)

    def compute_dearest(self, schedule: Schedule) -> int:
        """Return a bound of the units that the next step of a session costs."""
        tokens = schedule.get_most_tokens()
        is_prefill = schedule.end < schedule.prompt_tokens
        step = Step(0, 0, tokens, is_prefill, closes_range=False)
        return self.compute_units(step)
