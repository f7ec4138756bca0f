"""
BLS12-381 by py_ecc: the slow reference.

About a second per verification, and it holds the interpreter all the while: for tests
and for checking one thing by hand, never for a validator.  Same functions and same
errors as `primitives.bls_native`.
"""

import sys
from collections.abc import Sequence
from typing import Any

_recursion_limit = sys.getrecursionlimit()

from py_ecc.bls import g2_primitives  # noqa: E402
from py_ecc.bls.ciphersuites import G2ProofOfPossession  # noqa: E402

# py_ecc raises the limit to 100,000 for the whole process.  Its optimised pairing does
# without, and with it a deeply nested JSON body would overflow the C stack.
sys.setrecursionlimit(_recursion_limit)

Scheme: Any = G2ProofOfPossession
"""Any: py_ecc has its own names for bytes."""
points: Any = g2_primitives


def compute_public_key(secret: int) -> bytes:
    """Return the 48-byte public key of a secret in [1, r)."""
    return bytes(Scheme.SkToPk(secret))


def sign(secret: int, message: bytes) -> bytes:
    """Return the 96-byte signature of `message`."""
    return bytes(Scheme.Sign(secret, message))


def prove_possession(secret: int, owner: bytes = b"") -> bytes:
    """Return the signature of own public key and owner under the possession tag."""
    message = compute_public_key(secret) + owner
    return bytes(Scheme._CoreSign(secret, message, Scheme.POP_TAG))


def verify_possession(public_key: bytes, proof: bytes, owner: bytes = b"") -> bool:
    """Tell whether `proof` is by the secret of `public_key`, for `owner`."""
    decode_public_key(public_key)
    decode_signature(proof)
    message = public_key + owner
    return bool(Scheme._CoreVerify(public_key, message, proof, Scheme.POP_TAG))


def aggregate(signatures: Sequence[bytes]) -> bytes:
    """Return the sum of `signatures`, at least one."""
    for signature in signatures:
        decode_signature(signature)
    return bytes(Scheme.Aggregate(list(signatures)))


def fast_aggregate_verify(
    public_keys: Sequence[bytes], message: bytes, signature: bytes
) -> bool:
    """Tell whether all `public_keys`, at least one, signed the one `message`."""
    for public_key in public_keys:
        decode_public_key(public_key)
    decode_signature(signature)
    return bool(Scheme.FastAggregateVerify(list(public_keys), message, signature))


def aggregate_verify(
    public_keys: Sequence[bytes], messages: Sequence[bytes], signature: bytes
) -> bool:
    """Tell whether key i signed message i, for each i, at least one."""
    for public_key in public_keys:
        decode_public_key(public_key)
    decode_signature(signature)
    return bool(
        Scheme._CoreAggregateVerify(
            list(public_keys), list(messages), signature, Scheme.DST
        )
    )


def verify_batch(items: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
    """Tell whether all (public keys, message, signature) hold, one by one."""
    return all(fast_aggregate_verify(keys, text, sig) for keys, text, sig in items)


def decode_public_key(data: bytes) -> Any:
    """Return the point of a public key: canonical, in the subgroup, not infinity."""
    if len(data) != 48:
        raise ValueError("a public key has 48 bytes")
    point = points.pubkey_to_G1(data)
    if (
        points.is_inf(point)
        or not points.subgroup_check(point)
        or points.G1_to_pubkey(point) != data
    ):
        raise ValueError("not a public key in its one encoding")
    return point


def decode_signature(data: bytes) -> Any:
    """Return the point of a signature: canonical and in the subgroup."""
    if len(data) != 96:
        raise ValueError("a signature has 96 bytes")
    point = points.signature_to_G2(data)
    if not points.subgroup_check(point) or points.G2_to_signature(point) != data:
        raise ValueError("not a signature in its one encoding")
    return point
