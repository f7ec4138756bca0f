"""What peers ask and answer about the chain, with answers that nobody should trust."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mangling import HOSTILE, bounded_memory, judge, mangled, values_of

from p2pchain.node.consensus import sync_messages
from p2pchain.node.consensus.sync_messages import (
    MAX_RANGE_BYTES,
    MAX_SMALL_BYTES,
    FinalRange,
)
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError

KINDS = [
    kind
    for name, kind in sorted(vars(sync_messages).items())
    if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
]
"""Every record that sync_messages knows, also those that it will have one day."""


def get_bound(kind):
    return MAX_RANGE_BYTES if kind is FinalRange else MAX_SMALL_BYTES


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80)
@given(data=st.data())
def test_damaged_messages_are_refused_or_mean_themselves(kind, data):
    values = values_of(kind)
    raw = data.draw(mangled(values.map(encode)))
    judge(lambda raw: decode(kind, raw, get_bound(kind)), encode, DecodeError, raw)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_messages_survive_encoding(kind, data):
    value = data.draw(values_of(kind))
    assert decode(kind, encode(value)) == value


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_bytes_are_refused(kind, name):
    raw = HOSTILE[name]
    with bounded_memory(len(raw)), pytest.raises(DecodeError):
        decode(kind, raw, get_bound(kind))
