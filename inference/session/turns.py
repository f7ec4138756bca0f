"""
The steps of a session as the requester makes them: what each carries and brings.

A decode step carries the token that was chosen last and, where it pays, guesses of what
follows.  What comes back gives one token for certain and one more for each guess that
was right; the next step begins behind these, and the hops forget the rest:

    carries    t0 | g1 g2 g3          t3 | g4 g5
    chosen     t1   t2   t3 ..        g1 = t1, g2 = t2, g3 was another than t3
    shown      t1 t2 t3

A step that is lost is made again with the same tokens, so what was chosen from it, if
it came so far, stays.
"""

from inference.protocol.activations import compute_size
from inference.protocol.steps import Schedule, Step
from inference.sampling.params import Choice
from inference.sampling.speculation import Pace, Speculation
from inference.session.answer import Answer
from inference.session.events import Embed, Sample
from inference.session.plan import SessionPlan, TokenEvent
from inference.session.track import Track


class Turns:
    """One session's steps, one at a time.

    Args:
        plan: The session's plan.
        answer: Takes what is chosen.
        schedule: Where the session begins.
        speculation: Whether steps carry guesses.
    """

    def __init__(
        self,
        plan: SessionPlan,
        answer: Answer,
        schedule: Schedule,
        speculation: Speculation,
    ) -> None:
        can_guess = schedule.rolls_back and not schedule.is_text
        self.schedule = schedule
        self.step = schedule.propose()
        """Under way, or the last one."""
        self.guesses: tuple[int, ...] = ()
        """That the step carries."""
        self.choice: Choice | None = None
        """What came of it, until that is shown."""
        self.position = schedule.cached
        """Where the next step begins: everything before it is known to be right."""
        self.elapsed_us = 0
        """From sending the step to its answer."""
        self.usual_us = 0
        """The same of decode steps, smoothed."""
        # Where a guess costs most of what it can save.
        dearest = max(plan.hops, key=lambda h: h.input_price / max(h.output_price, 1))
        self.pace = Pace(
            speculation if can_guess else Speculation.OFF,
            input_price=dearest.input_price,
            output_price=dearest.output_price,
        )
        self._plan = plan
        self._answer = answer
        self._token_bytes = compute_size(1, plan.hidden_size, plan.dtype)
        self._ahead = b""
        """What enters layer 0 in the next step, if it has been looked up."""
        self._sent_us = 0
        self._is_again = False
        self.is_under_way = False
        """Whether the step was sent and is not complete."""

    # A step

    def begin(self) -> Step:
        """Return the next step, which may be one that was lost."""
        self.step = self.schedule.propose(self.position, 1 + len(self.guesses))
        return self.step

    def build_embed(self) -> Embed:
        """Return what looks the step's tokens up."""
        step = self.step
        known = step.end - len(self.guesses)
        token_ids = self._answer.get_ids(step.position, known)
        return Embed(step.number, step.position, (*token_ids, *self.guesses))

    def take_ahead(self) -> bytes:
        """Return the step's input if it has been looked up already, once."""
        ahead, self._ahead = self._ahead, b""
        return ahead

    def is_input(self, body: bytes) -> bool:
        """Tell whether `body` has the step's length."""
        return len(body) == self.step.tokens * self._token_bytes

    def note_sent(self, now_us: int) -> None:
        """Note that the step is on its way."""
        self._sent_us = now_us
        self.is_under_way = True

    def note_answer(self, now_us: int) -> None:
        """Note that the step came back."""
        self.elapsed_us = now_us - self._sent_us
        if not self.step.is_prefill:
            usual_us = self.usual_us or self.elapsed_us
            self.usual_us = (7 * usual_us + self.elapsed_us) // 8

    @property
    def is_chosen_from(self) -> bool:
        """Whether the step gives a token that is not known yet."""
        return self.choice is None and self.step.end >= len(self._plan.prompt)

    def build_sample(self, body: bytes) -> Sample:
        """Return what chooses tokens from the step's answer."""
        wanted = self.pace.count_wanted()
        return Sample(body, self.step.tokens, self.guesses, wanted)

    # What comes of it

    def complete(self, track: Track, now_us: int) -> list[TokenEvent]:
        """Go on behind what was right; returns what the reader gets."""
        step, choice = self.step, self.choice
        self.schedule = self.schedule.advance(step)
        self.choice = None
        self.is_under_way = False
        if choice is None:
            self.position, self.guesses = step.end, ()
            return []
        events = []
        for number, token in enumerate(choice.tokens):
            position = step.end - len(self.guesses) + number
            event = self._answer.add(
                token, step, position, track, self.elapsed_us, now_us
            )
            events.append(event)
            if event.finish_reason is not None:
                break
        self.position = events[-1].position
        if not step.is_prefill and not self._is_again:
            ids = tuple(event.token_id for event in events)
            self.pace.note_turn(len(self.guesses), ids, now_us - self._sent_us)
        self._is_again = False
        self._look_ahead(choice)
        return events

    def _look_ahead(self, choice: Choice) -> None:
        """Take guesses for the next step."""
        left = self._plan.max_tokens - len(self._answer.tokens)
        self.guesses = self.pace.take(choice.drafts, left - 1)
        size = (1 + len(self.guesses)) * self._token_bytes
        is_whole = len(choice.embedding) == self._token_bytes * (1 + len(choice.drafts))
        self._ahead = choice.embedding[:size] if is_whole else b""

    # Another route

    def resume(self, prompt_tokens: int) -> None:
        """Go on in another attempt, with the step that was lost or the next one."""
        self.schedule = self.schedule.resume(prompt_tokens, self.position)
        self._ahead = b""
        self._is_again = True
        self.is_under_way = False
