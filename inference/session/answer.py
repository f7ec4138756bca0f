"""The answer so far: its tokens, and when they came."""

from inference.protocol.steps import Step
from inference.sampling.params import SampledToken
from inference.session.plan import SessionPlan, TokenEvent
from inference.session.track import Track


class Answer:
    """What a session has said.

    Args:
        plan: The session's plan.
        now_us: Its start.
    """

    def __init__(self, plan: SessionPlan, now_us: int) -> None:
        self.tokens: list[int] = []
        """Those that were shown."""
        self.first_token_us = 0
        """From the start to the first token; 0 before it."""
        self.longest_gap_us = 0
        """Longest time from a loss to the next token."""
        self._plan = plan
        self._started_us = now_us
        self._lost_us = 0

    def note_loss(self, now_us: int) -> None:
        """Note that the route broke."""
        self._lost_us = self._lost_us or now_us

    def get_ids(self, first: int, end: int) -> tuple[int, ...]:
        """Return the token ids at some positions of prompt and answer."""
        prompt = self._plan.prompt
        size = len(prompt)
        answer = self.tokens[max(0, first - size) : max(0, end - size)]
        return (*prompt[first:end], *answer)

    def add(
        self,
        token: SampledToken,
        step: Step,
        position: int,
        track: Track,
        elapsed_us: int,
        now_us: int,
    ) -> TokenEvent:
        """Note the token that a step gave; returns what the reader gets.

        Args:
            token: What was chosen.
            step: That it follows from.
            position: Of the token in the sequence.
            track: Which the step went through.
            elapsed_us: From sending the step to its answer.
            now_us: Now.
        """
        self.tokens.append(token.token_id)
        if not self.first_token_us:
            self.first_token_us = now_us - self._started_us
        if self._lost_us:
            self.longest_gap_us = max(self.longest_gap_us, now_us - self._lost_us)
            self._lost_us = 0
        reason = token.finish_reason
        if reason is None and len(self.tokens) >= self._plan.max_tokens:
            reason = "length"
        return TokenEvent(
            token_id=token.token_id,
            text=token.text,
            finish_reason=reason,
            step=step.number,
            position=position,
            elapsed_us=elapsed_us,
            hops=track.timings,
            vector=token.embedding if self._plan.is_text else b"",
            route=track.peers,
            logprobs=token.logprobs,
        )
