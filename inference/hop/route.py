"""
A session's place in the route, as one hop sees it: terms, schedule, neighbours.

The requester may change it (Relink): then the hop lets go of both neighbours, reaches
for the new next one, and says Linked when it has it, with its receipt for the range
that the change cut off.
"""

from chain.records.proof import Receipt
from inference.hop.checks import check_relink
from inference.hop.events import Effect, Reach, Send, Side
from inference.protocol.messages import Linked, Relink, SessionTerms
from inference.protocol.steps import Schedule


class HopRoute:
    """Where one session stands at this hop.

    Args:
        terms: Those that opened it.
        schedule: Where it begins.
        requester: Peer id at the other end of the requester's stream.
    """

    def __init__(
        self, terms: SessionTerms, schedule: Schedule, requester: bytes
    ) -> None:
        self.terms = terms
        self.schedule = schedule
        self._requester = requester
        self._prompt_tokens = terms.prompt_tokens
        self._linked: Linked | None = None
        """What to say when the new next hop is reached."""

    # Neighbours

    @property
    def data_side(self) -> Side:
        """Who sends data."""
        return Side.REQUESTER if self.terms.previous is None else Side.PREVIOUS

    @property
    def answer_side(self) -> Side:
        """Who gets the answers."""
        return Side.REQUESTER if self.terms.next is None else Side.NEXT

    def get_peer(self, side: Side) -> bytes:
        """Return a neighbour's peer id; empty where there is none."""
        match side:
            case Side.REQUESTER:
                return self._requester
            case Side.PREVIOUS:
                return self.terms.previous or b""
            case Side.NEXT:
                return self.terms.next or b""

    # Changes

    def check(self, relink: Relink, undone: int | None) -> None:
        """Check a change against what was agreed.

        Args:
            relink: What came.
            undone: First position of a step that can be taken back.

        Raises:
            BadMessage: It is none.
        """
        check_relink(self.terms, relink, self._prompt_tokens, self.schedule, undone)

    def change(self, relink: Relink, receipt: Receipt | None) -> list[Effect]:
        """Take a valid change; returns what reaches the new neighbours.

        Args:
            relink: The change.
            receipt: For the range that it cuts off.
        """
        if self._linked is not None:
            # The change before this one was never confirmed.
            receipt = receipt or self._linked.receipt
        self.terms = terms = relink.terms
        self.schedule = self.schedule.resume(terms.prompt_tokens, relink.position)
        linked = Linked(terms.session, terms.attempt, receipt)
        reach = Reach(terms.attempt, terms.next)
        if terms.next is None:
            self._linked = None
            return [reach, Send(Side.REQUESTER, linked)]
        self._linked = linked
        return [reach]

    def is_awaited(self, attempt: int) -> bool:
        """Tell whether the next hop of this attempt is being reached."""
        return attempt == self.terms.attempt and self._linked is not None

    def confirm(self) -> list[Effect]:
        """Return what says that the new next hop is reached."""
        assert self._linked is not None
        linked, self._linked = self._linked, None
        return [Send(Side.REQUESTER, linked)]
