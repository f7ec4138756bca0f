"""The codec with whatever an enemy sends, and records of every kind of field."""

from enum import IntEnum
from typing import Annotated

import pytest
from hypothesis import given
from mangling import HOSTILE, bounded_memory, judge, mangled, many, values_of
from msgspec import Meta

from primitives.address import decode_address, encode_address
from primitives.buckets import BucketProof, verify_proof
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.merkle import verify_path
from primitives.types import U8, U63, BlsSignature, Hash32


class Colour(IntEnum):
    RED = 1
    BLUE = 200


class Leaf(Record, tag=1):
    digest: Hash32
    colour: Colour
    signature: BlsSignature | None


class Note(Record, tag=2):
    text: Annotated[str, Meta(max_length=30)]
    small: U8
    flag: bool


class Tree(Record, tag=3):
    number: U63
    leaves: tuple[Leaf, ...]
    pairs: Annotated[tuple[tuple[bytes, bytes], ...], Meta(max_length=4)]
    either: Leaf | Note | None


Any_ = Leaf | Note | Tree
values = values_of(Any_)


@many
@given(values)
def test_decoding_undoes_encoding(value):
    assert decode(Any_, encode(value)) == value


@many
@given(mangled(values.map(encode)))
def test_damaged_bytes_are_refused_or_mean_themselves(data):
    judge(lambda data: decode(Any_, data), encode, DecodeError, data)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", [Any_, tuple[Any_, ...], tuple[bytes, ...], bytes])
def test_hostile_bytes_cost_no_more_than_their_length(kind, name):
    data = HOSTILE[name]
    with bounded_memory(len(data)):
        judge(lambda data: decode(kind, data), encode, DecodeError, data)


@many
@given(mangled(values_of(BucketProof).map(encode)))
def test_bucket_proofs_of_strangers_prove_nothing(data):
    proof = judge(lambda data: decode(BucketProof, data), encode, DecodeError, data)
    if proof is not None:
        for levels in (0, 1, 4, 9):
            assert not verify_proof(bytes(32), levels, b"key", b"value", proof)


@many
@given(values_of(tuple[U63, U63, bytes, tuple[bytes, ...]]))
def test_paths_of_strangers_lead_nowhere(claim):
    count, index, leaf, path = claim
    assert not verify_path(bytes(32), count, index, leaf, path)


@many
@given(mangled(values_of(Hash32).map(lambda key: encode_address(key).encode())))
def test_damaged_addresses_are_refused(data):
    text = data.decode(errors="surrogateescape")
    try:
        key = decode_address(text)
    except DecodeError:
        return
    assert encode_address(key) == text.lower()
