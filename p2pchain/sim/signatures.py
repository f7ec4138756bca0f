"""
A stand-in for BLS: keyed hashes with the same interface and the same failures.

A signature is a hash of secret and message; the registry knows whose secret belongs to
which public key, as no real verifier does.  Sums are bitwise exclusive or, so they are
linear like the real ones.  Nobody who does not hold a secret can make a signature.

`RealKeys` puts `primitives.bls` in the same place, for runs with real pairings.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import Protocol

from consensus.scheme import SignatureScheme, Signer
from primitives import bls
from primitives.errors import RemoteError
from primitives.hashing import compute_hash

SIGNATURE_BYTES = 96


class KeyRing(Protocol):
    """A scheme and the keys that go with it."""

    @property
    def scheme(self) -> SignatureScheme:
        """Verifies what the keys sign."""

    def make_key(self, seed: object) -> Signer:
        """Return the key that follows from `seed`."""


class StandinKey:
    """A secret; known to the scheme that made it."""

    def __init__(self, secret: bytes, public_key: bytes | None = None) -> None:
        self._state = blake2b(key=secret, digest_size=48)
        self._public_key = public_key or _hash(b"public" + secret, 48)

    @property
    def public_key(self) -> bytes:
        """48 bytes; nobody finds the secret from them."""
        return self._public_key

    def sign(self, message: bytes, /) -> bytes:
        """Return 96 bytes that only this secret gives."""
        state = self._state.copy()
        state.update(message)
        half = state.digest()
        return half + _hash(half, 48)


class StandinScheme:
    """Verifies by computing what the secrets' owners would have signed."""

    def __init__(self) -> None:
        self._keys: dict[bytes, StandinKey] = {}
        self.pairings = 0
        """Verifications so far, each of which would have been one pairing check."""

    @property
    def scheme(self) -> "StandinScheme":
        """Itself: it makes the keys, too."""
        return self

    def make_key(self, seed: object, public_key: bytes | None = None) -> StandinKey:
        """Return a key that follows from `seed`.

        Args:
            seed: Anything with a `repr` that names it.
            public_key: Where others must be able to read it as a point of the curve.
        """
        key = StandinKey(_hash(repr(seed).encode(), 32), public_key)
        self._keys[key.public_key] = key
        return key

    def verify(self, public_key: bytes, message: bytes, signature: bytes, /) -> bool:
        """As `primitives.bls.verify`."""
        return self.fast_aggregate_verify([public_key], message, signature)

    def aggregate(self, signatures: Sequence[bytes], /) -> bytes:
        """As `primitives.bls.aggregate`."""
        if not signatures or any(len(s) != SIGNATURE_BYTES for s in signatures):
            raise RemoteError("no signature")
        return _add(signatures)

    def fast_aggregate_verify(
        self, public_keys: Sequence[bytes], message: bytes, signature: bytes, /
    ) -> bool:
        """As `primitives.bls.fast_aggregate_verify`."""
        self.pairings += 1
        keys = [self._keys.get(public_key) for public_key in public_keys]
        known = [key for key in keys if key is not None]
        if not keys or len(known) < len(keys):
            return False
        return _add([key.sign(message) for key in known]) == signature

    def verify_batch(
        self, items: Sequence[tuple[Sequence[bytes], bytes, bytes]], /
    ) -> bool:
        """As `primitives.bls.verify_batch`."""
        checks = [self.fast_aggregate_verify(*item) for item in items]
        return bool(checks) and all(checks)


class RealKeys:
    """BLS12-381, as the nodes use it."""

    scheme: SignatureScheme = bls

    def make_key(self, seed: object) -> Signer:
        """Return the key that follows from `seed`."""
        return make_real_key(repr(seed))


@cache
def make_real_key(seed: str) -> bls.BlsSecretKey:
    """Return a real key; they are dear, so each is made once in a process."""
    # A first byte of zero keeps the number below the order of the group.
    return bls.BlsSecretKey(bytes(1) + compute_hash("sim-key", seed.encode())[1:])


def _add(signatures: Sequence[bytes]) -> bytes:
    total = 0
    for signature in signatures:
        total ^= int.from_bytes(signature, "big")
    return total.to_bytes(SIGNATURE_BYTES, "big")


def _hash(data: bytes, size: int) -> bytes:
    return blake2b(data, digest_size=size).digest()
