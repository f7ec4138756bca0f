"""
Frames: what the plaintext of a record is made of.

    type    u8
    length  u16, big-endian, of the body
    body

A record holds one frame or more, and no frame crosses a record.  A message longer
than one frame is cut: its first frame tells the whole length, and the rest follow in
order within their topic or stream, with frames of others between them.  So a vote
waits for a frame of 16 KiB, never for a tensor.

Decoding is strict: unknown types, empty continuations, leftovers and lengths that do
not fit are a `ProtocolViolation`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from network.errors import GoodbyeCode, ProtocolViolation, ResetCode

MAX_DATA = 16 * 1024
"""Payload bytes of one frame: 1.3 ms on a line of 100 Mbit/s."""
HEADER_BYTES = 3
MAX_BODY = MAX_DATA + 16
MAX_PROTOCOL_NAME = 64
MAX_STREAM_ID = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong with the same token."""

    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping."""

    token: int


@dataclass(frozen=True, slots=True)
class Accept:
    """The responder's first frame: the connection is made."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender's last frame: it ends the connection and says why."""

    code: GoodbyeCode


@dataclass(frozen=True, slots=True)
class News:
    """Begins a gossip message."""

    topic: int
    """Number of a topic; the receiver judges whether it knows it."""
    direct: bool
    """Meant for this peer alone and not to be forwarded."""
    total: int
    """Bytes of the whole message."""
    data: bytes


@dataclass(frozen=True, slots=True)
class NewsMore:
    """Continues the topic's message."""

    topic: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Open:
    """Opens a stream; the initiator's ids are odd, the responder's even."""

    stream_id: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Data:
    """Begins a message of a stream."""

    stream_id: int
    total: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DataMore:
    """Continues the stream's message."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Credit:
    """Allows the receiver to send so many bytes more on a stream."""

    stream_id: int
    amount: int


@dataclass(frozen=True, slots=True)
class End:
    """Everything was sent, and nothing more will be read."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The stream is given up."""

    stream_id: int
    code: ResetCode


Frame = (
    Ping
    | Pong
    | Accept
    | Goodbye
    | News
    | NewsMore
    | Open
    | Data
    | DataMore
    | Credit
    | End
    | Reset
)

_HEADER = struct.Struct(">BH")
_U8 = struct.Struct(">B")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_NEWS = struct.Struct(">BBI")
_TWO_U32 = struct.Struct(">II")
_RESET = struct.Struct(">IB")


def encode_frame(frame: Frame) -> bytes:
    """Return type, length and body of a frame."""
    kind, body = _encode_body(frame)
    assert len(body) <= MAX_BODY
    return _HEADER.pack(kind, len(body)) + body


def decode_frames(plaintext: bytes) -> list[Frame]:
    """Return the frames of one record.

    Raises:
        ProtocolViolation: Anything but whole frames in their one form.
    """
    frames = []
    position = 0
    while position < len(plaintext):
        start = position + HEADER_BYTES
        if start > len(plaintext):
            raise ProtocolViolation("a frame's header is cut off")
        kind, length = _HEADER.unpack_from(plaintext, position)
        position = start + length
        if length > MAX_BODY or position > len(plaintext):
            raise ProtocolViolation(f"a frame of {length} bytes does not fit")
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise ProtocolViolation(f"unknown frame type {kind}")
        try:
            frames.append(decoder(plaintext[start:position]))
        except (struct.error, ValueError) as error:
            raise ProtocolViolation(f"frame type {kind}: {error}") from error
    return frames


def _encode_body(frame: Frame) -> tuple[int, bytes]:
    match frame:
        case Ping(token):
            return 1, _U64.pack(token)
        case Pong(token):
            return 2, _U64.pack(token)
        case Accept():
            return 3, b""
        case Goodbye(code):
            return 4, _U8.pack(code)
        case News(topic, direct, total, data):
            return 5, _NEWS.pack(topic, direct, total) + data
        case NewsMore(topic, data):
            return 6, _U8.pack(topic) + data
        case Open(stream_id, protocol):
            return 7, _U32.pack(stream_id) + protocol.encode("ascii")
        case Data(stream_id, total, data):
            return 8, _TWO_U32.pack(stream_id, total) + data
        case DataMore(stream_id, data):
            return 9, _U32.pack(stream_id) + data
        case Credit(stream_id, amount):
            return 10, _TWO_U32.pack(stream_id, amount)
        case End(stream_id):
            return 11, _U32.pack(stream_id)
        case Reset(stream_id, code):
            return 12, _RESET.pack(stream_id, code)


def _decode_accept(body: bytes) -> Accept:
    if body:
        raise ValueError("a body where none belongs")
    return Accept()


def _decode_news(body: bytes) -> News:
    topic, direct, total = _NEWS.unpack_from(body)
    if direct > 1:
        raise ValueError("a flag that is neither 0 nor 1")
    data = body[_NEWS.size :]
    return News(topic, bool(direct), total, _validate_start(total, data))


def _decode_news_more(body: bytes) -> NewsMore:
    return NewsMore(body[0] if body else 0, _validate_more(body[1:]))


def _decode_open(body: bytes) -> Open:
    (stream_id,) = _U32.unpack_from(body)
    name = body[_U32.size :].decode("ascii")
    validate_protocol_name(name)
    return Open(stream_id, name)


def _decode_data(body: bytes) -> Data:
    stream_id, total = _TWO_U32.unpack_from(body)
    return Data(stream_id, total, _validate_start(total, body[_TWO_U32.size :]))


def _decode_data_more(body: bytes) -> DataMore:
    (stream_id,) = _U32.unpack_from(body)
    return DataMore(stream_id, _validate_more(body[_U32.size :]))


def _decode_credit(body: bytes) -> Credit:
    stream_id, amount = _TWO_U32.unpack(body)
    if not amount:
        raise ValueError("a credit of nothing")
    return Credit(stream_id, amount)


def _decode_reset(body: bytes) -> Reset:
    stream_id, code = _RESET.unpack(body)
    return Reset(stream_id, ResetCode(code))


def _validate_start(total: int, data: bytes) -> bytes:
    # A first frame is as full as it can be: there is one way to cut a message.
    if len(data) != min(total, MAX_DATA):
        raise ValueError(f"{len(data)} bytes begin a message of {total}")
    return data


def _validate_more(data: bytes) -> bytes:
    if not 0 < len(data) <= MAX_DATA:
        raise ValueError(f"a continuation of {len(data)} bytes")
    return data


def validate_protocol_name(name: str) -> None:
    """Raise ValueError unless `name` is 1 to 64 printable ASCII characters."""
    if not 0 < len(name) <= MAX_PROTOCOL_NAME:
        raise ValueError(f"a protocol name of {len(name)} characters")
    if any(not "!" <= character <= "~" for character in name):
        raise ValueError("a protocol name that is not printable ASCII")


_DECODERS: dict[int, Callable[[bytes], Frame]] = {
    1: lambda body: Ping(*_U64.unpack(body)),
    2: lambda body: Pong(*_U64.unpack(body)),
    3: _decode_accept,
    4: lambda body: Goodbye(GoodbyeCode(*_U8.unpack(body))),
    5: _decode_news,
    6: _decode_news_more,
    7: _decode_open,
    8: _decode_data,
    9: _decode_data_more,
    10: _decode_credit,
    11: lambda body: End(*_U32.unpack(body)),
    12: _decode_reset,
}
