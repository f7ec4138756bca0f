"""The reader of an answer, at its own pace."""

from collections.abc import Awaitable, Callable

import trio

from inference.session.plan import TokenEvent

READER_TOKENS = 16
"""Tokens that wait for a slow reader before the session does."""

TakeToken = Callable[[TokenEvent], Awaitable[None]]
"""Takes the tokens in order."""


class Reader:
    """Tokens on their way to whoever reads them."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        """What the reader raised."""
        self._tokens, self._unread = trio.open_memory_channel[TokenEvent](READER_TOKENS)
        self._reading = trio.CancelScope()

    async def show(self, token: TokenEvent) -> None:
        """Hand a token over; waits while too many wait.

        Raises:
            trio.BrokenResourceError: The reader is gone.
        """
        try:
            self._tokens.send_nowait(token)
        except trio.WouldBlock:
            await self._tokens.send(token)

    def close(self) -> None:
        """No more tokens come."""
        self._tokens.close()

    def cancel(self) -> None:
        """The reader wants no more."""
        self._reading.cancel()

    async def run(self, emit: TakeToken, on_error: Callable[[], None]) -> None:
        """Give tokens to the reader until there are no more.

        Args:
            emit: The reader.
            on_error: Called when it raised.
        """
        with self._reading, self._unread:
            async for token in self._unread:
                try:
                    await emit(token)
                except Exception as error:
                    # Whatever the reader's trouble is, the hops are paid first.
                    self.error = error
                    on_error()
                    return
