"""BLS: the official vectors, the reference, and everything that must be refused."""

import json
from pathlib import Path

import pytest

from primitives import bls, bls_native, bls_reference

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "bls"
INFINITY_G1 = b"\xc0" + bytes(47)
INFINITY_G2 = b"\xc0" + bytes(95)


def load_cases(folder):
    """Return (name, input, output) of each vector, or one skipped case."""
    paths = sorted((VECTORS / folder).glob("*.json"))
    if not paths:
        reason = f"official vectors not found in {folder}"
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=reason))]
    cases = [json.loads(path.read_text()) for path in paths]
    return [
        pytest.param(case["input"], case["output"], id=path.stem)
        for path, case in zip(paths, cases, strict=True)
    ]


def to_bytes(text):
    return bytes.fromhex(text.removeprefix("0x"))


def make_key(number):
    return bls.BlsSecretKey(number.to_bytes(32, "big"))


KEYS = [make_key(number) for number in (1, 2**200 + 7, bls.ORDER - 1)]


@pytest.mark.parametrize(("given", "expected"), load_cases("sign"))
def test_sign_vectors(given, expected):
    secret, message = to_bytes(given["privkey"]), to_bytes(given["message"])
    if expected is None:
        with pytest.raises(bls.InvalidSecretKey):
            bls.BlsSecretKey(secret)
    else:
        assert bls.BlsSecretKey(secret).sign(message) == to_bytes(expected)


@pytest.mark.parametrize(("given", "expected"), load_cases("verify"))
def test_verify_vectors(given, expected):
    key, message = to_bytes(given["pubkey"]), to_bytes(given["message"])
    assert bls.verify(key, message, to_bytes(given["signature"])) is expected


@pytest.mark.parametrize(("given", "expected"), load_cases("aggregate"))
def test_aggregate_vectors(given, expected):
    signatures = [to_bytes(signature) for signature in given]
    if expected is None:
        with pytest.raises(bls.InvalidPoint):
            bls.aggregate(signatures)
    else:
        assert bls.aggregate(signatures) == to_bytes(expected)


@pytest.mark.parametrize(("given", "expected"), load_cases("fast_aggregate_verify"))
def test_fast_aggregate_verify_vectors(given, expected):
    keys = [to_bytes(key) for key in given["pubkeys"]]
    message, signature = to_bytes(given["message"]), to_bytes(given["signature"])
    assert bls.fast_aggregate_verify(keys, message, signature) is expected


@pytest.mark.parametrize(("given", "expected"), load_cases("aggregate_verify"))
def test_aggregate_verify_vectors(given, expected):
    keys = [to_bytes(key) for key in given["pubkeys"]]
    messages = [to_bytes(message) for message in given["messages"]]
    signature = to_bytes(given["signature"])
    assert bls.aggregate_verify(keys, messages, signature) is expected


@pytest.mark.parametrize(("given", "expected"), load_cases("batch_verify"))
def test_batch_verify_vectors(given, expected):
    columns = [given["pubkeys"], given["messages"], given["signatures"]]
    rows = [[to_bytes(cell) for cell in row] for row in zip(*columns, strict=True)]
    assert bls.verify_batch([tuple(row) for row in rows]) is expected


@pytest.mark.parametrize(("given", "expected"), load_cases("deserialization_G1"))
def test_public_key_vectors(given, expected):
    data = to_bytes(given["pubkey"])
    # The format has an encoding of infinity; a public key must not be it.
    if expected and data != INFINITY_G1:
        bls.validate_public_key(data)
    else:
        with pytest.raises(bls.InvalidPoint):
            bls.validate_public_key(data)


@pytest.mark.parametrize(("given", "expected"), load_cases("deserialization_G2"))
def test_signature_vectors(given, expected):
    data = to_bytes(given["signature"])
    if expected:
        bls.validate_signature(data)
    else:
        with pytest.raises(bls.InvalidPoint):
            bls.validate_signature(data)


@pytest.mark.parametrize(("given", "expected"), load_cases("hash_to_G2"))
def test_hash_vectors(given, expected):
    from py_arkworks_bls12381 import G2Point

    tag = b"QUUX-V01-CS02-with-BLS12381G2_XMD:SHA-256_SSWU_RO_"
    point = G2Point.hash_to_curve(given["msg"].encode(), tag)
    halves = [expected[axis].split(",") for axis in ("x", "y")]
    parts = [to_bytes(half) for axis in halves for half in axis]
    assert point.to_xy_bytes_be() in (
        b"".join(parts),
        b"".join((parts[1], parts[0], parts[3], parts[2])),
    )


@pytest.mark.parametrize("number", [0, bls.ORDER, 2**256 - 1])
def test_secret_out_of_range_is_refused(number):
    with pytest.raises(bls.InvalidSecretKey):
        make_key(number)


def test_secret_of_wrong_length_is_refused():
    with pytest.raises(bls.InvalidSecretKey):
        bls.BlsSecretKey(bytes(31) + b"\x01\x01")


def test_secret_is_not_shown():
    assert "secret=" not in repr(KEYS[1])


@pytest.mark.parametrize(
    "data",
    [INFINITY_G1, b"\xff" * 48, INFINITY_G1[:-1] + b"\x01", bytes(48), b"", b"\xc0"],
)
def test_bad_public_keys_are_refused(data):
    with pytest.raises(bls.InvalidPoint):
        bls.validate_public_key(data)
    assert not bls.verify(data, b"m", KEYS[0].sign(b"m"))
    assert not bls.verify_possession(data, KEYS[0].prove_possession())


@pytest.mark.parametrize("data", [b"\xff" * 96, INFINITY_G2[:-1] + b"\x01", b""])
def test_bad_signatures_are_refused(data):
    with pytest.raises(bls.InvalidPoint):
        bls.aggregate([data])
    assert not bls.verify(KEYS[0].public_key, b"m", data)


def test_empty_lists_are_refused():
    with pytest.raises(bls.InvalidPoint):
        bls.aggregate([])
    assert not bls.fast_aggregate_verify([], b"m", INFINITY_G2)
    assert not bls.aggregate_verify([], [], INFINITY_G2)
    assert not bls.verify_batch([])


def test_keys_that_cancel_out_are_refused():
    # 1 and r - 1: the sum of the public keys is infinity.
    keys = [KEYS[0].public_key, KEYS[2].public_key]
    assert not bls.fast_aggregate_verify(keys, b"m", INFINITY_G2)


def test_possession():
    key, other = KEYS[0], KEYS[1]
    proof = key.prove_possession()
    assert bls.verify_possession(key.public_key, proof)
    assert not bls.verify_possession(other.public_key, proof)
    # An ordinary signature of the key is not a proof: another tag.
    assert not bls.verify_possession(key.public_key, key.sign(key.public_key))


def test_batch_finds_signatures_that_cancel_out():
    one, two = KEYS[0], KEYS[1]
    items = [(k.public_key, m, k.sign(m)) for k, m in ((one, b"a"), (two, b"b"))]
    assert bls.verify_batch(items)
    swapped = [
        (items[0][0], items[0][1], items[1][2]),
        (items[1][0], items[1][1], items[0][2]),
    ]
    assert not bls.verify_batch(swapped)


def test_backends_agree_byte_for_byte():
    number = 0x1F2E3D4C5B6A79880123456789ABCDEF0123456789ABCDEF0123456789ABCDEF
    for secret, message in ((number, b"m" * 32), (bls.ORDER - 2, b"")):
        for function in ("compute_public_key", "prove_possession"):
            native = getattr(bls_native, function)(secret)
            assert native == getattr(bls_reference, function)(secret)
        assert bls_native.sign(secret, message) == bls_reference.sign(secret, message)


def test_reference_backend_accepts_and_refuses_alike():
    message = b"same message"
    signatures = [key.sign(message) for key in KEYS[:2]]
    total = bls.aggregate(signatures)
    keys = [key.public_key for key in KEYS[:2]]
    bls.select_backend("reference")
    try:
        assert bls.aggregate(signatures) == total
        assert bls.fast_aggregate_verify(keys, message, total)
        assert not bls.verify(keys[0], message, total)
        for data in (INFINITY_G1, b"\xff" * 48, bytes(48), b""):
            with pytest.raises(bls.InvalidPoint):
                bls.validate_public_key(data)
    finally:
        bls.select_backend("native")
