"""
Messages of the next epoch, kept for the moment in which we get there.

Whoever saw the boundary become final first is in the next epoch first, perhaps as the
leader of its first view.  Without these messages its block would have to be fetched
once a quorum of others certified it, and the view would fail where we are needed for
the quorum.  They cannot be verified before, so there are few of them.
"""

from consensus.events import Received
from consensus.messages import Message, Propose

MAX_PROPOSES = 4
"""One per sender; each may be as long as a block."""
MAX_PER_SENDER = 8
"""Votes of the first two views, and certificates."""
MAX_MESSAGES = 1024
"""Eight for each of 128 peers, each some hundred bytes long."""


class EarlyMessages:
    """What peers said of an epoch that has not begun here, in order."""

    def __init__(self) -> None:
        self._messages: list[Received] = []

    def add(self, message: Message, sender: bytes) -> None:
        """Keep a message if there is room for it."""
        of_sender = [known for known in self._messages if known.sender == sender]
        if isinstance(message, Propose):
            proposes = [k for k in self._messages if isinstance(k.message, Propose)]
            has_one = any(known.sender == sender for known in proposes)
            is_full = has_one or len(proposes) >= MAX_PROPOSES
        else:
            is_full = len(of_sender) >= MAX_PER_SENDER
        is_known = any(known.message == message for known in of_sender)
        if not (is_full or is_known or len(self._messages) >= MAX_MESSAGES):
            self._messages.append(Received(message, sender))

    def take(self) -> list[Received]:
        """Return them, once."""
        messages, self._messages = self._messages, []
        return messages
