"""
The pump of one connection: bytes of a transport to `network.mux` and back.

Three tasks: the reader decrypts and hands events over, never waiting for anyone; the
writer sends what the scheduler picks, a batch at a time; the watcher pings.  Whatever
ends the connection, everybody who waits on one of its streams learns the reason.

What cannot wait for the writer's turn, a step of a session, goes in its sender's
(`_flush`): the next batch, as far as the kernel takes it.  The writer sends the rest.
"""

import logging
from typing import Protocol

import trio

from network.endpoint import Endpoint, PeerId
from network.errors import GoodbyeCode, PeerLost, ProtocolViolation, TamperedRecord
from network.handshake import RemoteIdentity
from network.mux import (
    Event,
    MessageArrived,
    Mux,
    PongArrived,
    SaidGoodbye,
    StreamChanged,
    StreamOpened,
)
from network.params import NetworkParams
from network.records import RecordLayer
from network.stream import Stream
from network.streams import StreamState
from network.tcp_stream import PromptStream
from network.topics import Priority, ProtocolParams, Topic

RECEIVE_BYTES = 64 * 1024
WAIT_BYTES = 32 * 1024
"""Bytes sent until the writer waits for the kernel to take them to the wire; the
kernel's buffer is first come, first served, so it must stay short."""
RTT_WEIGHT = 1 / 8
"""Of the newest sample in the moving mean (RFC 6298)."""

log = logging.getLogger(__name__)


class LinkOwner(Protocol):
    """Whom a link tells what comes in."""

    def on_message(
        self, link: "Link", topic: Topic, direct: bool, payload: bytes
    ) -> None:
        """A whole gossip message came."""

    def on_stream(self, link: "Link", stream: Stream) -> None:
        """The peer opened a stream."""

    def on_violation(self, link: "Link", error: ProtocolViolation) -> None:
        """The peer broke the protocol; the link ends by itself."""


class Link:
    """One authenticated connection to one peer.

    Args:
        transport: Connected byte stream; the link owns it.
        records: Ciphers of the connection.
        remote: Who is at the other end.
        mux: State of the connection.
        owner: Whom to tell.
        params: Intervals and bounds.
        is_dialled: Whether we made the connection.
        endpoint: Where the peer can be dialled, if known.
        address: Numeric address of the other end, for limits.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        records: RecordLayer,
        remote: RemoteIdentity,
        mux: Mux,
        owner: LinkOwner,
        params: NetworkParams,
        *,
        is_dialled: bool,
        endpoint: Endpoint | None,
        address: str,
    ) -> None:
        self.remote = remote
        self.is_dialled = is_dialled
        self.endpoint = endpoint
        self.address = address
        self.rtt_s: float | None = None
        """Moving mean of the round trip, in seconds; None before the first pong."""
        self.connected_at = trio.current_time()
        self.bytes_in = 0
        self.bytes_out = 0
        self.reason: str | None = None
        """Why the link ends; None while it is up."""
        self._transport = transport
        self._prompt = transport if isinstance(transport, PromptStream) else None
        self._records = records
        self._mux = mux
        self._owner = owner
        self._params = params
        self._wanted = trio.Event()
        self._scope = trio.CancelScope()
        self._is_leaving = False
        self._writing_since: float | None = None
        self._rest = b""
        """Of a record whose beginning was sent."""
        self._unwaited = 0
        """Bytes sent since the writer has waited for the kernel's queue."""
        self._pings: dict[int, float] = {}
        self._ping_count = 0

    @property
    def peer_id(self) -> PeerId:
        """The node at the other end."""
        return self.remote.peer_id

    @property
    def stream_count(self) -> int:
        """Streams that live on this link."""
        return self._mux.stream_count

    async def run(self) -> None:
        """Pump until the connection ends, whoever ends it."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
        finally:
            self.end("shut down")
            for stream in self._mux.lose(PeerLost(self.peer_id, self.reason or "")):
                stream.on_change()
            await trio.aclose_forcefully(self._transport)

    def end(self, reason: str, code: GoodbyeCode | None = None) -> None:
        """End the link; with a code, after telling the peer so."""
        if self.reason is not None:
            return
        self.reason = reason
        if code is None:
            self._scope.cancel()
        else:
            self._mux.say_goodbye(code)
            self._is_leaving = True
            self.poke()

    def publish(self, topic: Topic, payload: bytes, *, direct: bool) -> bool:
        """Queue a gossip message; False when the link is ending."""
        if self.reason is not None:
            return False
        stood_s = self._mux.publish(topic, payload, direct, trio.current_time())
        is_urgent = self._params.topics[topic].priority <= Priority.BLOCKS
        if is_urgent and stood_s > self._params.queue_age_s:
            self.end(f"its queue stood for {stood_s:.0f} s", GoodbyeCode.SLOW)
        self.poke()
        return True

    def open_stream(self, protocol: str, bounds: ProtocolParams) -> Stream:
        """Open a stream.

        Raises:
            PeerLost: The link is ending.
            TooManyStreams: There are too many already.
        """
        if self.reason is not None:
            raise PeerLost(self.peer_id, self.reason)
        return self._build_stream(self._mux.open_stream(protocol, bounds))

    def wake(self, state: StreamState, *, is_urgent: bool = False) -> None:
        """`state` has something to send; what is urgent leaves at once, if it can."""
        self._mux.wake(state)
        if is_urgent:
            self._flush()
        self.poke()

    def poke(self) -> None:
        """Something may wait to be sent."""
        if self._mux.has_output():
            self._wanted.set()

    def _flush(self) -> None:
        """Send the next batch in the caller's own turn, if nothing is in the way."""
        if (
            self._prompt is None
            or self.reason is not None
            or self._writing_since is not None
            or self._unwaited >= WAIT_BYTES
        ):
            # The writer is at it already, or told to be.
            return
        data, progressed = self._take_record()
        sent = self._prompt.send_now(data) if data else 0
        self._note_sent(sent, progressed)
        if sent < len(data):
            self._rest = data[sent:]
            self._writing_since = trio.current_time()
            self._wanted.set()

    # Tasks

    async def _read(self) -> None:
        while self.reason is None:
            try:
                data = await self._transport.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.end("the connection broke")
                return
            if not data:
                self.end("the peer closed the connection")
                return
            self.bytes_in += len(data)
            self._take_in(bytes(data))

    def _take_in(self, data: bytes) -> None:
        self._records.feed(data)
        try:
            while (plaintext := self._records.next_plaintext()) is not None:
                for event in self._mux.receive(plaintext, trio.current_time()):
                    self._on_event(event)
                if self.reason is not None:
                    return
        except TamperedRecord as error:
            # Anybody on the path can do this: it is not held against the peer.
            self.end(str(error))
        except ProtocolViolation as error:
            self._owner.on_violation(self, error)
            self.end(str(error), GoodbyeCode.PROTOCOL)
        # Answers to pings, credits and resets may wait now.
        self.poke()

    def _on_event(self, event: Event) -> None:
        match event:
            case MessageArrived(topic, direct, payload):
                self._owner.on_message(self, topic, direct, payload)
            case StreamOpened(state):
                self._owner.on_stream(self, self._build_stream(state))
            case StreamChanged(state):
                state.on_change()
            case PongArrived(token):
                self._on_pong(token)
            case SaidGoodbye(code):
                self.end(f"the peer said goodbye: {code.name.lower()}")

    async def _write(self) -> None:
        while True:
            if not self._rest and not self._mux.has_output():
                self._wanted = trio.Event()
                await self._wanted.wait()
                continue
            self._writing_since = self._writing_since or trio.current_time()
            try:
                if self._unwaited >= WAIT_BYTES:
                    await self._transport.wait_send_all_might_not_block()
                    self._unwaited = 0
                is_last = self._is_leaving  # then the batch is our goodbye
                data, progressed = self._rest, list[StreamState]()
                if data:
                    is_last = False
                    self._rest = b""
                else:
                    data, progressed = self._take_record()
                await self._transport.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.end("the connection broke")
                return
            self._writing_since = None
            self._note_sent(len(data), progressed)
            if is_last:
                self._scope.cancel()
                return

    def _take_record(self) -> tuple[bytes, list[StreamState]]:
        """Return the next record, and the streams whose senders may go on."""
        batch, progressed = self._mux.take_batch()
        return self._records.seal(batch) if batch else b"", progressed

    def _note_sent(self, size: int, progressed: list[StreamState]) -> None:
        self._unwaited += size
        self.bytes_out += size
        for state in progressed:
            state.on_change()

    async def _watch(self) -> None:
        while True:
            now = trio.current_time()
            since = self._writing_since
            missed = len(self._pings)
            if since is not None and now - since > self._params.write_timeout_s:
                self.end("the peer does not read")
                self._scope.cancel()  # even when it is ending: goodbye cannot pass
            elif missed >= self._params.max_missed_pings:
                self.end(f"{missed} pings went unanswered")
                self._scope.cancel()
            self._ping_count += 1
            self._pings[self._ping_count] = now
            self._mux.ping(self._ping_count)
            for state in self._mux.reset_stalled(now):
                state.on_change()
            self.poke()
            await trio.sleep(self._params.ping_interval_s)

    def _on_pong(self, token: int) -> None:
        sent_at = self._pings.get(token)
        if sent_at is None:
            return
        self._pings = {t: at for t, at in self._pings.items() if t > token}
        sample = trio.current_time() - sent_at
        if self.rtt_s is None:
            self.rtt_s = sample
        else:
            self.rtt_s += RTT_WEIGHT * (sample - self.rtt_s)

    def _build_stream(self, state: StreamState) -> Stream:
        return Stream(self, state, self._params.max_message_bytes)
