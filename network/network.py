"""
The network of one node, as the rest of the program sees it.

`Network` only puts the parts together: `connections` knows who is connected, `gossip`
what was said, `serving` who answers, and `scores` who misbehaves.

Spec: docs/protocol/09-network.md
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import trio

from network.connections import Connections
from network.endpoint import Endpoint, PeerId
from network.errors import (
    GoodbyeCode,
    NetworkStopped,
    ProtocolViolation,
    RequestTimeout,
)
from network.faults import Fault
from network.frames import validate_protocol_name
from network.gossip import Check, Gossip
from network.handshake import LocalIdentity
from network.link import Link
from network.params import NetworkParams
from network.scores import ScoreBook
from network.serving import Handler, RequestHandler, Serving
from network.stream import Stream
from network.topics import Priority, ProtocolParams, Topic
from network.transport import TcpTransport, Transport
from primitives.keys import SecretKey

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connected peer, for status pages and routing."""

    peer_id: PeerId
    endpoint: Endpoint | None
    """Where it can be dialled, if known."""
    direction: str
    """"out" when we dialled, "in" when it did."""
    rtt_ms: float | None
    """Moving mean of the pings; None before the first answer."""
    score: float
    """Points for faults; 0 is best, 100 a ban."""
    bytes_in: int
    bytes_out: int
    connected_since: float
    """Unix time in seconds."""


class Network:
    """Authenticated connections, gossip and direct streams of one node.

    Args:
        node_key: The node's identity; its public key is the peer id.
        chain_id: Only nodes with the same one can connect.
        params: Bounds and intervals.
        random: Spreads attempts to reconnect; only simulations pass one.
        transport: Where byte streams come from, TCP unless a simulation passes one.
    """

    def __init__(
        self,
        *,
        node_key: SecretKey,
        chain_id: bytes,
        params: NetworkParams | None = None,
        random: Random | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._params = params or NetworkParams()
        self._scores = ScoreBook()
        self._serving = Serving(self._params, self._charge)
        self._gossip = Gossip(self._params, self._get_links, self._charge)
        self._transport = transport or TcpTransport()
        self._watchers: list[Callable[[PeerId, bool], None]] = []
        self._nursery: trio.Nursery | None = None
        self._connections = Connections(
            LocalIdentity(node_key, chain_id, listen_port=0),
            self._params,
            self._scores,
            self,
            self._serving.protocols,
            self._on_peer,
            random or Random(node_key.public_key),
            self._transport,
        )

    @property
    def peer_id(self) -> PeerId:
        """This node's own name."""
        return self._connections.identity.peer_id

    # Set-up

    def subscribe(self, topic: Topic, check: Check) -> None:
        """Let `check` judge every message of a topic, once per unseen message.

        The check also consumes the message: no other copy is delivered.  Checks of one
        topic run one after another; one that waits long delays its topic.
        """
        self._gossip.subscribe(topic, check)

    def handle(
        self,
        protocol: str,
        handler: Handler,
        *,
        priority: Priority = Priority.ACTIVATIONS,
        max_message_bytes: int | None = None,
    ) -> None:
        """Run `handler` for every stream that a peer opens for `protocol`.

        The stream is closed when the handler returns and reset when it raises; a
        RemoteError that leaves it is counted against the peer.
        """
        validate_protocol_name(protocol)
        self._serving.add(
            protocol, handler, ProtocolParams(priority, max_message_bytes)
        )

    def handle_request(
        self,
        protocol: str,
        handler: RequestHandler,
        *,
        priority: Priority = Priority.ACTIVATIONS,
        max_message_bytes: int | None = None,
    ) -> None:
        """Answer requests: `handler` takes peer id and payload, returns the answer."""
        validate_protocol_name(protocol)
        self._serving.add_request(
            protocol, handler, ProtocolParams(priority, max_message_bytes)
        )

    def watch_peers(self, watcher: Callable[[PeerId, bool], None]) -> None:
        """Call `watcher` with a peer id and True (connected) or False (lost)."""
        self._watchers.append(watcher)

    def add_endpoint(self, endpoint: Endpoint, *, persistent: bool = False) -> None:
        """Remember where a peer listens; a persistent one is kept connected."""
        self._connections.add_endpoint(endpoint, persistent=persistent)

    # Use

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Send a message to all peers, who pass it on; never waits.

        Raises:
            MessageTooBig: Longer than the topic allows.
        """
        self._gossip.publish(topic, payload)

    def send(self, peer_id: PeerId, topic: Topic, payload: bytes) -> bool:
        """Send a message to one connected peer, who does not pass it on.

        Returns:
            False when the peer is not connected.

        Raises:
            MessageTooBig: Longer than the topic allows.
        """
        self._gossip.validate_size(topic, payload)
        link = self._connections.get_link(peer_id)
        return link is not None and link.publish(topic, payload, direct=True)

    async def request(
        self,
        peer_id: PeerId,
        protocol: str,
        payload: bytes,
        *,
        timeout_s: float,
        priority: Priority = Priority.ACTIVATIONS,
        max_answer_bytes: int | None = None,
    ) -> bytes:
        """Return a peer's answer to `payload`, dialling it if need be.

        Raises:
            RequestTimeout: No answer within `timeout_s`, connecting included.
            PeerUnreachable: No connection can be made.
            PeerLost: The connection ended before the answer.
            StreamReset: The peer refused; the code says why.
            StreamClosed: The peer answered nothing.
        """
        try:
            with trio.fail_after(timeout_s):
                async with await self.open_stream(
                    peer_id,
                    protocol,
                    priority=priority,
                    max_message_bytes=max_answer_bytes,
                ) as stream:
                    await stream.send(payload)
                    return await stream.receive()
        except trio.TooSlowError:
            raise RequestTimeout(f"no answer to {protocol} in {timeout_s} s") from None

    async def open_stream(
        self,
        peer_id: PeerId,
        protocol: str,
        *,
        priority: Priority = Priority.ACTIVATIONS,
        max_message_bytes: int | None = None,
    ) -> Stream:
        """Open a stream to a peer, dialling it if need be.

        Whether the peer serves `protocol` shows at the first receive: a StreamReset
        with UNKNOWN_PROTOCOL if not.

        Raises:
            PeerUnreachable: No connection can be made.
            PeerLost: The connection is just ending.
            TooManyStreams: Too many are open to this peer.
        """
        validate_protocol_name(protocol)
        link = await self._connections.connect(peer_id)
        return link.open_stream(protocol, ProtocolParams(priority, max_message_bytes))

    def penalize(self, peer_id: PeerId, fault: Fault) -> None:
        """Count a fault that was found outside the network."""
        self._charge(peer_id, fault, "reported by the node")

    def peers(self) -> list[PeerInfo]:
        """Return the connected peers, in the order of their ids."""
        now = trio.current_time()
        offset_s = time.time() - now
        return [
            PeerInfo(
                peer_id=link.peer_id,
                endpoint=link.endpoint,
                direction="out" if link.is_dialled else "in",
                rtt_ms=None if link.rtt_s is None else link.rtt_s * 1000,
                score=self._scores.get_points(link.peer_id, now),
                bytes_in=link.bytes_in,
                bytes_out=link.bytes_out,
                connected_since=link.connected_at + offset_s,
            )
            for _, link in sorted(self._connections.links.items())
            if link.reason is None
        ]

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and serve until cancelled.

        Args:
            host: Numeric address to listen at; 0.0.0.0 for all.
            port: TCP port, 0 for any free one.
            task_status: Started with the endpoint once the socket listens.

        Raises:
            ListenFailed: The address is in use or not ours.
        """
        if self._nursery is not None:
            raise NetworkStopped("the network is running already")
        listening = await self._transport.listen(host, port)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._connections.start(nursery, listening.port)
                for topic in self._params.topics:
                    nursery.start_soon(self._gossip.run, topic)
                task_status.started(Endpoint(self.peer_id, host, listening.port))
                await listening.serve(self._connections.accept, nursery)
        finally:
            self._connections.stop()
            self._nursery = None

    # What links tell their owner

    def on_message(
        self, link: Link, topic: Topic, direct: bool, payload: bytes
    ) -> None:
        """A gossip message came."""
        self._gossip.on_message(link.peer_id, topic, direct, payload)

    def on_stream(self, link: Link, stream: Stream) -> None:
        """A peer opened a stream."""
        assert self._nursery is not None
        self._serving.on_stream(stream, self._nursery)

    def on_violation(self, link: Link, error: ProtocolViolation) -> None:
        """A peer broke the protocol."""
        self._charge(link.peer_id, error.fault, str(error))

    # Inside

    def _get_links(self) -> list[Link]:
        return list(self._connections.links.values())

    def _on_peer(self, peer_id: PeerId, is_connected: bool) -> None:
        if not is_connected:
            self._gossip.forget_peer(peer_id)
        for watcher in self._watchers:
            watcher(peer_id, is_connected)

    def _charge(self, peer_id: PeerId, fault: Fault, reason: str) -> None:
        # A flood is counted once a second but reported with every message.
        level = logging.DEBUG if fault is Fault.FLOOD else logging.INFO
        log.log(level, "peer %s: %s (%s)", peer_id.hex()[:8], reason, fault.name)
        if self._scores.charge(peer_id, fault, trio.current_time()):
            log.warning("peer %s is banned: %s", peer_id.hex()[:8], reason)
            self._connections.drop(peer_id, f"banned: {reason}", GoodbyeCode.BANNED)
