"""
How many guesses a step carries, so that guessing pays and never costs much.

Theory of operation
-------------------
A step that carries k guesses beside its token takes a little longer than one without,
and brings 1 to k + 1 tokens: the model's own choice after each guess is known when the
step is back, and counts as long as the guesses before it were what was chosen.

    a           share of guesses that turn out right
    plain       what a turn takes without guesses, from sending to sending
    slope       what each guess adds to it

    tokens of a turn  E(k) = 1 + a + a^2 + ... + a^k
    time of a turn    T(k) = plain + k x slope

`Pace` takes the k with the most E(k) / T(k).  All three are measured; `a` also without
sending anything, for a guess that was not sent is right or wrong as well.  Two accounts
keep the promise when the measures are wrong:

    time    each turn with guesses books what its tokens would have taken without them,
            minus what it took; a debt of more than MAX_LOSS of the whole time stops
            guessing until time has passed
    money   a right guess saves an output token, a sent one costs an input token; a debt
            of more than FREE_GUESSES stops guessing

and every REMEASURE_TURNS a turn goes without guesses, so that `plain` stays true.

The first steps carry FIRST_GUESSES, and twice as many are tried when all were right.
Who asks for guesses by name (`ngram`, `draft`) gets them without the account of time,
after a wrong one as many as were right and one more.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from inference.protocol.steps import MAX_DECODE_TOKENS

MAX_GUESSES = MAX_DECODE_TOKENS - 1
"""Beside the token itself."""
MAX_LOSS = 0.02
"""Share of an answer's time that guesses may lose; half of what is promised."""
FREE_GUESSES = 16
"""Guesses that may be wrong before any was right: the price of a few tokens."""
FIRST_TURNS = 8
"""Without guesses, to know what they take."""
REMEASURE_TURNS = 32
"""Of guesses, before one goes without."""
FIRST_GUESSES = 2
"""Of a step, until more is known."""

_MEMORY = 0.125
"""Weight of the newest turn in a smoothed number."""
_FIRST_SHARE = 0.5
"""Of right guesses, before any was made."""
_FIRST_SLOPE = 1 / 16
"""Of a turn, for each guess: a pass over 16 rows takes at most twice as long."""


class Speculation(StrEnum):
    """What a client asks for."""

    OFF = "off"
    NGRAM = "ngram"
    """Guesses from the text so far, whenever there are any."""
    DRAFT = "draft"
    """Guesses of the gateway's own small model."""
    AUTO = "auto"
    """Whatever guesses there are, when they save time and cost nothing."""


@dataclass(slots=True)
class Pace:
    """Decides for one session.

    Args:
        mode: What was asked for.
        input_price: Of a guess, at the hop where it saves least.
        output_price: Of a token, at the same hop.
    """

    mode: Speculation
    input_price: int
    output_price: int
    guesses: int = 0
    """Sent so far."""
    right: int = 0
    """Of those, right ones."""
    _share: float = _FIRST_SHARE
    _plain_us: float = 0.0
    _slope_us: float = 0.0
    _plain_turns: int = 0
    _since_plain: int = 0
    _spent_us: float = 0.0
    """By all turns."""
    _saved_us: float = 0.0
    """By guesses; negative is a debt."""
    _most: int = FIRST_GUESSES
    """Of the next step."""
    _unsent: tuple[int, ...] = field(default=())

    @property
    def is_on(self) -> bool:
        """Whether guesses are wanted at all."""
        return self.mode is not Speculation.OFF

    def count_wanted(self) -> int:
        """Return how many guesses to ask for: one at least, to see how good it is."""
        return max(1, self._count()) if self.is_on else 0

    def take(self, drafts: tuple[int, ...], room: int) -> tuple[int, ...]:
        """Return the guesses that the next step is to carry.

        Args:
            drafts: What there is.
            room: Most that the session's positions allow.
        """
        if not self.is_on:
            return ()
        chosen = drafts[: max(0, min(self._count(), room))]
        self._unsent = () if chosen else drafts
        return chosen

    def note_turn(self, sent: int, tokens: tuple[int, ...], turn_us: int) -> None:
        """Learn from a decode step that is complete.

        Args:
            sent: Guesses that it carried.
            tokens: What it brought.
            turn_us: From its sending until the next one could be sent.
        """
        if not self.is_on:
            return
        self._spent_us += turn_us
        if sent:
            self._learn_guesses(sent, len(tokens) - 1, turn_us)
            return
        if self._unsent and tokens:
            self._smooth_share(float(self._unsent[0] == tokens[0]))
        self._unsent = ()
        self._plain_turns += 1
        self._since_plain = 0
        if self._plain_us == 0.0:
            self._plain_us = turn_us
        # One turn in a hiccup says nothing about the others.
        turn = min(float(turn_us), 2 * self._plain_us)
        weight = max(_MEMORY, 1 / self._plain_turns)
        self._plain_us += weight * (turn - self._plain_us)

    def _learn_guesses(self, sent: int, right: int, turn_us: int) -> None:
        self.guesses += sent
        self.right += right
        self._since_plain += 1
        for _ in range(right):
            self._smooth_share(1.0)
        if right < sent:
            self._smooth_share(0.0)
        if self._plain_us:
            self._saved_us += (1 + right) * self._plain_us - turn_us
            # A hiccup is cut off at each guess: a turn of many may rightly be long.
            extra = min((turn_us - self._plain_us) / sent, 3 * self._plain_us)
            before = self._slope_us or self._plain_us * _FIRST_SLOPE
            # A turn that was faster than usual does not make guesses a gift.
            self._slope_us = max(before + _MEMORY * (extra - before), 1.0)
        if right == sent:
            self._most = max(self._most, min(2 * sent, MAX_GUESSES))
        elif self.mode is not Speculation.AUTO:
            self._most = right + 1

    def _smooth_share(self, was_right: float) -> None:
        self._share += _MEMORY * (was_right - self._share)

    def _count(self) -> int:
        most = min(self._most, self._count_affordable())
        if self.mode is not Speculation.AUTO:
            return most
        if self._plain_turns < FIRST_TURNS or self._since_plain >= REMEASURE_TURNS:
            return 0
        slope_us = self._slope_us or self._plain_us * _FIRST_SLOPE
        best, best_rate, tokens, share = 0, 1 / self._plain_us, 1.0, 1.0
        for count in range(1, most + 1):
            share *= self._share
            tokens += share
            turn_us = self._plain_us + count * slope_us
            loss_us = count * slope_us - self._saved_us
            if loss_us > MAX_LOSS * (self._spent_us + turn_us):
                break
            if tokens / turn_us > best_rate:
                best, best_rate = count, tokens / turn_us
        return best

    def _count_affordable(self) -> int:
        """Return how many guesses the account of money allows."""
        if not self.input_price:
            return MAX_GUESSES
        saved = self.right * self.output_price - self.guesses * self.input_price
        left = saved + FREE_GUESSES * self.input_price
        return max(0, min(MAX_GUESSES, left // self.input_price))
