"""Our Noise XX against an independent implementation, and against tampering."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from network.errors import BadHandshake, TamperedRecord
from network.noise import PROTOCOL_NAME, NoiseXX

STATIC = X25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PROLOGUE = b"a prologue"


def build_oracle(*, initiator: bool, prologue: bytes = PROLOGUE) -> NoiseConnection:
    oracle = NoiseConnection.from_name(PROTOCOL_NAME)
    if initiator:
        oracle.set_as_initiator()
    else:
        oracle.set_as_responder()
    oracle.set_prologue(prologue)
    oracle.set_keypair_from_private_bytes(Keypair.STATIC, OTHER.private_bytes_raw())
    oracle.start_handshake()
    return oracle


def build_ours(*, initiator: bool) -> NoiseXX:
    return NoiseXX(initiator=initiator, static=STATIC, prologue=PROLOGUE)


def shake(initiator, responder, payloads=(b"", b"two", b"three" * 40)):
    """Pass the three messages; each side is ours or the oracle's."""
    sides = [initiator, responder]
    for step, payload in enumerate(payloads):
        message = bytes(sides[step % 2].write_message(payload))
        assert bytes(sides[1 - step % 2].read_message(message)) == payload


def test_we_shake_hands_with_the_oracle_as_initiator() -> None:
    ours, oracle = build_ours(initiator=True), build_oracle(initiator=False)
    shake(ours, oracle)
    assert ours.is_finished
    assert oracle.handshake_finished
    assert ours.remote_static == OTHER.public_key().public_bytes_raw()
    check_transport(ours, oracle)


def test_we_shake_hands_with_the_oracle_as_responder() -> None:
    ours, oracle = build_ours(initiator=False), build_oracle(initiator=True)
    shake(oracle, ours)
    assert ours.is_finished
    assert oracle.handshake_finished
    assert ours.remote_static == OTHER.public_key().public_bytes_raw()
    check_transport(ours, oracle)


def check_transport(ours: NoiseXX, oracle: NoiseConnection) -> None:
    sender, receiver = ours.split()
    for number in range(5):
        plain = b"message %d" % number * number
        assert bytes(oracle.decrypt(sender.encrypt(plain))) == plain
        assert receiver.decrypt(bytes(oracle.encrypt(plain))) == plain
    # Noise 4.2: rekeying keeps the counter.
    sender.rekey()
    oracle.rekey_inbound_cipher()
    receiver.rekey()
    oracle.rekey_outbound_cipher()
    assert bytes(oracle.decrypt(sender.encrypt(b"after"))) == b"after"
    assert receiver.decrypt(bytes(oracle.encrypt(b"after"))) == b"after"


def test_another_prologue_fails() -> None:
    ours = build_ours(initiator=True)
    oracle = build_oracle(initiator=False, prologue=b"another")
    oracle.read_message(ours.write_message(b""))
    with pytest.raises(BadHandshake):
        ours.read_message(bytes(oracle.write_message(b"")))


@given(step=st.integers(0, 2), data=st.data())
def test_a_changed_handshake_is_found(step: int, data: st.DataObject) -> None:
    initiator, responder = build_ours(initiator=True), build_ours(initiator=False)
    sides = [initiator, responder]

    def carry(number: int) -> None:
        message = bytearray(sides[number % 2].write_message(b"payload"))
        if number == step:
            index = data.draw(st.integers(0, len(message) - 1))
            message[index] ^= data.draw(st.integers(1, 255))
        sides[1 - number % 2].read_message(bytes(message))

    for number in range(step):
        carry(number)
    if step == 0:
        # The first message has no key yet; even its ignored bit (the top one of an
        # X25519 key, RFC 7748) is in the transcript of the second.
        carry(0)
        step = 1
    with pytest.raises(BadHandshake):
        carry(step)


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_handshake(garbage: bytes) -> None:
    responder = build_ours(initiator=False)
    initiator = build_ours(initiator=True)
    initiator.write_message(b"")
    with pytest.raises(BadHandshake):
        initiator.read_message(garbage)
    if len(garbage) < 32:
        with pytest.raises(BadHandshake):
            responder.read_message(garbage)


def test_a_key_of_small_order_is_refused() -> None:
    responder = build_ours(initiator=False)
    responder.read_message(bytes(32))
    with pytest.raises(BadHandshake, match="small order"):
        responder.write_message(b"")


def test_a_replayed_or_reordered_record_is_found() -> None:
    ours, oracle = build_ours(initiator=True), build_oracle(initiator=False)
    shake(ours, oracle)
    _, receiver = ours.split()
    first, second = bytes(oracle.encrypt(b"1")), bytes(oracle.encrypt(b"2"))
    with pytest.raises(TamperedRecord):
        receiver.decrypt(second)
    assert receiver.decrypt(first) == b"1"
    with pytest.raises(TamperedRecord):
        receiver.decrypt(first)
    assert receiver.decrypt(second) == b"2"
