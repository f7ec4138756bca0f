"""
The fast backend against the slow one: the same bytes and the same verdicts.

The reference takes a third of a second for a verification, so the run of every day is
small; the slow one draws twenty times as much.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primitives import bls, bls_native, bls_reference

INFINITY_G1 = b"\xc0" + bytes(47)
INFINITY_G2 = b"\xc0" + bytes(95)
FLAGS = (0x00, 0x20, 0x40, 0x60, 0x80, 0xA0, 0xC0, 0xE0)

secrets = st.one_of(
    st.integers(1, bls.ORDER - 1),
    st.sampled_from([1, 2, bls.ORDER // 2, bls.ORDER - 2, bls.ORDER - 1]),
)
messages = st.binary(max_size=300)


def run_twice(quick, thorough, **strategies):
    """Decorate a property: `quick` examples always, `thorough` in the slow run."""
    cases = [
        pytest.param(quick, id="quick"),
        pytest.param(thorough, id="thorough", marks=pytest.mark.slow),
    ]

    def decorate(check):
        @pytest.mark.parametrize("examples", cases)
        def test(examples):
            settings(max_examples=examples)(given(**strategies)(check))()

        return test

    return decorate


def judge(decode, data):
    """Return the encoding of the decoded point, or None where it is refused."""
    try:
        decode(data)
    except ValueError:
        return None
    return data


@st.composite
def near_points(draw, size):
    """Bytes that are points, nearly points, or nothing of the kind."""
    secret = draw(secrets)
    if size == bls.PUBLIC_KEY_BYTES:
        data, infinity = bls_native.compute_public_key(secret), INFINITY_G1
    else:
        data, infinity = bls_native.sign(secret, draw(messages)), INFINITY_G2
    kind = draw(st.sampled_from(["whole", "bit", "flags", "length", "infinity", "any"]))
    if kind == "bit":
        at = draw(st.integers(0, 8 * size - 1))
        flipped = int.from_bytes(data, "big") ^ (1 << at)
        return flipped.to_bytes(size, "big")
    if kind == "flags":
        return bytes([data[0] & 0x1F | draw(st.sampled_from(FLAGS))]) + data[1:]
    if kind == "length":
        return draw(st.sampled_from([data[:-1], data + b"\0", data * 2, b""]))
    if kind == "infinity":
        flags = draw(st.sampled_from(FLAGS))
        return bytes([flags]) + infinity[1:-1] + draw(st.sampled_from([b"\0", b"\1"]))
    if kind == "any":
        return draw(st.binary(min_size=size, max_size=size))
    return data


@run_twice(4, 150, secret=secrets, message=messages)
def test_keys_signatures_and_proofs_are_the_same_bytes(secret, message):
    for function in ("compute_public_key", "prove_possession"):
        mine, theirs = (
            getattr(backend, function)(secret)
            for backend in (bls_native, bls_reference)
        )
        assert mine == theirs
    assert bls_native.sign(secret, message) == bls_reference.sign(secret, message)
    mine, theirs = (
        backend.prove_possession(secret, message)
        for backend in (bls_native, bls_reference)
    )
    assert mine == theirs


@run_twice(3, 60, signers=st.lists(secrets, min_size=1, max_size=5), message=messages)
def test_aggregates_are_the_same_bytes(signers, message):
    signatures = [bls_native.sign(secret, message) for secret in signers]
    total = bls_native.aggregate(signatures)
    assert total == bls_reference.aggregate(signatures)


@run_twice(60, 1500, data=near_points(bls.PUBLIC_KEY_BYTES))
def test_the_same_public_keys_are_refused(data):
    assert judge(bls_native.decode_public_key, data) == judge(
        bls_reference.decode_public_key, data
    )


@run_twice(40, 800, data=near_points(bls.SIGNATURE_BYTES))
def test_the_same_signatures_are_refused(data):
    assert judge(bls_native.decode_signature, data) == judge(
        bls_reference.decode_signature, data
    )


@st.composite
def claims(draw):
    """Public keys, messages and a signature that fit, or do not."""
    signers = draw(st.lists(secrets, min_size=1, max_size=3))
    texts = [draw(messages) for _ in signers]
    keys = [bls_native.compute_public_key(secret) for secret in signers]
    total = bls_native.aggregate(
        [bls_native.sign(*pair) for pair in zip(signers, texts, strict=True)]
    )
    lie = draw(st.sampled_from(["", "", "key", "message", "signature"]))
    at = draw(st.integers(0, len(signers) - 1))
    if lie == "key":
        keys[at] = draw(near_points(bls.PUBLIC_KEY_BYTES))
    elif lie == "message":
        texts[at] = draw(messages)
    elif lie == "signature":
        total = draw(near_points(bls.SIGNATURE_BYTES))
    return keys, texts, total


def verdict(function, *arguments):
    """Return the backend's verdict; refusing to read the input is a no."""
    try:
        return function(*arguments)
    except ValueError:
        return False


@run_twice(3, 60, claim=claims())
def test_verdicts_on_aggregates_of_many_messages_are_the_same(claim):
    mine, theirs = (
        verdict(backend.aggregate_verify, *claim)
        for backend in (bls_native, bls_reference)
    )
    assert mine == theirs


@run_twice(3, 60, claim=claims(), signer=secrets)
def test_verdicts_on_one_message_are_the_same(claim, signer):
    keys, texts, total = claim
    if len(set(texts)) > 1:
        # Sign one text with all of the keys that have a secret here.
        keys, total = keys[:1], bls_native.sign(signer, texts[0])
    mine, theirs = (
        verdict(backend.fast_aggregate_verify, keys, texts[0], total)
        for backend in (bls_native, bls_reference)
    )
    assert mine == theirs


@run_twice(
    3,
    60,
    secret=secrets,
    other=secrets,
    lie=st.sampled_from(["", "proof", "key", "any", "owner"]),
)
def test_verdicts_on_possession_are_the_same(secret, other, lie):
    key, proof = (
        bls_native.compute_public_key(secret),
        bls_native.prove_possession(secret, b"owner"),
    )
    if lie == "proof":
        proof = bls_native.prove_possession(other, b"owner")
    elif lie == "key":
        # Signed with the right secret, but under the tag of ordinary messages.
        proof = bls_native.sign(secret, key)
    elif lie == "any":
        key = bls_native.compute_public_key(other)
    owner = b"another" if lie == "owner" else b"owner"
    mine, theirs = (
        verdict(backend.verify_possession, key, proof, owner)
        for backend in (bls_native, bls_reference)
    )
    expected = not lie or (secret == other and lie not in ("key", "owner"))
    assert mine == theirs == expected
