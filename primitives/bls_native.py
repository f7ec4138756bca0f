"""
BLS12-381 by py_arkworks_bls12381: the backend of every live path.

One verification costs about 1.5 ms on one core, signing 0.7 ms, and pairings release
the GIL.  The library is laxer than the standard: it reads 48 bytes of 0xff as
infinity.  So every point is encoded again and compared with what came in.

Every function raises ValueError for bytes that are not a point we accept.
"""

from collections.abc import Sequence
from functools import lru_cache

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from primitives.hashing import compute_hash

SIGNATURE_DST = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION_DST = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"

MAX_CACHED_KEYS = 1024
"""Decoded public keys kept: eight sets of 128 validators, 200 KiB."""
MAX_CACHED_MESSAGES = 64
"""Hashed messages kept: the few subjects that votes arrive for at one time."""

_NEGATIVE_G1 = -G1Point()


def compute_public_key(secret: int) -> bytes:
    """Return the 48-byte public key of a secret in [1, r)."""
    return (G1Point() * _to_scalar(secret)).to_compressed_bytes()


def sign(secret: int, message: bytes) -> bytes:
    """Return the 96-byte signature of `message`."""
    return (_hash_message(message) * _to_scalar(secret)).to_compressed_bytes()


def prove_possession(secret: int, owner: bytes = b"") -> bytes:
    """Return the signature of own public key and owner under the possession tag."""
    message = compute_public_key(secret) + owner
    point = G2Point.hash_to_curve(message, POSSESSION_DST)
    return (point * _to_scalar(secret)).to_compressed_bytes()


def verify_possession(public_key: bytes, proof: bytes, owner: bytes = b"") -> bool:
    """Tell whether `proof` is by the secret of `public_key`, for `owner`."""
    key = decode_public_key(public_key)
    point = G2Point.hash_to_curve(public_key + owner, POSSESSION_DST)
    return _check_pairs([key, _NEGATIVE_G1], [point, decode_signature(proof)])


def aggregate(signatures: Sequence[bytes]) -> bytes:
    """Return the sum of `signatures`, at least one."""
    total = decode_signature(signatures[0])
    for signature in signatures[1:]:
        total = total + decode_signature(signature)
    return total.to_compressed_bytes()


def fast_aggregate_verify(
    public_keys: Sequence[bytes], message: bytes, signature: bytes
) -> bool:
    """Tell whether all `public_keys`, at least one, signed the one `message`."""
    total = _add_keys(public_keys)
    if total == G1Point.identity():
        return False
    return _check_pairs(
        [total, _NEGATIVE_G1], [_hash_message(message), decode_signature(signature)]
    )


def aggregate_verify(
    public_keys: Sequence[bytes], messages: Sequence[bytes], signature: bytes
) -> bool:
    """Tell whether key i signed message i, for each i, at least one."""
    keys = [decode_public_key(public_key) for public_key in public_keys]
    points = [_hash_message(message) for message in messages]
    return _check_pairs([*keys, _NEGATIVE_G1], [*points, decode_signature(signature)])


def verify_batch(items: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
    """Tell whether all (public keys, message, signature) hold, in one check.

    See `primitives.bls.verify_batch` for why that is sound.
    """
    parts = [part for keys, text, total in items for part in (*keys, text, total)]
    counts = b"".join(len(keys).to_bytes(4, "big") for keys, _, _ in items)
    seed = compute_hash("bls-batch", counts, *parts)
    keys, points, signatures, weights = [], [], [], []
    for index, (public_keys, message, signature) in enumerate(items):
        key = _add_keys(public_keys)
        if key == G1Point.identity():
            return False
        if index:
            draw = compute_hash("bls-weight", seed, index.to_bytes(4, "big"))
            weights.append(Scalar(int.from_bytes(draw[:16], "big") | 1))
            key = key * weights[-1]
        keys.append(key)
        points.append(_hash_message(message))
        signatures.append(decode_signature(signature))
    total = signatures[0]
    if weights:
        total = total + G2Point.multiexp_unchecked(signatures[1:], weights)
    return _check_pairs([*keys, _NEGATIVE_G1], [*points, total])


@lru_cache(maxsize=MAX_CACHED_KEYS)
def decode_public_key(data: bytes) -> G1Point:
    """Return the point of a public key: canonical, in the subgroup, not infinity."""
    point = G1Point.from_compressed_bytes(data)
    if point.to_compressed_bytes() != data:
        raise ValueError("not the canonical encoding of a G1 point")
    if point == G1Point.identity():
        raise ValueError("the point at infinity is nobody's public key")
    return point


def decode_signature(data: bytes) -> G2Point:
    """Return the point of a signature: canonical and in the subgroup."""
    point = G2Point.from_compressed_bytes(data)
    if point.to_compressed_bytes() != data:
        raise ValueError("not the canonical encoding of a G2 point")
    return point


def _add_keys(public_keys: Sequence[bytes]) -> G1Point:
    total = decode_public_key(public_keys[0])
    for public_key in public_keys[1:]:
        total = total + decode_public_key(public_key)
    return total


@lru_cache(maxsize=MAX_CACHED_MESSAGES)
def _hash_message(message: bytes) -> G2Point:
    return G2Point.hash_to_curve(message, SIGNATURE_DST)


def _to_scalar(secret: int) -> Scalar:
    return Scalar.from_be_bytes(secret.to_bytes(32, "big"))


def _check_pairs(keys: list[G1Point], points: list[G2Point]) -> bool:
    return GT.pairing_check(keys, points)
