"""Frames and records: one form each, and nothing else gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.errors import GoodbyeCode, ProtocolViolation, ResetCode, TamperedRecord
from network.frames import (
    HEADER_BYTES,
    MAX_BODY,
    MAX_DATA,
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
from network.noise import CipherState
from network.records import MAX_PLAINTEXT, RecordLayer, RekeyingCipher

u8 = st.integers(0, 255)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
some = st.binary(min_size=1, max_size=300)
names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64
)
starts = st.one_of(
    st.binary(max_size=300).map(lambda data: (len(data), data)),
    st.integers(MAX_DATA + 1, 2**32 - 1).map(lambda total: (total, bytes(MAX_DATA))),
)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Ping, u64),
    st.builds(Pong, u64),
    st.just(Accept()),
    st.builds(Goodbye, st.sampled_from(GoodbyeCode)),
    st.builds(lambda t, d, s: News(t, d, *s), u8, st.booleans(), starts),
    st.builds(NewsMore, u8, some),
    st.builds(Open, u32, names),
    st.builds(lambda i, s: Data(i, *s), u32, starts),
    st.builds(DataMore, u32, some),
    st.builds(Credit, u32, st.integers(1, 2**32 - 1)),
    st.builds(End, u32),
    st.builds(Reset, u32, st.sampled_from(ResetCode)),
)


@given(st.lists(frames, max_size=5))
def test_frames_round_trip(many: list[Frame]) -> None:
    plaintext = b"".join(encode_frame(frame) for frame in many)
    assert decode_frames(plaintext) == many


@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_a_cut_record_is_refused(many: list[Frame], data: st.DataObject) -> None:
    plaintext = b"".join(encode_frame(frame) for frame in many)
    ends, position = {0}, 0
    for frame in many:
        position += len(encode_frame(frame))
        ends.add(position)
    cut = data.draw(st.integers(1, len(plaintext) - 1))
    if cut in ends:
        assert len(decode_frames(plaintext[:cut])) < len(many)
    else:
        with pytest.raises(ProtocolViolation):
            decode_frames(plaintext[:cut])


@given(st.binary(max_size=200))
def test_what_decodes_encodes_to_the_same_bytes(plaintext: bytes) -> None:
    try:
        decoded = decode_frames(plaintext)
    except ProtocolViolation:
        return
    assert b"".join(encode_frame(frame) for frame in decoded) == plaintext


@given(kind=st.integers(0, 14), body=st.binary(max_size=90))
def test_bodies_of_every_type_decode_canonically(kind: int, body: bytes) -> None:
    plaintext = bytes([kind]) + len(body).to_bytes(2, "big") + body
    try:
        (frame,) = decode_frames(plaintext)
    except ProtocolViolation:
        return
    assert encode_frame(frame) == plaintext


def pack(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    "plaintext",
    [
        pack(0, b""),
        pack(13, b""),
        pack(1, bytes(7)),
        pack(1, bytes(9)),
        pack(3, b"x"),
        pack(4, b"\xff"),
        pack(5, b"\x01\x02" + bytes(4)),  # a flag of 2
        pack(5, b"\x01\x00" + (5).to_bytes(4, "big") + b"four"),
        pack(5, b"\x01\x00" + (3).to_bytes(4, "big") + b"four"),
        pack(6, b"\x01"),
        pack(6, b""),
        pack(7, bytes(4)),
        pack(7, bytes(4) + b"has space"),
        pack(7, bytes(4) + b"\xff"),
        pack(7, bytes(4) + b"n" * 65),
        pack(8, bytes(4) + (100_000).to_bytes(4, "big") + b"too little"),
        pack(9, bytes(4)),
        pack(10, bytes(8)),
        pack(12, bytes(4) + b"\xff"),
        bytes([8]) + (MAX_BODY + 1).to_bytes(2, "big") + bytes(MAX_BODY + 1),
        b"\x01",
    ],
)
def test_other_forms_are_refused(plaintext: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_frames(plaintext)


def test_the_largest_frames_fit_in_a_record() -> None:
    frame = encode_frame(Data(2**32 - 1, 2**32 - 1, bytes(MAX_DATA)))
    assert len(frame) <= HEADER_BYTES + MAX_BODY
    # Control up to one frame's worth, and data that ends with a full frame.
    assert MAX_DATA + 2 * (HEADER_BYTES + MAX_BODY) <= MAX_PLAINTEXT


def build_records(max_records: int = 3, max_bytes: int = 10_000):
    def cipher(key: int) -> RekeyingCipher:
        return RekeyingCipher(CipherState(bytes([key]) * 32), max_records, max_bytes)

    alice = RecordLayer(cipher(1), cipher(2))
    bob = RecordLayer(cipher(2), cipher(1))
    return alice, bob


@given(
    st.lists(st.binary(min_size=1, max_size=4000), max_size=12), st.integers(1, 3000)
)
def test_records_survive_any_cutting_and_rekeying(
    plaintexts: list[bytes], chunk: int
) -> None:
    alice, bob = build_records()
    wire = b"".join(alice.seal(plaintext) for plaintext in plaintexts)
    received = []
    for start in range(0, len(wire), chunk):
        bob.feed(wire[start : start + chunk])
        while (plaintext := bob.next_plaintext()) is not None:
            received.append(plaintext)
    assert received == plaintexts


def test_the_key_changes_after_the_bound() -> None:
    rekeying = build_records(max_records=2)[0]
    constant = build_records(max_records=1000)[0]
    same = [rekeying.seal(b"x") == constant.seal(b"x") for _ in range(4)]
    assert same == [True, True, False, False]
    by_bytes = build_records(max_records=1000, max_bytes=20)[0]
    constant = build_records(max_records=1000)[0]
    same = [by_bytes.seal(b"abcd") == constant.seal(b"abcd") for _ in range(2)]
    assert same == [True, False]


def test_one_side_without_rekeying_is_found() -> None:
    alice = build_records(max_records=1)[0]
    bob = build_records(max_records=1000)[1]
    bob.feed(alice.seal(b"1") + alice.seal(b"2"))
    assert bob.next_plaintext() == b"1"
    with pytest.raises(TamperedRecord):
        bob.next_plaintext()


@given(st.data())
def test_a_flipped_bit_in_a_record_is_found(data: st.DataObject) -> None:
    alice, bob = build_records()
    wire = bytearray(alice.seal(b"a plaintext"))
    index = data.draw(st.integers(0, len(wire) - 1))
    wire[index] ^= 1 << data.draw(st.integers(0, 7))
    bob.feed(bytes(wire))
    try:
        assert bob.next_plaintext() is None  # a longer length: waits for more
        bob.feed(bytes(70_000))
        with pytest.raises(TamperedRecord):
            bob.next_plaintext()
    except TamperedRecord:
        pass


@pytest.mark.parametrize("length", [0, 1, 16])
def test_a_record_without_content_is_refused(length: int) -> None:
    _, bob = build_records()
    bob.feed(length.to_bytes(2, "big") + bytes(length))
    with pytest.raises(TamperedRecord):
        bob.next_plaintext()
