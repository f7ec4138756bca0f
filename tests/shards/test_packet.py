"""Packets and their proofs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.merkle import EMPTY_ROOT
from shards.chunk import Counter, get_count
from shards.packet import (
    MAX_PAYLOAD_BYTES,
    Packet,
    PacketKind,
    PacketProof,
    build_packet_proofs,
    compute_out_root,
    verify_packet_proof,
)

replace = msgspec.structs.replace


def build(count: int) -> list[Packet]:
    return [
        Packet(0, 1 + seq % 2, seq // 2, PacketKind.CREDIT, seq, b"payload")
        for seq in range(count)
    ]


@given(st.integers(1, 40))
def test_every_packet_has_a_proof(count):
    packets = build(count)
    root = compute_out_root(packets)
    proofs = build_packet_proofs(packets, 7)
    assert [proof.packet for proof in proofs] == packets
    assert all(proof.source_height == 7 for proof in proofs)
    assert all(verify_packet_proof(proof, root) for proof in proofs)
    assert decode(PacketProof, encode(proofs[-1])) == proofs[-1]


@given(st.integers(2, 20), st.data())
def test_proofs_of_something_else(count, data):
    packets = build(count)
    root = compute_out_root(packets)
    index = data.draw(st.integers(0, count - 1))
    proof = build_packet_proofs(packets, 7)[index]
    for changes in [
        {"packet": replace(proof.packet, amount=10**9)},
        {"packet": replace(proof.packet, dst=9)},
        {"packet": replace(proof.packet, seq=99)},
        {"index": (index + 1) % count},
        {"index": count},
        {"count": count + 1},
        {"path": (*proof.path, bytes(32))},
        {"path": proof.path[:-1]},
    ]:
        assert not verify_packet_proof(replace(proof, **changes), root)
    assert not verify_packet_proof(proof, bytes(32))


def test_a_chunk_without_packets():
    assert compute_out_root([]) == EMPTY_ROOT
    assert build_packet_proofs([], 1) == ()


def test_payloads_are_bounded():
    good = Packet(0, 1, 0, 1, 0, bytes(MAX_PAYLOAD_BYTES))
    assert decode(Packet, encode(good)) == good
    with pytest.raises(DecodeError):
        decode(Packet, encode(replace(good, payload=bytes(MAX_PAYLOAD_BYTES + 1))))


def test_counters():
    counters = (Counter(1, 5), Counter(3, 7))
    assert [get_count(counters, shard) for shard in range(4)] == [0, 5, 0, 7]
