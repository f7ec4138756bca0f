"""
Positions that a replacement lacks, one prefill step at a time.

What goes into a step comes from the hop before, which keeps what it has sent on, or
from our own worker at the first hop.  The replacement is paid and signs for the step as
in any session; its answer comes back to us and is thrown away, for the hop after it has
what follows from it.
"""

from collections.abc import Callable

from chain.records.proof import Receipt
from inference.errors import WorkerLost
from inference.protocol.errors import HopLost, WrongAnswer
from inference.protocol.messages import Data, Fetch, Kept
from inference.session.events import Effect, Embed, SendTo
from inference.session.plan import SessionPlan
from inference.session.route import Route, RouteHop
from inference.session.track import Track


class Replay:
    """One step at one hop that is behind.

    Args:
        plan: The session's plan.
        route: All hops.
        hop: Which is behind; it has accepted.
        until: First position that it need not compute.
        track: Of this hop alone.
    """

    def __init__(
        self, plan: SessionPlan, route: Route, hop: RouteHop, until: int, track: Track
    ) -> None:
        assert hop.schedule is not None
        self.hop = hop
        self.step = hop.schedule.propose_replay(hop.position, until)
        self.is_sent = False
        self._plan = plan
        self._route = route
        self._track = track

    # What goes in

    @property
    def source(self) -> RouteHop | None:
        """The hop that has it; None where our own worker looks it up."""
        index = self._route.hops.index(self.hop)
        return self._route.hops[index - 1] if index else None

    def begin(self, get_tokens: Callable[[int, int], tuple[int, ...]]) -> Effect:
        """Ask for what goes in.

        Args:
            get_tokens: Returns the token ids at positions `first` to `end`.
        """
        step, source = self.step, self.source
        if source is None:
            token_ids = get_tokens(step.position, step.end)
            return Embed(step.number, step.position, token_ids)
        fetch = Fetch(self._plan.session_id, step.position, step.tokens)
        return SendTo(source.number, fetch)

    def depends_on(self, hop: RouteHop) -> bool:
        """Tell whether the step cannot go on without a hop."""
        return hop is self.hop or (hop is self.source and not self.is_sent)

    def take_embedded(self, step: int, body: bytes) -> list[Effect]:
        """Send on what our own worker has looked up.

        Raises:
            WorkerLost: It has a wrong length.
        """
        if self.is_sent or step != self.step.number:
            return []
        form = self._plan.wire
        if len(body) != form.compute_raw_size(self.step.tokens):
            raise WorkerLost("the embedding has a wrong length")
        return self._send(bytes(form.encode(body)))

    def take_kept(self, hop: RouteHop, kept: Kept, body: bytes) -> list[Effect]:
        """Send on what the hop before has sent to the lost one.

        Raises:
            HopLost: It does not have it any more, and is to be replaced as well.
        """
        is_due = not self.is_sent and kept.position == self.step.position
        if not is_due or hop is not self.source:
            return []
        form = self._plan.wire
        is_whole = len(body) == form.compute_size(self.step.tokens)
        if not is_whole or not form.is_finite(body):
            text = f"{hop.name} has not kept what it has sent"
            raise HopLost(text, peer_id=hop.peer_id)
        return self._send(body)

    def _send(self, body: bytes) -> list[Effect]:
        self.is_sent = True
        return self._track.send(self.step, body)

    # What comes of it

    def take_answer(self, data: Data, body: bytes) -> None:
        """Note the hop's answer.

        Raises:
            WrongAnswer: It is none.
        """
        if self._track.is_answered:
            return
        if not self.is_sent:
            text = "an answer that nobody asked for"
            raise WrongAnswer(text, peer_id=self.hop.peer_id)
        self._track.take_answer(data, body)

    def take_receipt(self, receipt: Receipt) -> None:
        """Note the hop's receipt.

        Raises:
            ReceiptMismatch: None is due, or it is not valid on its own.
        """
        self._track.take_receipt(self.hop, receipt)

    @property
    def is_complete(self) -> bool:
        """Whether answer and receipt are here."""
        return self._track.is_answered and self._track.find_unattested() is None

    def complete(self) -> list[Effect]:
        """Count the positions; returns the payment.

        Raises:
            ReceiptMismatch: The receipt does not fit what went in and came out.
        """
        self._track.close_range()
        assert self.hop.schedule is not None
        self.hop.position = self.step.end
        self.hop.schedule = self.hop.schedule.advance(self.step)
        return self._track.pay()

    def drop(self) -> None:
        """Note that the step does not count."""
        self._track.drop()
