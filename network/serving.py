"""
Direct streams that peers open: one handler task each, and requests as the short form.

A handler's failure ends its stream and nothing else.  What it raises tells whose fault
it was: a RemoteError costs the peer that opened the stream, a MissingError is nobody's,
everything else is ours and is logged.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import trio

from network.endpoint import PeerId
from network.errors import ResetCode
from network.faults import Fault
from network.gossip import Charge
from network.params import NetworkParams
from network.stream import Stream
from network.topics import ProtocolParams
from primitives.errors import MissingError, RemoteError

Handler = Callable[[PeerId, Stream], Awaitable[None]]
RequestHandler = Callable[[PeerId, bytes], Awaitable[bytes]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A request handler in the shape of a stream handler."""

    handler: RequestHandler

    async def __call__(self, peer_id: PeerId, stream: Stream) -> None:
        await stream.send(await self.handler(peer_id, await stream.receive()))


class Serving:
    """The handlers of one node.

    Args:
        params: Bounds.
        charge: Makes a peer pay for a fault.
    """

    def __init__(self, params: NetworkParams, charge: Charge) -> None:
        self._params = params
        self._charge = charge
        self._handlers: dict[str, Handler] = {}
        self._running: Counter[PeerId] = Counter()
        self.protocols: dict[str, ProtocolParams] = {}
        """What peers may open streams for."""

    def add(self, protocol: str, handler: Handler, bounds: ProtocolParams) -> None:
        """Serve streams of `protocol`."""
        if protocol in self._handlers:
            raise ValueError(f"{protocol} has a handler already")
        self._handlers[protocol] = handler
        self.protocols[protocol] = bounds

    def add_request(
        self, protocol: str, handler: RequestHandler, bounds: ProtocolParams
    ) -> None:
        """Serve `protocol`: one message in, one out."""
        self.add(protocol, _Answer(handler), bounds)

    def on_stream(self, stream: Stream, nursery: trio.Nursery) -> None:
        """Start the handler of a stream that a peer opened."""
        if self._running[stream.peer_id] >= self._params.max_handlers:
            stream.abort(ResetCode.BUSY)
            return
        self._running[stream.peer_id] += 1
        nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._handlers[stream.protocol](stream.peer_id, stream)
            await stream.close()
        except Exception as error:
            stream.abort(self._explain(stream, error))
        finally:
            stream.abort()
            self._running[stream.peer_id] -= 1
            if not self._running[stream.peer_id]:
                del self._running[stream.peer_id]

    def _explain(self, stream: Stream, error: Exception) -> ResetCode:
        leaves = list(_list_leaves(error))
        name = stream.protocol
        if any(not isinstance(leaf, RemoteError | MissingError) for leaf in leaves):
            log.error("the handler of %s failed", name, exc_info=error)
            return ResetCode.INTERNAL
        log.debug("%s from %s: %s", name, stream.peer_id.hex()[:8], error)
        if any(isinstance(leaf, RemoteError) for leaf in leaves):
            self._charge(stream.peer_id, Fault.BAD_MESSAGE, f"{name}: {error}")
            return ResetCode.BAD_REQUEST
        return ResetCode.NOT_FOUND


def _list_leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _list_leaves(inner)
    else:
        yield error
