"""
Messages of one topic that wait for their check: a short queue per peer, served in turn.

One peer that sends a lot delays its own messages and nobody else's.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from network.endpoint import PeerId
from network.topics import TopicParams


@dataclass(frozen=True, slots=True)
class Incoming:
    """A gossip message before its check."""

    sender: PeerId
    """The peer it came from, not necessarily its author."""
    payload: bytes
    digest: bytes | None
    """Names the message in gossip; None for a direct one, which is not forwarded."""


class FairInbox:
    """Bounded per peer by the topic's queue bounds."""

    def __init__(self, params: TopicParams) -> None:
        self._params = params
        self._queues: OrderedDict[PeerId, deque[Incoming]] = OrderedDict()
        self._bytes: dict[PeerId, int] = {}

    def put(self, message: Incoming) -> bool:
        """Queue a message; False when its sender has too many waiting."""
        queue = self._queues.setdefault(message.sender, deque())
        size = self._bytes.get(message.sender, 0) + len(message.payload)
        if queue and (
            len(queue) >= self._params.queue_count or size > self._params.queue_bytes
        ):
            return False
        queue.append(message)
        self._bytes[message.sender] = size
        return True

    def take(self) -> Incoming | None:
        """Return the next peer's next message, or None."""
        if not self._queues:
            return None
        sender, queue = self._queues.popitem(last=False)
        message = queue.popleft()
        if queue:
            self._queues[sender] = queue
            self._bytes[sender] -= len(message.payload)
        else:
            del self._bytes[sender]
        return message
