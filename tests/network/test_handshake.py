"""Handshakes between nodes that belong together, and between those that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.errors import (
    BadHandshake,
    HandshakeFailed,
    SelfConnection,
    WrongChain,
    WrongPeer,
    WrongVersion,
)
from network.handshake import (
    MAX_MESSAGE,
    PREAMBLE_BYTES,
    Handshake,
    IdentityProof,
    LocalIdentity,
)
from network.noise import NoiseXX
from primitives.codec import decode, encode
from primitives.keys import SecretKey

ALICE = LocalIdentity(SecretKey(b"a" * 32), b"chain", 4001)
BOB = LocalIdentity(SecretKey(b"b" * 32), b"chain", 0)


def shake(initiator: Handshake, responder: Handshake, chunk: int = 4096) -> None:
    """Carry bytes between both sides, `chunk` at a time, until both are done."""
    to_responder, to_initiator = initiator.start(), responder.start()
    while not (initiator.is_finished and responder.is_finished):
        assert to_responder or to_initiator
        piece, to_responder = to_responder[:chunk], to_responder[chunk:]
        to_initiator += responder.receive(piece) if piece else b""
        piece, to_initiator = to_initiator[:chunk], to_initiator[chunk:]
        to_responder += initiator.receive(piece) if piece else b""


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_both_sides_learn_who_they_are(chunk: int) -> None:
    initiator = Handshake(initiator=True, identity=ALICE, expected=BOB.peer_id)
    responder = Handshake(initiator=False, identity=BOB)
    shake(initiator, responder, chunk)
    assert initiator.remote is not None
    assert responder.remote is not None
    assert initiator.remote.peer_id == BOB.peer_id
    assert initiator.remote.listen_port == 0
    assert responder.remote.peer_id == ALICE.peer_id
    assert responder.remote.boot_id == ALICE.boot_id
    assert responder.remote.listen_port == 4001
    ours, theirs = initiator.build_records(), responder.build_records()
    theirs.feed(ours.seal(b"hello"))
    assert theirs.next_plaintext() == b"hello"


def test_bytes_after_the_handshake_belong_to_the_records() -> None:
    initiator = Handshake(initiator=True, identity=ALICE)
    responder = Handshake(initiator=False, identity=BOB)
    third = initiator.receive(responder.receive(initiator.start()))
    sealed = initiator.build_records().seal(b"early")
    assert responder.receive(third + sealed) == b""
    assert responder.build_records().next_plaintext() == b"early"


def test_a_node_of_another_chain_is_told_so() -> None:
    stranger = LocalIdentity(SecretKey(b"b" * 32), b"another chain", 0)
    initiator = Handshake(initiator=True, identity=ALICE)
    responder = Handshake(initiator=False, identity=stranger)
    with pytest.raises(WrongChain):
        responder.receive(initiator.start())
    with pytest.raises(WrongChain):
        initiator.receive(responder.farewell)


@pytest.mark.parametrize("version", [0, 1, 3, 513, 65535])
def test_a_node_of_another_version_is_told_so(version: int) -> None:
    preamble = ALICE.preamble[:8] + version.to_bytes(2, "big") + ALICE.preamble[10:]
    with pytest.raises(WrongVersion, match=f"{version} where we speak 2"):
        Handshake(initiator=False, identity=BOB).receive(preamble)


def test_other_protocols_are_refused_at_the_first_byte() -> None:
    with pytest.raises(BadHandshake, match="not a p2pchain node"):
        Handshake(initiator=False, identity=BOB).receive(b"G")


def test_a_preamble_changed_on_the_way_is_found() -> None:
    """Chain tags collide in eight bytes; the prologue holds all of them."""
    initiator = Handshake(initiator=True, identity=ALICE)
    responder = Handshake(initiator=False, identity=BOB)
    responder._noise = NoiseXX(initiator=False, static=BOB.static, prologue=b"other")
    with pytest.raises(BadHandshake):
        initiator.receive(responder.receive(initiator.start()))


def test_somebody_else_answers() -> None:
    initiator = Handshake(initiator=True, identity=ALICE, expected=b"c" * 32)
    responder = Handshake(initiator=False, identity=BOB)
    with pytest.raises(WrongPeer):
        initiator.receive(responder.receive(initiator.start()))


def test_we_answer_ourselves() -> None:
    initiator = Handshake(initiator=True, identity=ALICE)
    responder = Handshake(initiator=False, identity=ALICE)
    with pytest.raises(SelfConnection):
        initiator.receive(responder.receive(initiator.start()))


def test_a_stolen_proof_does_not_fit_another_static_key() -> None:
    """Mallory shows Bob's proof with a static key of his own."""

    class Mallory(LocalIdentity):
        def build_proof(self) -> bytes:
            return BOB.build_proof()

    mallory = Mallory(SecretKey(b"m" * 32), b"chain", 0)
    initiator = Handshake(initiator=True, identity=ALICE, expected=BOB.peer_id)
    responder = Handshake(initiator=False, identity=mallory)
    with pytest.raises(BadHandshake, match="not signed"):
        initiator.receive(responder.receive(initiator.start()))


def test_a_proof_for_another_chain_does_not_fit() -> None:
    class Mallory(LocalIdentity):
        def build_proof(self) -> bytes:
            other = LocalIdentity(
                self.node_key, b"another", 0, self.static, self.boot_id
            )
            return other.build_proof()

    mallory = Mallory(SecretKey(b"m" * 32), b"chain", 0)
    responder = Handshake(initiator=False, identity=mallory)
    with pytest.raises(BadHandshake, match="not signed"):
        shake(Handshake(initiator=True, identity=ALICE), responder)


@pytest.mark.parametrize("payload", [b"", b"\x90", b"x" * 300])
def test_a_proof_must_be_canonical(payload: bytes) -> None:
    class Mallory(LocalIdentity):
        def build_proof(self) -> bytes:
            return payload

    mallory = Mallory(SecretKey(b"m" * 32), b"chain", 0)
    responder = Handshake(initiator=False, identity=mallory)
    with pytest.raises(BadHandshake):
        shake(Handshake(initiator=True, identity=ALICE), responder)


def test_a_first_message_with_a_payload_is_refused() -> None:
    noise = NoiseXX(
        initiator=True,
        static=ALICE.static,
        prologue=ALICE.preamble + ALICE.chain_tag,
    )
    message = noise.write_message(b"surplus")
    wire = ALICE.preamble + len(message).to_bytes(2, "big") + message
    with pytest.raises(BadHandshake, match="carries nothing"):
        Handshake(initiator=False, identity=BOB).receive(wire)


def test_a_long_message_is_refused_before_it_is_read() -> None:
    wire = ALICE.preamble + (MAX_MESSAGE + 1).to_bytes(2, "big")
    with pytest.raises(BadHandshake, match="513 bytes"):
        Handshake(initiator=False, identity=BOB).receive(wire)


@given(st.binary(max_size=700), st.booleans(), st.booleans())
def test_garbage_raises_typed_errors_only(
    garbage: bytes, initiator: bool, with_preamble: bool
) -> None:
    handshake = Handshake(initiator=initiator, identity=BOB)
    handshake.start()
    data = (ALICE.preamble if with_preamble else b"") + garbage
    try:
        reply = handshake.receive(data)
    except HandshakeFailed:
        return
    assert not handshake.is_finished
    assert len(reply) < 1024


@given(st.data())
def test_a_flipped_bit_anywhere_is_found(data: st.DataObject) -> None:
    initiator = Handshake(initiator=True, identity=ALICE, expected=BOB.peer_id)
    responder = Handshake(initiator=False, identity=BOB)
    step = data.draw(st.integers(0, 2))

    def carry(number: int, wire: bytes) -> bytes:
        if number != step:
            return wire
        index = data.draw(st.integers(0, len(wire) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        return wire[:index] + bytes([wire[index] ^ bit]) + wire[index + 1 :]

    try:
        second = responder.receive(carry(0, initiator.start()))
        third = initiator.receive(carry(1, second))
        responder.receive(carry(2, third))
    except HandshakeFailed:
        return
    # A length that grew: both wait for bytes that never come, until the time-out.
    assert not responder.is_finished


def test_the_proof_round_trips() -> None:
    encoded = ALICE.build_proof()
    assert encode(decode(IdentityProof, encoded)) == encoded
    assert len(ALICE.preamble) == PREAMBLE_BYTES
