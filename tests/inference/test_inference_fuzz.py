"""Frames of sessions and of workers, damaged in every way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mangling import HOSTILE, bounded_memory, judge, mangled, many, values_of

from inference.protocol import messages
from inference.protocol.errors import BadMessage
from inference.protocol.messages import MAX_FRAME_BYTES, Data, Message
from inference.worker import wire as worker_wire
from inference.worker.wire import Answer, Request
from primitives.codec import encode
from primitives.errors import DecodeError

bodies = st.binary(max_size=64)


def frame(message, body=b""):
    return messages.encode_frame(message, body if isinstance(message, Data) else b"")


frames = st.builds(frame, values_of(Message), bodies)


@settings(max_examples=200)
@given(values_of(Message), bodies)
def test_frames_survive_encoding(message, body):
    body = body if isinstance(message, Data) else b""
    assert messages.decode_frame(frame(message, body)) == (message, body)


@settings(max_examples=200)
@given(mangled(frames))
def test_damaged_frames_are_refused_or_mean_themselves(data):
    judge(
        messages.decode_frame,
        lambda value: messages.encode_frame(*value),
        BadMessage,
        data,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_are_refused(name):
    data = HOSTILE[name]
    for size in (len(data), 4096, 0):
        lie = size.to_bytes(4, "big") + data
        with bounded_memory(len(lie)), pytest.raises(BadMessage):
            messages.decode_frame(lie)
    with pytest.raises(BadMessage):
        messages.decode_frame(data, max_body=100)


def test_a_frame_beyond_the_bound_is_refused_unread():
    with pytest.raises(BadMessage):
        messages.decode_frame(bytes(MAX_FRAME_BYTES + 1))


@many
@given(st.binary(min_size=8, max_size=8))
def test_prefixes_of_workers_are_bounded(prefix):
    try:
        header, payload = worker_wire.decode_prefix(prefix)
    except DecodeError:
        return
    assert 0 < header <= worker_wire.MAX_HEADER_BYTES
    assert 0 <= payload <= worker_wire.MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("kind", "decode"),
    [(Request, worker_wire.decode_request), (Answer, worker_wire.decode_answer)],
)
@settings(max_examples=150)
@given(data=st.data())
def test_damaged_headers_of_workers_are_refused(kind, decode, data):
    raw = data.draw(mangled(values_of(kind).map(encode)))
    judge(decode, encode, DecodeError, raw)
