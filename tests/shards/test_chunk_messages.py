"""Messages of producers and endorsers: bytes, bounds, bodies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_world import (
    Chain,
    Town,
    compute_in_root,
    make_next,
    make_proofs,
    replace,
)

from primitives.codec import encode
from primitives.errors import DecodeError
from shards.certificate import CertifiedChunk
from shards.chunk import Counter
from shards.errors import InvalidChunk
from shards.messages import (
    MAX_SMALL_BYTES,
    MAX_WITNESS_BYTES,
    Certified,
    ProducedChunk,
    decode_message,
    encode_message,
    validate_body,
)

TOWN = Town([10] * 4)
PROOFS = make_proofs(2)
BLOCKS = Chain()
HEADER = make_next(
    BLOCKS.tips[1],
    epoch=0,
    view=5,
    anchor=BLOCKS.parent,
    producer=1,
    transactions=(b"a", b"b"),
    in_cursor=(Counter(2, 2),),
    in_root=compute_in_root(PROOFS),
)
PRODUCED = ProducedChunk(HEADER, bytes(96), (b"a", b"b"), PROOFS, b"witness")
MESSAGES = [
    PRODUCED,
    TOWN.endorse(HEADER, 2),
    Certified(CertifiedChunk(HEADER, TOWN.certify(HEADER, [1, 2]))),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_there_and_back(message):
    assert decode_message(encode_message(message)) == message


@given(st.sampled_from(MESSAGES), st.integers(0, 2**20), st.binary(min_size=1))
def test_damaged_bytes(message, place, junk):
    data = encode_message(message)
    place %= len(data)
    damaged = data[:place] + junk
    if damaged == data[: len(damaged)]:
        return
    try:
        again = decode_message(damaged)
    except DecodeError:
        return
    assert encode_message(again) == damaged


def test_small_messages_stay_small():
    counters = tuple(Counter(shard, 2**62) for shard in range(1000))
    header = replace(HEADER, in_cursor=counters)
    chunk = CertifiedChunk(header, TOWN.certify(HEADER, [1]))
    data = encode_message(Certified(chunk))
    assert len(data) > MAX_SMALL_BYTES
    with pytest.raises(DecodeError, match="bytes of a Certified"):
        decode_message(data)


def test_the_largest_certified_chunk_is_small():
    counters = tuple(Counter(2**16 - 64 + i, 2**62) for i in range(64))
    header = replace(HEADER, in_cursor=counters, out_count=counters, work=2**62)
    chunk = CertifiedChunk(header, TOWN.certify(HEADER, [1]))
    assert len(encode_message(Certified(chunk))) <= MAX_SMALL_BYTES


def test_witnesses_are_bounded():
    decode_message(encode(replace(PRODUCED, witness=bytes(MAX_WITNESS_BYTES))))
    with pytest.raises(DecodeError):
        decode_message(encode(replace(PRODUCED, witness=bytes(MAX_WITNESS_BYTES + 1))))


def test_bodies():
    validate_body(PRODUCED)
    validate_body(replace(PRODUCED, witness=b"another", signature=b"1" * 96))
    for changes in (
        {"transactions": (b"a",)},
        {"transactions": (b"a", b"c")},
        {"transactions": (b"b", b"a")},
        {"packets": ()},
        {"packets": PROOFS[::-1]},
        {"packets": make_proofs(2, first=1)},
    ):
        with pytest.raises(InvalidChunk):
            validate_body(replace(PRODUCED, **changes))
