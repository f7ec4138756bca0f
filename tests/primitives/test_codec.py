import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import U16, U63, Hash32


class Inner(Record):
    digest: Hash32
    flag: bool


class Outer(Record, tag=1):
    number: U63
    small: U16
    text: str
    inner: tuple[Inner, ...]


class Other(Record, tag=2):
    number: U63


hashes = st.binary(min_size=32, max_size=32)
inners = st.builds(Inner, digest=hashes, flag=st.booleans())
outers = st.builds(
    Outer,
    number=st.integers(0, 2**63 - 1),
    small=st.integers(0, 2**16 - 1),
    text=st.text(max_size=20),
    inner=st.lists(inners, max_size=3).map(tuple),
)


@given(outers)
def test_decoding_undoes_encoding(value: Outer) -> None:
    assert decode(Outer, encode(value)) == value
    assert decode(Outer | Other, encode(value)) == value


@given(st.binary(max_size=200))
def test_what_decodes_encodes_to_the_same_bytes(data: bytes) -> None:
    try:
        value = decode(Outer | Other, data)
    except DecodeError:
        return
    assert encode(value) == data


@given(outers, st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value, data) -> None:
    encoded = bytearray(encode(value))
    index = data.draw(st.integers(0, len(encoded) - 1))
    encoded[index] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DecodeError):
        assert decode(Outer, bytes(encoded)) != value


GOOD = Outer(number=5, small=6, text="x", inner=())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(GOOD) + b"\x00",
        encode(GOOD)[:-1],
        msgspec.msgpack.encode((1, 5, 6, "x", (), 7)),
        msgspec.msgpack.encode((1, 5, 6, "x")),
        msgspec.msgpack.encode((2, 5, 6, "x", ())),
        msgspec.msgpack.encode((1, -5, 6, "x", ())),
        msgspec.msgpack.encode((1, 2**63, 6, "x", ())),
        msgspec.msgpack.encode((1, 5, 2**16, "x", ())),
        msgspec.msgpack.encode((1, 5.0, 6, "x", ())),
        msgspec.msgpack.encode((1, True, 6, "x", ())),
        msgspec.msgpack.encode({"number": 5}),
        b"\x95\x01\xcc\x05\x06\xa1x\x90",  # five spelled in two bytes
        b"\xdc\x00\x05\x01\x05\x06\xa1x\x90",  # the array's length in three bytes
        b"\x95\x01\x05\x06\xd9\x01x\x90",  # the text's length in two bytes
        b"\x95\x01\x05\x06\xa1\xff\x90",  # text that is not UTF-8
        b"\x91" * 5000,
    ],
)
def test_only_the_canonical_encoding_decodes(data: bytes) -> None:
    assert decode(Outer, encode(GOOD)) == GOOD
    with pytest.raises(DecodeError):
        decode(Outer, data)


def test_input_beyond_the_bound_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match="at most 3"):
        decode(Outer, encode(GOOD), max_bytes=3)


def test_a_digest_of_the_wrong_length_is_refused() -> None:
    for length in (0, 31, 33):
        data = msgspec.msgpack.encode((bytes(length), True))
        with pytest.raises(DecodeError):
            decode(Inner, data)


def test_golden_bytes() -> None:
    value = Outer(number=300, small=7, text="p2p", inner=(Inner(bytes(32), True),))
    expected = "9501cd012c07a3703270" + "9192c420" + "00" * 32 + "c3"
    assert encode(value).hex() == expected
