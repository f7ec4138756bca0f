"""
One connection without I/O: frames in and events out, actions in and batches out.

`receive` takes the plaintext of a record and says what happened; `take_batch` gives
the plaintext of the next record.  Nothing here waits, and everything that waits to be
sent or read has a bound: topics by their queues, streams by their credit, control
frames by the peer's own bounded questions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from network.budget import TokenBucket
from network.errors import (
    GoodbyeCode,
    NetworkError,
    ProtocolViolation,
    ResetCode,
    TooManyStreams,
)
from network.faults import Fault
from network.frames import (
    MAX_STREAM_ID,
    Accept,
    Credit,
    Data,
    DataMore,
    End,
    Frame,
    Goodbye,
    News,
    NewsMore,
    Open,
    Ping,
    Pong,
    Reset,
    decode_frames,
    encode_frame,
)
from network.news import NewsReader, TopicQueue
from network.params import NetworkParams
from network.reservations import ReservationPool
from network.scheduler import Scheduler
from network.streams import StreamState
from network.topics import ProtocolParams, Topic

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Longest message of any stream, part of the protocol: hidden states of a long
prompt."""
CONTROL_PER_S = 10_000
"""Control frames a peer may send per second: thousands of requests, 3 % of a core."""
CONTROL_BURST = 40_000


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A whole gossip message."""

    topic: Topic
    direct: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream: StreamState


@dataclass(frozen=True, slots=True)
class StreamChanged:
    """A message came, or the stream ended."""

    stream: StreamState


@dataclass(frozen=True, slots=True)
class PongArrived:
    """A ping came back."""

    token: int


@dataclass(frozen=True, slots=True)
class SaidGoodbye:
    """The peer ends the connection."""

    code: GoodbyeCode


Event = MessageArrived | StreamOpened | StreamChanged | PongArrived | SaidGoodbye


class Mux:
    """The state of one connection.

    Args:
        peer_id: The node at the other end.
        initiator: Whether we dialled: then our stream ids are odd.
        params: Bounds.
        pool: Memory for long messages, shared with other connections.
        protocols: What the peer may open streams for; may grow later.
    """

    def __init__(
        self,
        peer_id: bytes,
        *,
        initiator: bool,
        params: NetworkParams,
        pool: ReservationPool,
        protocols: Mapping[str, ProtocolParams],
    ) -> None:
        self._peer_id = peer_id
        self._params = params
        self._pool = pool
        self._protocols = protocols
        self._scheduler = Scheduler()
        self._topics = {
            topic: TopicQueue(topic, bounds) for topic, bounds in params.topics.items()
        }
        self._news = NewsReader(params.topics)
        self._streams: dict[int, StreamState] = {}
        self._next_id = 1 if initiator else 2
        self._last_remote_id = 0 if initiator else -1
        self._control_budget = TokenBucket(CONTROL_PER_S, CONTROL_BURST)
        self._taken: list[StreamState] = []

    # Output

    def has_output(self) -> bool:
        """Tell whether there is anything to send."""
        return self._scheduler.has_output()

    def take_batch(self) -> tuple[bytes, list[StreamState]]:
        """Return a record's plaintext and the streams whose senders may go on."""
        batch = self._scheduler.take_batch()
        taken, self._taken = self._taken, []
        return batch, taken

    def publish(self, topic: Topic, payload: bytes, direct: bool, now: float) -> float:
        """Queue a gossip message; returns how long, in s, a full queue has stood."""
        queue = self._topics[topic]
        stood_s = queue.push(payload, direct, now)
        self._scheduler.wake(queue)
        return stood_s

    def ping(self, token: int) -> None:
        """Send a ping."""
        self.add_control(Ping(token))

    def say_goodbye(self, code: GoodbyeCode) -> None:
        """Send our last frame, and nothing that still waits."""
        self._scheduler.finish_with(encode_frame(Goodbye(code)))

    # Streams

    @property
    def stream_count(self) -> int:
        """Streams that live."""
        return len(self._streams)

    def open_stream(self, protocol: str, bounds: ProtocolParams) -> StreamState:
        """Open a stream to the peer.

        Raises:
            TooManyStreams: Too many streams are open already, or numbers ran out.
        """
        ours = sum(1 for i in self._streams if i % 2 == self._next_id % 2)
        if ours >= self._params.max_streams or self._next_id > MAX_STREAM_ID:
            raise TooManyStreams(f"{ours} streams are open to one peer")
        stream = self._build(self._next_id, protocol, bounds)
        self._next_id += 2
        self.add_control(Open(stream.stream_id, protocol))
        return stream

    def wake(self, stream: StreamState) -> None:
        """Let a stream that got something to send take part."""
        self._scheduler.wake(stream)

    def reset_stalled(self, now: float) -> list[StreamState]:
        """Reset streams whose reserved message does not arrive, and return them."""
        stalled = [
            stream
            for stream in self._streams.values()
            if stream.is_stalled(now, self._params)
        ]
        for stream in stalled:
            stream.reset(ResetCode.STALLED)
        return stalled

    def lose(self, error: NetworkError) -> list[StreamState]:
        """End every stream because the connection is gone; returns them."""
        lost = list(self._streams.values())
        for stream in lost:
            stream.lose(error)
        return lost

    # What streams tell their owner

    def add_control(self, frame: Frame) -> None:
        """Send a small frame before all data."""
        self._scheduler.add_control(encode_frame(frame))

    def on_taken(self, stream: StreamState) -> None:
        """A message of `stream` was wholly cut into frames."""
        self._taken.append(stream)

    def forget(self, stream: StreamState) -> None:
        """`stream` is over."""
        self._streams.pop(stream.stream_id, None)
        self._taken.append(stream)

    # Input

    def receive(self, plaintext: bytes, now: float) -> list[Event]:
        """Take a record's plaintext and return what happened.

        Raises:
            ProtocolViolation: The peer broke the protocol; the connection must end.
        """
        events: list[Event] = []
        for frame in decode_frames(plaintext):
            event = self._on_frame(frame, now)
            if event is not None:
                events.append(event)
        return events

    def _on_frame(self, frame: Frame, now: float) -> Event | None:
        match frame:
            case News() | NewsMore():
                message = self._news.read(frame)
                return MessageArrived(*message) if message else None
            case Data() | DataMore():
                if isinstance(frame, Data) and frame.total > MAX_MESSAGE_BYTES:
                    text = f"a message of {frame.total} bytes"
                    raise ProtocolViolation(text, Fault.OVERSIZE)
                stream = self._find(frame.stream_id, now)
                if stream is not None and stream.on_data(frame):
                    return StreamChanged(stream)
                return None
            case Accept():
                raise ProtocolViolation("an Accept that is not the first frame")
            case Goodbye(code):
                return SaidGoodbye(code)
            case _:
                self._spend_control(now)
                return self._on_control(frame, now)

    def _on_control(
        self, frame: Ping | Pong | Open | Credit | End | Reset, now: float
    ) -> Event | None:
        match frame:
            case Ping(token):
                self.add_control(Pong(token))
            case Pong(token):
                return PongArrived(token)
            case Open():
                return self._on_open(frame)
            case Credit(stream_id, amount):
                if stream := self._find(stream_id, now):
                    stream.on_credit(amount)
                    self._scheduler.wake(stream)
            case End(stream_id):
                if stream := self._find(stream_id, now):
                    stream.on_end()
                    return StreamChanged(stream)
            case Reset(stream_id, code):
                if stream := self._find(stream_id, now):
                    stream.on_reset(code)
                    return StreamChanged(stream)
        return None

    def _on_open(self, frame: Open) -> Event | None:
        theirs = frame.stream_id % 2 == self._last_remote_id % 2
        if not theirs or frame.stream_id <= self._last_remote_id:
            raise ProtocolViolation(f"stream {frame.stream_id} cannot be opened")
        self._last_remote_id = frame.stream_id
        open_count = sum(1 for i in self._streams if i % 2 == frame.stream_id % 2)
        if open_count >= self._params.max_streams:
            self.add_control(Reset(frame.stream_id, ResetCode.BUSY))
            return None
        bounds = self._protocols.get(frame.protocol)
        if bounds is None:
            self.add_control(Reset(frame.stream_id, ResetCode.UNKNOWN_PROTOCOL))
            return None
        return StreamOpened(self._build(frame.stream_id, frame.protocol, bounds))

    def _find(self, stream_id: int, now: float) -> StreamState | None:
        stream = self._streams.get(stream_id)
        if stream is None:
            # What was on its way when a stream ended is normal; a stream that never
            # was is not.
            ours = stream_id % 2 == self._next_id % 2
            last = self._next_id - 2 if ours else self._last_remote_id
            if not 0 < stream_id <= last:
                raise ProtocolViolation(f"a frame for unknown stream {stream_id}")
            self._spend_control(now)
        return stream

    def _spend_control(self, now: float) -> None:
        if not self._control_budget.take(1, now):
            raise ProtocolViolation("a flood of control frames", Fault.FLOOD)

    def _build(
        self, stream_id: int, protocol: str, bounds: ProtocolParams
    ) -> StreamState:
        limit = self._params.max_message_bytes
        if bounds.max_message_bytes is not None:
            limit = min(limit, bounds.max_message_bytes)
        stream = StreamState(
            stream_id,
            protocol,
            bounds.priority,
            self._peer_id,
            limit,
            self._pool,
            self,
        )
        self._streams[stream_id] = stream
        return stream
