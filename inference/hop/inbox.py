"""
One reader of several streams, and of what its own tasks and workers have to say.

A task for each stream would cost a switch and a turn of the event loop per message.
Here a stream says that it has something (`Stream.watch`), and the reader takes it
itself, one message of a stream at a time, in the order in which they spoke up.  What
waits is bounded where it waits: messages by the credit of their streams, items by those
who post them, a computation or a route at a time.

Deadlines change with every step and seldom strike.  So the alarm sleeps in one scope
and looks, when it wakes, whether the deadline has moved on; only an earlier one than
it sleeps for disturbs it.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from inference.hop.ports import Stream
from primitives.errors import P2PChainError

P = TypeVar("P")
"""What is posted."""
K = TypeVar("K")
"""What streams are known by."""

OVERDUE_S = 5.0
"""What waits is heard before a deadline strikes, but not for ever, or a neighbour could
stop every deadline with idle talk."""
MAX_IN_A_ROW = 8
"""Items taken without letting other tasks run: a millisecond or two of work."""


@dataclass(eq=False, slots=True)
class Source(Generic[K]):
    """A stream that the reader listens to."""

    key: K
    stream: Stream
    is_waiting: bool = False
    """Whether it stands in the line."""
    gone: trio.Event = field(default_factory=trio.Event)
    """Set when nobody listens to it any more."""


@dataclass(frozen=True, slots=True)
class Heard(Generic[K]):
    """What a stream brought."""

    source: Source[K]
    frame: bytes = b""
    error: P2PChainError | None = None
    """Why the stream is over."""


class Inbox(Generic[P, K]):
    """What waits for one task; `run_alarm` has to run beside it."""

    def __init__(self) -> None:
        self._line: deque[P | Source[K] | Heard[K]] = deque()
        self._sources: dict[Stream, Source[K]] = {}
        self._reader: trio.lowlevel.Task | None = None
        self._in_a_row = 0
        self._due_s = math.inf
        self._sleeping = trio.CancelScope()
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be heard."""
        return not self._line

    # Sources

    def listen(self, key: K, stream: Stream, first: bytes | None = None) -> Source[K]:
        """Hear `stream` from now on.

        Args:
            key: What it is known by.
            stream: Nobody else reads it.
            first: A frame of it that was received already.
        """
        source = Source(key, stream)
        if self._is_closed:
            source.gone.set()
            return source
        self._sources[stream] = source
        if first is not None:
            self._line.append(Heard(source, first))
            self._wake()
        stream.watch(lambda: self._line_up(source))
        return source

    def forget(self, stream: Stream) -> None:
        """Hear nothing more of a stream."""
        source = self._sources.pop(stream, None)
        if source is not None:
            stream.watch(None)
            source.gone.set()

    def close(self) -> None:
        """Hear nothing more of anybody."""
        self._is_closed = True
        for stream in list(self._sources):
            self.forget(stream)
        self._line.clear()

    def post(self, item: P) -> None:
        """Hand in something that is no stream's; dropped when nobody reads any more."""
        if not self._is_closed:
            self._line.append(item)
            self._wake()

    def _line_up(self, source: Source[K]) -> None:
        if not source.is_waiting and not source.gone.is_set():
            source.is_waiting = True
            self._line.append(source)
            self._wake()

    # The reader

    async def receive(self, deadline_s: float) -> P | Heard[K] | None:
        """Return what is next, or None when there is nothing until `deadline_s`.

        None too when there is always something, and the deadline is long over.
        """
        if trio.current_time() > deadline_s + OVERDUE_S:
            await trio.lowlevel.checkpoint()
            return None
        if self._in_a_row >= MAX_IN_A_ROW:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        while True:
            self._in_a_row += 1
            while self._line:
                item = self._line.popleft()
                if isinstance(item, Source):
                    heard = self._take(item)
                    if heard is None:
                        continue
                    return heard
                return item
            if trio.current_time() >= deadline_s:
                await trio.lowlevel.checkpoint()
                if not self._line:
                    return None
                continue
            self._in_a_row = 0
            self._set_alarm(deadline_s)
            await self._wait()

    def _take(self, source: Source[K]) -> Heard[K] | None:
        source.is_waiting = False
        if source.gone.is_set():
            return None
        try:
            frame = source.stream.receive_now()
        except P2PChainError as error:
            self.forget(source.stream)
            return Heard(source, error=error)
        if frame is None:
            return None
        # It may have more; then its turn comes again behind the others.
        source.is_waiting = True
        self._line.append(source)
        return Heard(source, frame)

    async def _wait(self) -> None:
        assert self._reader is None
        self._reader = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)

    # The alarm

    async def run_alarm(self) -> None:
        """Wake the reader when its deadline has come, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._due_s) as self._sleeping:
                await trio.sleep_forever()
            if trio.current_time() >= self._due_s:
                self._due_s = math.inf
                self._wake()

    def _set_alarm(self, due_s: float) -> None:
        self._due_s = due_s
        if due_s < self._sleeping.deadline:
            self._sleeping.deadline = due_s
