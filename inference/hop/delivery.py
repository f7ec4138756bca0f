"""
The last answers of a session at one hop, in case that they have to leave again.

When the route changes, a step that was under way did not arrive and is taken back; when
the same input comes again, its answer is here and nothing is computed.
"""

from dataclasses import dataclass

from inference.hop.checks import Held
from inference.protocol.steps import Step


@dataclass(frozen=True, slots=True)
class Delivery:
    """A step that was computed."""

    step: Step
    in_digest: bytes
    body: bytes
    """As it leaves."""
    compute_us: int

    def is_answer_to(self, held: Held) -> bool:
        """Tell whether `held` is the same step with the same input."""
        step = held.step
        place = self.step.position, self.step.tokens
        return (*place, self.in_digest) == (step.position, step.tokens, held.in_digest)


@dataclass(slots=True)
class Deliveries:
    """What one session has computed last."""

    sent: Delivery | None = None
    """The last one that left in this attempt."""
    spare: Delivery | None = None
    """One that was taken back, or that nobody waited for."""

    def find(self, held: Held) -> Delivery | None:
        """Return the answer to a step, if it is here."""
        if self.spare is not None and self.spare.is_answer_to(held):
            return self.spare
        return None

    def note_sent(self, delivery: Delivery) -> None:
        """Note an answer that leaves."""
        self.sent, self.spare = delivery, None

    def change_route(self, position: int, made: Delivery | None) -> None:
        """Keep what comes again in the attempt that goes on at `position`.

        Args:
            position: Where it goes on.
            made: What was taken back or nobody waits for any more.
        """
        spare = made or self.spare
        is_next = spare is not None and spare.step.position == position
        self.spare = spare if is_next else None
        self.sent = None
