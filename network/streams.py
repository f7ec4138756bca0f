"""
One stream's state: messages to send, messages that came, and credit for both.

Theory of operation
-------------------
A stream carries whole messages in order, both ways.  The receiver lends a window of
W bytes; every data byte spends it, and every message `MESSAGE_COST` bytes on top, or
empty messages would wait here without bound.  What messages cost that the application
has taken is given back in lumps of a quarter of W.

A message longer than W/2 is paid for differently: when its first frame tells its
length, the receiver reserves that much memory from the common pool and then lends all
that the message costs at once.  So a long message needs one round trip of waiting at
most, a stream never holds more than W bytes beyond what was reserved, and two long
messages cannot each hold half of what the other needs.

    no deadlock: with everything taken, less than W/4 is not yet given back, so more
    than W/2 is lent, and every message that needs no reservation fits.

Either side ends the stream with End (everything was sent, nothing more is read) or
Reset (given up).  There is no half-closed state: a conversation that is over for one
side is over.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from network.assembly import Assembly
from network.errors import (
    NetworkError,
    ProtocolViolation,
    ResetCode,
    StreamClosed,
    StreamReset,
)
from network.frames import (
    MAX_DATA,
    Credit,
    Data,
    DataMore,
    End,
    Frame,
    Reset,
    encode_frame,
)
from network.params import NetworkParams
from network.reservations import Reservation, ReservationPool
from network.topics import Priority

WINDOW_BYTES = 256 * 1024
"""Lent at the start of every stream, by both sides: part of the protocol.  Five MiB a
second over a round trip of 50 ms, and 64 MiB at most for all streams of a peer."""

MESSAGE_COST = 128
"""Credit that a message takes beside its bytes: what its objects take in memory."""


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message on its way out."""

    message: bytes
    offset: int = 0
    """Bytes already cut into frames."""
    is_begun: bool = False
    is_taken: bool = False
    """Whether the last frame was handed to the connection."""


class StreamOwner(Protocol):
    """The connection, as its streams see it."""

    def add_control(self, frame: Frame) -> None:
        """Send a small frame before all data."""

    def on_taken(self, stream: "StreamState") -> None:
        """A message of the stream was wholly cut into frames."""

    def forget(self, stream: "StreamState") -> None:
        """The stream is over; frames for it mean nothing any more."""


class StreamState:
    """Both directions of one stream; a source for the scheduler.

    Args:
        stream_id: Number within the connection.
        protocol: Name that it was opened for.
        priority: Class of what we send on it.
        peer_id: The node at the other end, who pays for memory.
        max_message_bytes: Longest message we take on this stream.
        pool: Where long messages reserve memory.
        owner: Whom it tells what happens.
    """

    def __init__(
        self,
        stream_id: int,
        protocol: str,
        priority: Priority,
        peer_id: bytes,
        max_message_bytes: int,
        pool: ReservationPool,
        owner: "StreamOwner",
    ) -> None:
        self.stream_id = stream_id
        self.protocol = protocol
        self.priority = priority
        self.error: NetworkError | None = None
        """Why the stream is over; None while it lives."""
        self.on_change: Callable[[], None] = _do_nothing
        """Called by the connection when a message came or went, or the end."""
        self._peer_id = peer_id
        self._max_message_bytes = max_message_bytes
        self._pool = pool
        self._owner = owner
        self._outgoing: deque[Outgoing] = deque()
        self._credit = WINDOW_BYTES
        self._is_ending = False
        self._window = WINDOW_BYTES
        self._unreturned = 0
        self._inbox: deque[tuple[bytes, Reservation | None]] = deque()
        self._assembly: Assembly | None = None
        self._reservation: Reservation | None = None
        self._is_granted = False
        self._granted_at: float | None = None

    # Sending

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages that wait to be cut into frames."""
        return sum(len(out.message) - out.offset for out in self._outgoing)

    @property
    def is_ending(self) -> bool:
        """Whether we closed the stream; what is queued may still be on its way."""
        return self._is_ending

    def push(self, message: bytes) -> Outgoing:
        """Queue a message; the stream must be alive."""
        assert self.error is None
        assert not self._is_ending
        outgoing = Outgoing(message)
        self._outgoing.append(outgoing)
        return outgoing

    def withdraw(self, outgoing: Outgoing) -> bool:
        """Take a message back that was not begun; False when it is too late."""
        if outgoing.is_begun:
            return False
        if outgoing in self._outgoing:
            self._outgoing.remove(outgoing)
        return True

    def end(self) -> None:
        """Send End after what is queued, and read nothing more."""
        self._is_ending = True
        self.discard_incoming()

    def is_ready(self) -> bool:
        """Tell whether a frame can go now."""
        if self.error is not None:
            return False
        if not self._outgoing:
            return self._is_ending
        outgoing = self._outgoing[0]
        size = min(len(outgoing.message) - outgoing.offset, MAX_DATA)
        return self._credit >= _compute_cost(size, is_first=not outgoing.is_begun)

    def take_frame(self) -> bytes:
        """Return the next encoded frame of data, or End."""
        if not self._outgoing:
            self._finish(StreamClosed("the stream was closed by us"))
            return encode_frame(End(self.stream_id))
        outgoing = self._outgoing[0]
        data = outgoing.message[outgoing.offset : outgoing.offset + MAX_DATA]
        self._credit -= _compute_cost(len(data), is_first=not outgoing.is_begun)
        if outgoing.is_begun:
            frame = encode_frame(DataMore(self.stream_id, data))
        else:
            total = len(outgoing.message)
            frame = encode_frame(Data(self.stream_id, total, data))
        outgoing.is_begun = True
        outgoing.offset += len(data)
        if outgoing.offset == len(outgoing.message):
            outgoing.is_taken = True
            self._outgoing.popleft()
            self._owner.on_taken(self)
        return frame

    # Receiving

    @property
    def has_news(self) -> bool:
        """Whether there is a message to take, or the stream is over."""
        return bool(self._inbox) or self.error is not None

    def take_message(self) -> bytes | None:
        """Return the next whole message, or None; gives its bytes back to the peer."""
        if not self._inbox:
            return None
        message, reservation = self._inbox.popleft()
        if reservation is not None:
            self._pool.release(reservation)
        else:
            self._unreturned += _compute_cost(len(message), is_first=True)
            if self._unreturned >= WINDOW_BYTES // 4:
                self._lend(self._unreturned)
                self._unreturned = 0
        return message

    def on_data(self, frame: Data | DataMore) -> bool:
        """Take a piece of a message; True when it completes one, or ends the stream.

        Raises:
            ProtocolViolation: More than was lent, or pieces out of order.
        """
        cost = _compute_cost(len(frame.data), is_first=isinstance(frame, Data))
        if cost > self._window:
            raise ProtocolViolation("data beyond the credit of its stream")
        self._window -= cost
        if self._is_ending:
            return False
        if isinstance(frame, Data):
            if not self._begin(frame):
                return True
        elif self._assembly is None:
            raise ProtocolViolation("a message continues that never began")
        else:
            self._assembly.add(frame.data)
        if self._assembly is None or not self._assembly.is_complete:
            return False
        self._inbox.append((self._assembly.join(), self._reservation))
        self._assembly = self._reservation = None
        self._is_granted = False
        return True

    def on_credit(self, amount: int) -> None:
        """Take credit from the peer; raises ProtocolViolation when it is absurd."""
        self._credit += amount
        if self._credit > 2**32:
            raise ProtocolViolation("credit beyond all messages")

    def on_end(self) -> None:
        """The peer sent everything and reads no more."""
        self._finish(StreamClosed("the stream was closed by the peer"))

    def on_reset(self, code: ResetCode) -> None:
        """The peer gave the stream up."""
        self._finish(StreamReset(code))

    def reset(self, code: ResetCode) -> None:
        """Give the stream up and tell the peer; what came and was not read is gone."""
        if self.error is None:
            self._owner.add_control(Reset(self.stream_id, code))
        self._finish(StreamReset(code, ours=True))
        self.discard_incoming()

    def lose(self, error: NetworkError) -> None:
        """The connection is gone; what came whole can still be read."""
        self._finish(error)

    def is_stalled(self, now: float, params: NetworkParams) -> bool:
        """Tell whether a message holds reserved memory and does not arrive.

        To be asked every few seconds; the first look starts the clock.
        """
        if self._assembly is None or not self._is_granted:
            self._granted_at = None
            return False
        if self._granted_at is None:
            self._granted_at = now
        allowed_s = params.stall_s + self._assembly.total / params.min_message_rate
        return now - self._granted_at > allowed_s

    def _begin(self, frame: Data) -> bool:
        if self._assembly is not None:
            raise ProtocolViolation("a message begins before the last one ended")
        if frame.total > self._max_message_bytes:
            # Not a fault: a bound of one protocol may differ between versions.
            self.reset(ResetCode.TOO_BIG)
            return False
        self._assembly = Assembly(frame.total, frame.data)
        if frame.total > WINDOW_BYTES // 2:
            claim = Reservation(self._peer_id, frame.total, self._on_grant)
            self._reservation = claim
            self._pool.reserve(claim)
        return True

    def _on_grant(self) -> None:
        assert self._assembly is not None
        self._is_granted = True
        self._lend(_compute_cost(self._assembly.total, is_first=True))

    def _lend(self, amount: int) -> None:
        if self.error is None:
            self._window += amount
            self._owner.add_control(Credit(self.stream_id, amount))

    def _finish(self, error: NetworkError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._outgoing.clear()
        self._drop_assembly()
        self._owner.forget(self)

    def discard_incoming(self) -> None:
        """Free what came and was not taken."""
        self._drop_assembly()
        while self._inbox:
            _, reservation = self._inbox.popleft()
            if reservation is not None:
                self._pool.release(reservation)

    def _drop_assembly(self) -> None:
        self._assembly = None
        self._is_granted = False
        if self._reservation is not None:
            reservation, self._reservation = self._reservation, None
            self._pool.release(reservation)


def _compute_cost(size: int, *, is_first: bool) -> int:
    """Return the credit that a frame of `size` bytes takes; a first one pays more."""
    return size + MESSAGE_COST if is_first else size


def _do_nothing() -> None:
    pass
