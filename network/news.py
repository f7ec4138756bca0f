"""
Gossip messages on one connection: the queue to send from, the pieces that arrive.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from network.assembly import Assembly
from network.budget import TopicBudget
from network.errors import ProtocolViolation
from network.faults import Fault
from network.frames import MAX_DATA, News, NewsMore, encode_frame
from network.topics import Priority, Topic, TopicParams


@dataclass(frozen=True, slots=True)
class _Waiting:
    payload: bytes
    direct: bool
    queued_at: float


class TopicQueue:
    """Messages of one topic that wait for one peer; the oldest give way."""

    def __init__(self, topic: Topic, params: TopicParams) -> None:
        self._topic = topic
        self._params = params
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._offset = 0
        self._budget = TopicBudget(params)
        self.dropped = 0
        """Messages that gave way to newer ones or exceeded the budget."""

    @property
    def priority(self) -> Priority:
        """The topic's class."""
        return self._params.priority

    def is_ready(self) -> bool:
        """Tell whether a frame can be taken."""
        return bool(self._waiting)

    def push(self, payload: bytes, direct: bool, now: float) -> float:
        """Queue a message and return how long, in seconds, the full queue has stood.

        Zero when nothing had to give way.  What exceeds the budget is dropped.
        """
        if not self._budget.take(len(payload), now):
            self.dropped += 1
            return 0.0
        stood_s = 0.0
        while self._waiting and (
            len(self._waiting) >= self._params.queue_count
            or self._bytes + len(payload) > self._params.queue_bytes
        ):
            stood_s = max(stood_s, now - self._waiting[0].queued_at)
            if not self._drop_oldest():
                break
        self._waiting.append(_Waiting(payload, direct, now))
        self._bytes += len(payload)
        return stood_s

    def take_frame(self) -> bytes:
        """Return the next encoded frame."""
        message = self._waiting[0]
        start = self._offset
        self._offset = min(start + MAX_DATA, len(message.payload))
        data = message.payload[start : self._offset]
        if start:
            frame = encode_frame(NewsMore(self._topic, data))
        else:
            total = len(message.payload)
            frame = encode_frame(News(self._topic, message.direct, total, data))
        if self._offset == len(message.payload):
            self._waiting.popleft()
            self._bytes -= len(message.payload)
            self._offset = 0
        return frame

    def _drop_oldest(self) -> bool:
        # A message whose first frame is out must be finished.
        index = 1 if self._offset else 0
        if index >= len(self._waiting):
            return False
        self._bytes -= len(self._waiting[index].payload)
        del self._waiting[index]
        self.dropped += 1
        return True


class NewsReader:
    """Puts the gossip messages of one peer together, one at a time per topic."""

    def __init__(self, topics: Mapping[Topic, TopicParams]) -> None:
        self._topics: dict[int, TopicParams] = {int(t): p for t, p in topics.items()}
        self._partial: dict[int, tuple[bool, Assembly]] = {}

    def read(self, frame: News | NewsMore) -> tuple[Topic, bool, bytes] | None:
        """Return (topic, direct, payload) when `frame` completes a message.

        Raises:
            ProtocolViolation: Unknown topic, oversize, or pieces out of order.
        """
        params = self._topics.get(frame.topic)
        if params is None:
            raise ProtocolViolation(f"unknown topic {frame.topic}")
        if isinstance(frame, News):
            if frame.topic in self._partial:
                raise ProtocolViolation("a message begins before the last one ended")
            if frame.total > params.max_bytes:
                text = f"{frame.total} bytes on topic {frame.topic}"
                raise ProtocolViolation(text, Fault.OVERSIZE)
            direct, assembly = frame.direct, Assembly(frame.total, frame.data)
        else:
            partial = self._partial.pop(frame.topic, None)
            if partial is None:
                raise ProtocolViolation("a message continues that never began")
            direct, assembly = partial
            assembly.add(frame.data)
        if not assembly.is_complete:
            self._partial[frame.topic] = direct, assembly
            return None
        return Topic(frame.topic), direct, assembly.join()
