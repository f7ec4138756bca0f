"""A connection whose other end sends what it likes, before and after the handshake."""

import tracemalloc
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mangling import HOSTILE, MEGABYTE, bounded_memory, judge, mangled, many
from test_flow import Pair, receive
from test_frames_and_records import build_records, frames

from network.errors import (
    HandshakeFailed,
    ProtocolViolation,
    ResetCode,
    TamperedRecord,
)
from network.frames import Data, Frame, News, Open, Reset, decode_frames, encode_frame
from network.handshake import MAX_MESSAGE, Handshake, LocalIdentity
from network.mux import StreamOpened
from network.streams import WINDOW_BYTES
from primitives.keys import SecretKey

ALICE = LocalIdentity(SecretKey(b"a" * 32), b"chain", 4001)
BOB = LocalIdentity(SecretKey(b"b" * 32), b"chain", 0)

plaintexts = st.lists(frames, min_size=1, max_size=4).map(
    lambda many: b"".join(map(encode_frame, many))
)


def encode_all(decoded):
    return b"".join(map(encode_frame, decoded))


# Frames and records


@many
@given(mangled(plaintexts))
def test_damaged_frames_are_refused_or_mean_themselves(data):
    judge(decode_frames, encode_all, ProtocolViolation, data)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_are_refused(name):
    data = HOSTILE[name][: 64 * 1024]
    with bounded_memory(len(data)), pytest.raises(ProtocolViolation):
        decode_frames(data)


@many
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4), st.data())
def test_damaged_records_give_a_prefix_and_then_nothing(plain, data):
    alice, bob = build_records()
    sealed = b"".join(alice.seal(each) for each in plain)
    raw = data.draw(mangled(st.just(sealed)))
    bob.feed(raw)
    received = []
    try:
        while (each := bob.next_plaintext()) is not None:
            received.append(each)
    except TamperedRecord:
        pass
    assert received == plain[: len(received)]


# The handshake


@settings(max_examples=150)
@given(st.integers(0, 2), st.data())
def test_a_damaged_handshake_fails_with_its_own_error(which, data):
    """One of the three messages is damaged; nobody believes in a wrong peer."""
    initiator = Handshake(initiator=True, identity=ALICE, expected=BOB.peer_id)
    responder = Handshake(initiator=False, identity=BOB)
    sides = [responder, initiator, responder]
    message = initiator.start()
    is_whole = True
    for number, side in enumerate(sides):
        if number == which:
            raw = data.draw(mangled(st.just(message)))
            is_whole, message = raw == message, raw
        try:
            message = side.receive(message)
        except HandshakeFailed:
            assert not is_whole
            return
        if not message and number < 2:
            assert not is_whole  # it waits for the rest
            return
    for side, identity in ((initiator, BOB), (responder, ALICE)):
        if side.remote is not None:
            assert side.remote.peer_id == identity.peer_id
            assert side.remote.listen_port == identity.listen_port


@many
@given(st.booleans(), st.lists(st.binary(max_size=600), max_size=4))
def test_rubbish_is_no_handshake(is_initiator, pieces):
    side = Handshake(initiator=is_initiator, identity=ALICE)
    side.start()
    preamble = [BOB.preamble]
    try:
        for piece in preamble + pieces:
            side.receive(piece)
    except HandshakeFailed:
        pass
    assert not side.is_finished
    assert side.remote is None


@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, 65_535])
def test_long_promises_in_a_handshake_are_refused_at_once(size):
    side = Handshake(initiator=False, identity=ALICE)
    with pytest.raises(HandshakeFailed):
        side.receive(BOB.preamble + size.to_bytes(2, "big"))


# Frames that are whole and make no sense together


@many
@given(st.lists(frames, max_size=25))
def test_whole_frames_in_any_order_are_violations_at_worst(many: list[Frame]):
    bob = Pair().bob
    try:
        receive(bob, Open(1, "echo"))
        for frame in many:
            receive(bob, frame)
    except ProtocolViolation:
        return


numbers = st.sampled_from([1, 3, 5])
talk: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Open, numbers, st.sampled_from(["echo", "small", "nothing"])),
    st.builds(lambda i, d: Data(i, len(d), d), numbers, st.binary(max_size=200)),
    st.builds(Reset, numbers, st.sampled_from(ResetCode)),
    frames,
)


@settings(max_examples=150)
@given(st.lists(talk, max_size=40))
def test_plausible_talk_keeps_to_the_bounds(many: list[Frame]):
    pair = Pair()
    try:
        for frame in many:
            receive(pair.bob, frame)
            assert pair.bob.stream_count <= pair.params.max_streams
            assert pair.pool.held_bytes <= pair.params.reserve_bytes_per_peer
    except ProtocolViolation:
        return


def receive_forever(mux, plaintext):
    for _ in range(10_000):
        mux.receive(plaintext, 0.0)


@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_small_messages_that_nobody_reads_fill_the_window_too(size):
    """However small the messages of a stream are, what waits is bounded."""
    bob = Pair().bob
    (event,) = receive(bob, Open(1, "echo"))
    assert isinstance(event, StreamOpened)
    lot = encode_frame(Data(1, size, bytes(size))) * 100
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation, match="credit"):
            receive_forever(bob, lot)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * WINDOW_BYTES


def test_small_messages_that_are_read_never_stop():
    pair = Pair()
    ours, theirs = pair.open()
    for number in range(20_000):
        pair.send(ours, number.to_bytes(3, "big") * (number % 2))
        if number % 500 == 499:
            pair.settle()
            got = list(iter(theirs.take_message, None))
            assert len(got) == 500
            assert got[-1] == number.to_bytes(3, "big")
            pair.settle()


def test_empty_news_is_bounded_by_the_budget():
    bob = Pair().bob
    with bounded_memory(MEGABYTE):
        for _ in range(5000):
            events = receive(bob, News(1, False, 0, b""))
            assert len(events) <= 1
    assert list(islice(events, 1))
