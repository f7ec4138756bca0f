"""What nodes say about weights on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.weights.pieces import Part
from p2pchain.node.weights.messages import (
    decode_hash,
    decode_offer,
    encode_offer,
)
from primitives.errors import DecodeError


def make_parts(count: int) -> list[Part]:
    return [Part(number.to_bytes(32, "big"), 1) for number in range(count)]


def number(parts: list[Part]) -> dict[bytes, int]:
    return {part.digest: number for number, part in enumerate(parts)}


@given(st.integers(1, 60), st.data())
def test_an_offer_says_what_is_held(count: int, data: st.DataObject) -> None:
    parts = make_parts(count)
    held = data.draw(st.sets(st.sampled_from(parts)))
    digests = {part.digest for part in held}
    offer = decode_offer(
        encode_offer(parts, digests.__contains__), number(parts)
    )  # fmt: skip
    assert {part for part in parts if part in offer} == held
    assert Part(b"x" * 32, 1) not in offer
    assert "a part" not in offer


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0", b"\0\x20", b"\0\xff"])
def test_an_offer_of_other_parts_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_offer(data, number(make_parts(13)))


@given(st.binary(max_size=4))
def test_any_bytes_are_an_offer_or_refused(data: bytes) -> None:
    parts = make_parts(13)
    try:
        offer = decode_offer(data, number(parts))
    except DecodeError:
        return
    assert encode_offer(parts, lambda d: Part(d, 1) in offer) == data


def test_a_question_is_a_hash() -> None:
    assert decode_hash(b"h" * 32) == b"h" * 32
    for size in (0, 31, 33):
        with pytest.raises(DecodeError):
            decode_hash(bytes(size))
