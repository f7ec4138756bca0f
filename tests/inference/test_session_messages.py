"""Frames: what was encoded comes back, and nothing else is taken."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.records.channel import Payment, Voucher
from chain.records.proof import Receipt
from inference.protocol.activations import compute_digest
from inference.protocol.errors import BadMessage
from inference.protocol.messages import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    MAX_HOPS,
    MAX_PREFIX_KEYS,
    MAX_TEXT,
    Abort,
    Accept,
    Data,
    Finish,
    HopTiming,
    Note,
    Open,
    Pay,
    Probe,
    Progress,
    Refuse,
    SessionTerms,
    SignedInput,
    clip_text,
    compute_open_message,
    decode_frame,
    encode_frame,
    verify_open,
)
from inference.protocol.receipts import (
    Range,
    compute_history_root,
    compute_input_hash,
    sign_input,
)
from inference.protocol.steps import Schedule
from primitives.codec import encode
from primitives.keys import SecretKey

hash32 = st.binary(min_size=32, max_size=32)
signature = st.binary(min_size=64, max_size=64)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)
text = st.text(max_size=MAX_TEXT)
vouchers = st.builds(Voucher, hash32, u63, hash32, u63, st.integers(0, 1024), signature)
payments = st.builds(Payment, st.none() | vouchers, st.integers(0, 1024), hash32)
receipts = st.builds(
    Receipt, hash32, hash32, hash32, hash32, hash32, hash32, u16, u16, u32, u32,
    hash32, hash32, hash32, u32, u63, hash32, hash32, u63, signature,
)  # fmt: skip
inputs = st.builds(SignedInput, hash32, hash32, u32, u32, hash32, hash32, signature)
timings = st.lists(st.builds(HopTiming, u32, u32), max_size=MAX_HOPS).map(tuple)
u8 = st.integers(0, 255)
terms = st.builds(
    SessionTerms, u8, hash32, hash32, u16, hash32, hash32, u16, u16, hash32, hash32,
    hash32, u63, u63, u63, u32, u32, u32, u8, st.none() | hash32, st.none() | hash32,
)  # fmt: skip
data = st.builds(
    Data, hash32, u16, u32, u32, u16, u32, u8, timings, st.none() | inputs,
    st.none() | receipts,
)  # fmt: skip
messages = st.one_of(
    st.builds(
        Open, terms, st.none() | payments, signature, st.lists(hash32).map(tuple)
    ),
    st.builds(Accept, hash32, u32, u32, st.booleans()),
    st.builds(Refuse, hash32, u16, text, u63),
    data,
    st.builds(Pay, hash32, u32, u32, payments),
    st.builds(Note, receipts),
    st.builds(Finish, hash32, u16, u32, st.none() | inputs, st.none() | receipts),
    st.builds(Abort, hash32, u16, text, st.none() | hash32),
    st.builds(Probe, hash32, u32),
    st.builds(Progress, hash32, u32, u8, u32),
)


@given(messages)
def test_frames_round_trip(message):
    frame = encode_frame(message)
    assert decode_frame(frame) == (message, b"")
    assert encode_frame(*decode_frame(frame)) == frame


@given(data, st.binary(max_size=300))
def test_data_carries_its_body(message, body):
    frame = encode_frame(message, body)
    assert decode_frame(frame, len(body)) == (message, body)
    with pytest.raises(BadMessage):
        decode_frame(frame + b"\0" * (MAX_HEADER_BYTES + 1), len(body))


@given(messages.filter(lambda m: not isinstance(m, Data)), st.binary(min_size=1))
def test_nothing_else_has_a_body(message, body):
    with pytest.raises(BadMessage):
        decode_frame(encode_frame(message) + body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_typed_error(junk):
    try:
        message, body = decode_frame(junk)
    except BadMessage:
        return
    assert encode_frame(message, body) == junk


@given(messages, st.data())
def test_damaged_frames_are_another_frame_or_a_typed_error(message, draw):
    frame = bytearray(encode_frame(message))
    index = draw.draw(st.integers(0, len(frame) - 1))
    frame[index] ^= draw.draw(st.integers(1, 255))
    try:
        other, body = decode_frame(bytes(frame))
    except BadMessage:
        return
    assert encode_frame(other, body) == bytes(frame)
    assert (other, body) != (message, b"")


@given(messages, st.integers(0, 100))
def test_cut_frames_are_refused(message, cut):
    frame = encode_frame(message)
    with pytest.raises(BadMessage):
        decode_frame(frame[: max(0, len(frame) - 1 - cut)])


def test_bounds():
    with pytest.raises(BadMessage, match="a frame of"):
        decode_frame(bytes(4 + MAX_HEADER_BYTES + MAX_BODY_BYTES + 1))
    with pytest.raises(BadMessage, match="a header of"):
        decode_frame((MAX_HEADER_BYTES + 1).to_bytes(4, "big") + bytes(5000))
    long = encode([8, bytes(32), 1, "x" * (MAX_TEXT + 1), None])
    with pytest.raises(BadMessage):
        decode_frame(len(long).to_bytes(4, "big") + long)


def test_longest_messages_fit():
    receipt = Receipt(
        *[b"\xff" * 32] * 6, 65535, 65535, 2**32 - 1, 2**32 - 1, *[b"\xff" * 32] * 3,
        2**32 - 1, 2**63 - 1, b"\xff" * 32, b"\xff" * 32, 2**63 - 1, b"\xff" * 64,
    )  # fmt: skip
    said = SignedInput(
        b"\xff" * 32,
        b"\xff" * 32,
        2**32 - 1,
        2**32 - 1,
        *[b"\xff" * 32] * 2,
        b"\xff" * 64,
    )
    times = (HopTiming(2**32 - 1, 2**32 - 1),) * MAX_HOPS
    longest = Data(
        b"\xff" * 32, 65535, 2**32 - 1, 2**32 - 1, 65535, 2**32 - 1, 255, times, said,
        receipt,
    )  # fmt: skip
    assert len(encode_frame(longest)) < MAX_HEADER_BYTES
    voucher = Voucher(
        b"\xff" * 32, 2**63 - 1, b"\xff" * 32, 2**63 - 1, 1024, b"\xff" * 64
    )
    terms = SessionTerms(
        255, *[b"\xff" * 32] * 2, 65535, *[b"\xff" * 32] * 2, 65535, 65535,
        *[b"\xff" * 32] * 3, *[2**63 - 1] * 3, *[2**32 - 1] * 3, 255,
        *[b"\xff" * 32] * 2,
    )  # fmt: skip
    opening = Open(
        terms,
        Payment(voucher, 1024, b"\xff" * 32),
        b"\xff" * 64,
        (b"\xff" * 32,) * MAX_PREFIX_KEYS,
    )
    assert len(encode_frame(opening)) < MAX_HEADER_BYTES
    assert len(encode_frame(Abort(bytes(32), 1, clip_text("ß" * 999), bytes(32)))) < 600


@given(terms, hash32)
def test_terms_are_bound_to_their_signature(asked, seed):
    key = SecretKey(seed)
    asked = msgspec.structs.replace(asked, signer=key.public_key)
    signed = Open(asked, None, key.sign(compute_open_message(asked)))
    assert verify_open(signed)
    richer = msgspec.structs.replace(asked, max_positions=asked.max_positions ^ 1)
    assert not verify_open(Open(richer, None, signed.signature))


def test_vectors_of_the_protocol_page():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "protocol" / "07-inference.md").read_text()
    vectors = page.split("## Vectors")[1]
    session, chain = b"\5" * 32, b"\6" * 32
    key = SecretKey(bytes(range(32)))

    probe = "".join(line.strip() for line in vectors.splitlines() if line[:4] == "    ")
    assert decode_frame(bytes.fromhex(probe)) == (Probe(session, 7), b"")

    body = bytes(64)
    step = Schedule(prompt_tokens=2, max_positions=3).propose()
    work = Range().add(step, 0, compute_digest(body), b"")
    said = sign_input(chain, session, work, key.public_key, key.sign)
    data = Data(session, 0, 0, 0, 2, 8, 1, (), said, None)
    for value in (
        compute_digest(body),
        work.in_hash,
        said.signature[:32],
        said.signature[32:],
        compute_input_hash(said),
        compute_history_root(bytes(32), 0, 2, work.in_hash),
        compute_digest(encode_frame(data, body)),
    ):
        assert f"`{value.hex()}`" in vectors
