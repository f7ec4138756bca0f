"""What peers ask and answer about snapshots, with bytes that nobody should trust."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mangling import HOSTILE, bounded_memory, judge, mangled, values_of

from chain.snapshots import part as snapshot_part
from chain.snapshots import snapshot
from p2pchain.node.state_sync import messages as state_sync_messages
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError

KINDS = [
    kind
    for module in (state_sync_messages, snapshot, snapshot_part)
    for kind in vars(module).values()
    if isinstance(kind, type)
    and issubclass(kind, Record)
    and kind.__module__ == module.__name__
]
SLOW = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("kind", KINDS)
@SLOW
@given(data=st.data())
def test_damaged_messages_are_refused_or_mean_themselves(kind, data):
    raw = data.draw(mangled(values_of(kind).map(encode)))
    judge(lambda raw: decode(kind, raw, 2**20), encode, DecodeError, raw)


@pytest.mark.parametrize("kind", KINDS)
@SLOW
@given(data=st.data())
def test_messages_survive_encoding(kind, data):
    value = data.draw(values_of(kind))
    assert decode(kind, encode(value)) == value


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_bytes_are_refused(kind, name):
    raw = HOSTILE[name]
    with bounded_memory(len(raw)), pytest.raises(DecodeError):
        decode(kind, raw, 2**20)
