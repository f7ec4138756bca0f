"""
A stream as the application sees it: whole messages, in order, both ways.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

from network.endpoint import PeerId
from network.errors import MessageTooBig, ResetCode, StreamClosed
from network.streams import StreamState

SEND_AHEAD = 64 * 1024
"""Bytes that `send` leaves behind without waiting; four frames keep the line busy."""
LINGER_S = 10.0
"""How long `close` waits for a peer that does not take what was sent."""


class Connection(Protocol):
    """What a stream needs of the connection that carries it."""

    @property
    def peer_id(self) -> PeerId:
        """The node at the other end."""

    def wake(self, state: StreamState, *, is_urgent: bool = False) -> None:
        """`state` has something to send; what is urgent leaves at once, if it can."""

    def poke(self) -> None:
        """Control frames may wait to be sent."""


class Stream:
    """One conversation with one peer, on its connection; an async context manager.

    Leaving the context closes the stream in order, or aborts it on an exception.
    """

    def __init__(
        self, connection: Connection, state: StreamState, max_message_bytes: int
    ) -> None:
        self._connection = connection
        self._state = state
        self._max_message_bytes = max_message_bytes
        self._changed = trio.lowlevel.ParkingLot()
        self._watcher: Callable[[], None] | None = None
        state.on_change = self._wake_all

    @property
    def peer_id(self) -> PeerId:
        """The node at the other end."""
        return self._connection.peer_id

    @property
    def protocol(self) -> str:
        """What the stream was opened for."""
        return self._state.protocol

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._state.error is not None

    async def send(self, message: bytes) -> None:
        """Send a message; waits while more than 64 KiB are queued before the peer.

        A send that is cancelled either has no effect or happens wholly.  Sent is not
        received: what the connection loses afterwards is lost.

        Raises:
            MessageTooBig: Longer than the network carries.
            StreamClosed, StreamReset, PeerLost: The stream is over.
        """
        if len(message) > self._max_message_bytes:
            raise MessageTooBig(f"{len(message)} > {self._max_message_bytes} bytes")
        self._raise_if_over()
        outgoing = self._state.push(bytes(message))
        self._connection.wake(self._state)
        try:
            if self._state.queued_bytes <= SEND_AHEAD:
                await trio.lowlevel.checkpoint()
                return
            while not outgoing.is_taken:
                await self._changed.park()
                if not outgoing.is_taken:
                    self._raise_if_over()
        except trio.Cancelled:
            self._state.withdraw(outgoing)
            raise

    def send_now(self, message: bytes, *, is_urgent: bool = False) -> bool:
        """Send a message without waiting; False, and nothing, where `send` would wait.

        Args:
            message: What to send.
            is_urgent: Whether it leaves in the caller's own turn, if it can; else the
                connection's writer sends it along with what comes after it.

        Raises:
            MessageTooBig, StreamClosed, StreamReset, PeerLost: As `send`.
        """
        if len(message) > self._max_message_bytes:
            raise MessageTooBig(f"{len(message)} > {self._max_message_bytes} bytes")
        self._raise_if_over()
        if self._state.queued_bytes + len(message) > SEND_AHEAD:
            return False
        self._state.push(message)
        self._connection.wake(self._state, is_urgent=is_urgent)
        return True

    def receive_now(self) -> bytes | None:
        """Return the next message if it is here; raises as `receive`."""
        message = self._state.take_message()
        if message is None:
            self._raise_if_over()
            return None
        self._connection.poke()
        return message

    def watch(self, watcher: Callable[[], None] | None) -> None:
        """Call `watcher` when a message has come, or the stream's end."""
        self._watcher = watcher
        if watcher is not None and self._state.has_news:
            watcher()

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            StreamClosed: The peer finished, and every message was returned.
            StreamReset: The peer or this side gave up.
            PeerLost: The connection ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while (message := self._state.take_message()) is None:
            self._raise_if_over()
            await self._changed.park()
        self._connection.poke()
        return message

    async def close(self) -> None:
        """Finish: what was sent goes out, what comes is no longer read."""
        if self.is_over:
            self._state.discard_incoming()
            return
        self._state.end()
        self._connection.wake(self._state)
        try:
            with trio.move_on_after(LINGER_S):
                while not self.is_over:
                    await self._changed.park()
        finally:
            self.abort()

    def abort(self, code: ResetCode = ResetCode.CANCELLED) -> None:
        """Give up at once; harmless when the stream is over."""
        self._state.reset(code)
        self._connection.poke()
        self._wake_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.abort()

    def _wake_all(self) -> None:
        if self._changed:
            self._changed.unpark_all()
        if self._watcher is not None and self._state.has_news:
            self._watcher()

    def _raise_if_over(self) -> None:
        if self._state.error is not None:
            raise self._state.error
        if self._state.is_ending:
            raise StreamClosed("the stream was closed by us")
