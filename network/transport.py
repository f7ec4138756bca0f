"""
Where byte streams come from: TCP here, memory in simulations.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from network.errors import ListenFailed
from network.tcp_stream import TcpStream

Accept = Callable[[trio.abc.Stream, str], Awaitable[None]]
"""Serves one incoming stream from a numeric address, and closes it."""


class Listening(Protocol):
    """An open door."""

    @property
    def port(self) -> int:
        """The port that others dial."""

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        """Run `accept` in `nursery` for every incoming stream, until cancelled."""


class Transport(Protocol):
    """Makes and takes connections."""

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        """Return a connected stream; raises OSError when there is none."""

    async def listen(self, host: str, port: int) -> Listening:
        """Listen at `host` and `port`, 0 for any; raises ListenFailed."""


class TcpTransport:
    """TCP with trio; its streams send at once and keep the kernel's queue short."""

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        """Return a connected stream; raises OSError when there is none."""
        return TcpStream(await trio.open_tcp_stream(host, port))

    async def listen(self, host: str, port: int) -> "TcpListening":
        """Listen at `host` and `port`, 0 for any.

        Raises:
            ListenFailed: The address is in use or not ours.
        """
        try:
            return TcpListening(await trio.open_tcp_listeners(port, host=host))
        except OSError as error:
            raise ListenFailed(f"cannot listen at {host}:{port}: {error}") from error


class TcpListening:
    """Sockets that listen."""

    def __init__(self, listeners: Sequence[trio.SocketListener]) -> None:
        self._listeners = listeners
        self.port: int = listeners[0].socket.getsockname()[1]

    async def serve(self, accept: Accept, nursery: trio.Nursery) -> None:
        """Run `accept` in `nursery` for every connection, until cancelled."""

        async def accept_socket(stream: trio.SocketStream) -> None:
            try:
                address = _unmap(stream.socket.getpeername()[0])
            except OSError:  # gone before it was served
                await trio.aclose_forcefully(stream)
            else:
                await accept(TcpStream(stream), address)

        await trio.serve_listeners(
            accept_socket, list(self._listeners), handler_nursery=nursery
        )


def _unmap(address: str) -> str:
    # Sockets that serve both families show IPv4 peers as ::ffff:1.2.3.4.
    return address.removeprefix("::ffff:") if "." in address else address
