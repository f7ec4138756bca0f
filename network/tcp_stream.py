"""
A TCP connection for a link: bytes go out and come in with as few turns as possible.

`trio.SocketStream` tries first and yields after each success: a system call that fails
before every wait, and a turn of the event loop after every send.  A link waits for most
of what it reads and has one writer, so here a read waits first, and what the kernel
takes at once goes in the sender's own turn (`send_now`).  The options are those that
trio sets.
"""

import socket
from abc import abstractmethod

import trio

RECEIVE_BYTES = 64 * 1024
"""Asked for where the caller does not say."""


class PromptStream(trio.abc.Stream):
    """A byte stream that may take bytes without waiting."""

    @abstractmethod
    def send_now(self, data: bytes) -> int:
        """Send the beginning of `data` that is taken at once; returns its length.

        A broken stream takes nothing; the next `send_all` says so.
        """


class TcpStream(PromptStream):
    """One connected socket; read by one task and written by one."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Take the socket of a connected stream, and close it one day."""
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, at most `max_bytes`; empty at the end of the stream.

        Raises:
            BrokenResourceError, ClosedResourceError: The connection is gone.
        """
        size = RECEIVE_BYTES if max_bytes is None else max_bytes
        while True:
            self._raise_if_closed()
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(size)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"reading: {error}") from error

    def send_now(self, data: bytes) -> int:
        """Send the beginning of `data` that the kernel takes now."""
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; yields where the kernel takes no more at once.

        Raises:
            BrokenResourceError, ClosedResourceError: The connection is gone.
        """
        self._raise_if_closed()
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                raise trio.BrokenResourceError(f"writing: {error}") from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel's queue is short."""
        self._raise_if_closed()
        await trio.lowlevel.wait_writable(self._socket)

    async def aclose(self) -> None:
        """Close the connection; whoever waits for it is told."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def _raise_if_closed(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("the connection was closed here")
