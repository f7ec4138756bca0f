"""
The official BLS12-381 vectors, all of them, through our wrapper and both backends.

The vectors lie outside of the repository (`../shared/vectors/bls`, version 0.1.1 of
ethereum/bls12-381-tests).  Without them every test here is skipped and says so; with
them their number is checked, so that none is left out silently.

hash_to_G2 has no function in the wrapper: its vectors have a domain tag of their own.
They go to the primitives on which signing stands.
"""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from py_arkworks_bls12381 import G1Point, G2Point
from py_ecc.bls.hash_to_curve import hash_to_G2
from py_ecc.optimized_bls12_381 import normalize

from primitives import bls

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "bls"

COUNTS = {
    "aggregate": 6,
    "aggregate_verify": 5,
    "batch_verify": 2,
    "deserialization_G1": 13,
    "deserialization_G2": 15,
    "fast_aggregate_verify": 12,
    "hash_to_G2": 4,
    "sign": 10,
    "verify": 29,
}

ANSWERED_OTHERWISE = {
    "deserialization_G1/deserialization_succeeds_infinity_with_true_b_flag": (
        "a point of the curve, but nobody's public key"
    ),
}
"""Vectors that the wrapper refuses on purpose, and why.  There are no others."""

HASH_TAG = b"QUUX-V01-CS02-with-BLS12381G2_XMD:SHA-256_SSWU_RO_"

needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="the official BLS vectors are not beside this checkout"
)


def load_cases(folder):
    """Return input and output of each vector of a folder, or one skipped case."""
    paths = sorted((VECTORS / folder).glob("*.json"))
    if not paths:
        reason = f"official vectors not found: {folder}"
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=reason))]
    cases = [json.loads(path.read_text()) for path in paths]
    return [
        pytest.param(case["input"], case["output"], id=f"{folder}/{path.stem}")
        for path, case in zip(paths, cases, strict=True)
    ]


def vectors(folder):
    return pytest.mark.parametrize(("given", "expected"), load_cases(folder))


def to_bytes(text):
    return bytes.fromhex(text.removeprefix("0x"))


@pytest.fixture(
    autouse=True, params=["native", pytest.param("reference", marks=pytest.mark.slow)]
)
def backend(request):
    bls.select_backend(request.param)
    yield request.param
    bls.select_backend("native")


@needs_vectors
def test_every_official_vector_is_here():
    found = {folder.name for folder in VECTORS.iterdir() if folder.is_dir()}
    assert found == COUNTS.keys()
    for folder, count in COUNTS.items():
        assert len(load_cases(folder)) == count, folder
    for name in ANSWERED_OTHERWISE:
        assert (VECTORS / f"{name}.json").is_file()


@vectors("sign")
def test_sign(given, expected):
    secret, message = to_bytes(given["privkey"]), to_bytes(given["message"])
    if expected is None:
        with pytest.raises(bls.InvalidSecretKey):
            bls.BlsSecretKey(secret)
    else:
        assert bls.BlsSecretKey(secret).sign(message) == to_bytes(expected)


@vectors("verify")
def test_verify(given, expected):
    key, message = to_bytes(given["pubkey"]), to_bytes(given["message"])
    assert bls.verify(key, message, to_bytes(given["signature"])) is expected


@vectors("aggregate")
def test_aggregate(given, expected):
    signatures = [to_bytes(signature) for signature in given]
    if expected is None:
        with pytest.raises(bls.InvalidPoint):
            bls.aggregate(signatures)
    else:
        assert bls.aggregate(signatures) == to_bytes(expected)


@vectors("fast_aggregate_verify")
def test_fast_aggregate_verify(given, expected):
    keys = [to_bytes(key) for key in given["pubkeys"]]
    message, signature = to_bytes(given["message"]), to_bytes(given["signature"])
    assert bls.fast_aggregate_verify(keys, message, signature) is expected


@vectors("aggregate_verify")
def test_aggregate_verify(given, expected):
    keys = [to_bytes(key) for key in given["pubkeys"]]
    messages = [to_bytes(message) for message in given["messages"]]
    signature = to_bytes(given["signature"])
    assert bls.aggregate_verify(keys, messages, signature) is expected


@vectors("batch_verify")
def test_batch_verify(given, expected):
    columns = [given["pubkeys"], given["messages"], given["signatures"]]
    rows = [[to_bytes(cell) for cell in row] for row in zip(*columns, strict=True)]
    items = [((key,), message, signature) for key, message, signature in rows]
    assert bls.verify_batch(items) is expected


@vectors("deserialization_G1")
def test_public_key(given, expected, request):
    data = to_bytes(given["pubkey"])
    name = request.node.callspec.id.removeprefix("native-").removeprefix("reference-")
    if name in ANSWERED_OTHERWISE:
        assert expected is True
        expected = False
        assert G1Point.from_compressed_bytes(data) == G1Point.identity()
    if expected:
        bls.validate_public_key(data)
    else:
        with pytest.raises(bls.InvalidPoint):
            bls.validate_public_key(data)


@vectors("deserialization_G2")
def test_signature(given, expected):
    data = to_bytes(given["signature"])
    if expected:
        bls.validate_signature(data)
    else:
        with pytest.raises(bls.InvalidPoint):
            bls.validate_signature(data)


@vectors("hash_to_G2")
def test_hash_to_the_curve(given, expected, backend):
    message = given["msg"].encode()
    numbers = [
        int(half, 16) for axis in ("x", "y") for half in expected[axis].split(",")
    ]
    if backend == "native":
        data = G2Point.hash_to_curve(message, HASH_TAG).to_xy_bytes_be()
        found = [int.from_bytes(data[at : at + 48], "big") for at in (0, 48, 96, 144)]
    else:
        x, y = normalize(hash_to_G2(message, HASH_TAG, sha256))
        found = [int(half) for axis in (x, y) for half in axis.coeffs]
    assert found == numbers
