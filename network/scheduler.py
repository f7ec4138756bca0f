"""
Which frame goes next.

Theory of operation
-------------------
Sources (a topic's queue, a stream) hand out one frame at a time.  The scheduler keeps
the sources that have something to send in one ring per priority class and takes from
the first class that has any: a vote that arrives while a tensor is being sent goes
before the tensor's next frame.  Within a class the sources take turns.

Strict priority alone would let busy consensus silence everything below, ping included.
So every byte that one class sends is owed, by a sixteenth, to each lower class that
waits; when a class is owed a whole frame it goes first, once.

Control frames (answers to pings, credits, opening and resetting of streams) are tiny
and go before everything, in order.
"""

from collections import deque
from typing import Protocol

from network.frames import MAX_DATA
from network.topics import Priority

_CLASSES = tuple(Priority)

GUARANTEE = 16
"""A waiting class gets at least one byte for so many of each class above it."""
BATCH_BYTES = MAX_DATA
"""A batch is full at this size; it is encrypted and sent as one record."""
MAX_CONTROL_BYTES = MAX_DATA
"""Of one batch, so that control and a full frame always fit in a record."""


class Source(Protocol):
    """Something that has frames to send."""

    @property
    def priority(self) -> Priority:
        """The class whose turn it waits for."""

    def is_ready(self) -> bool:
        """Tell whether `take_frame` has a frame to give now."""

    def take_frame(self) -> bytes:
        """Return the next encoded frame; only called when ready."""


class Scheduler:
    """Orders the frames of one connection."""

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        self._rings: tuple[deque[Source], ...] = tuple(deque() for _ in _CLASSES)
        self._owed = [0] * len(_CLASSES)
        self._scheduled: set[Source] = set()

    def add_control(self, frame: bytes) -> None:
        """Queue a small frame before all data."""
        self._control.append(frame)

    def finish_with(self, frame: bytes) -> None:
        """Drop everything that waits and send only `frame`."""
        self._control.clear()
        self._scheduled.clear()
        for ring in self._rings:
            ring.clear()
        self._control.append(frame)

    def wake(self, source: Source) -> None:
        """Let `source` take part; harmless when it does already."""
        if source not in self._scheduled and source.is_ready():
            self._scheduled.add(source)
            self._rings[source.priority].append(source)

    def has_output(self) -> bool:
        """Tell whether `take_batch` would return anything."""
        if self._control:
            return True
        if not self._scheduled:
            return False
        # A source may have lost what it had; it leaves its ring when its turn comes.
        return any(source.is_ready() for ring in self._rings for source in ring)

    def take_batch(self) -> bytes:
        """Return the next frames, at most a record's worth; empty without any."""
        parts = []
        size = 0
        while self._control and size + len(self._control[0]) <= MAX_CONTROL_BYTES:
            parts.append(self._control.popleft())
            size += len(parts[-1])
        while size < BATCH_BYTES and (frame := self._take_frame()) is not None:
            parts.append(frame)
            size += len(frame)
        return b"".join(parts)

    def _take_frame(self) -> bytes | None:
        while (priority := self._choose_class()) is not None:
            ring = self._rings[priority]
            source = ring.popleft()
            if not source.is_ready():
                self._scheduled.discard(source)
                continue
            frame = source.take_frame()
            if source.is_ready():
                ring.append(source)
            else:
                self._scheduled.discard(source)
            self._account(priority, len(frame))
            return frame
        return None

    def _choose_class(self) -> Priority | None:
        first = None
        for priority in _CLASSES:
            if self._rings[priority]:
                if self._owed[priority] >= MAX_DATA:
                    return priority
                if first is None:
                    first = priority
        return first

    def _account(self, sent: Priority, size: int) -> None:
        self._owed[sent] = max(0, self._owed[sent] - size)
        for priority in _CLASSES[sent + 1 :]:
            if self._rings[priority]:
                self._owed[priority] += -(-size // GUARANTEE)
