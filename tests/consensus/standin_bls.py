"""
A stand-in for BLS: keyed hashes with the same interface and the same failures.

A signature is a hash of secret and message; the registry knows whose secret belongs to
which public key, as no real verifier does.  Sums are bitwise exclusive or, so they are
linear like the real ones.  Nobody who does not hold a secret can make a signature.
"""

from hashlib import blake2b

from primitives.errors import RemoteError


class StandinKey:
    """A secret; known to the registry that made it."""

    def __init__(self, secret):
        self._secret = secret
        self.public_key = blake2b(b"public" + secret, digest_size=48).digest()

    def sign(self, message):
        """Return 96 bytes that only this secret gives."""
        half = blake2b(message, key=self._secret, digest_size=48).digest()
        return half + blake2b(half, digest_size=48).digest()


class StandinScheme:
    """Verifies by computing what the secret's owner would have signed."""

    def __init__(self):
        self._keys = {}
        self.pairings = 0

    def make_key(self, seed):
        """Return a key that follows from `seed`."""
        key = StandinKey(blake2b(repr(seed).encode(), digest_size=32).digest())
        self._keys[key.public_key] = key
        return key

    def verify(self, public_key, message, signature):
        """As `primitives.bls.verify`."""
        return self.fast_aggregate_verify([public_key], message, signature)

    def aggregate(self, signatures):
        """As `primitives.bls.aggregate`."""
        if not signatures or any(len(s) != 96 for s in signatures):
            raise RemoteError("no signature")
        return _add(signatures)

    def fast_aggregate_verify(self, public_keys, message, signature):
        """As `primitives.bls.fast_aggregate_verify`."""
        self.pairings += 1
        keys = [self._keys.get(public_key) for public_key in public_keys]
        if not keys or None in keys:
            return False
        return _add([key.sign(message) for key in keys]) == signature


def _add(signatures):
    total = 0
    for signature in signatures:
        total ^= int.from_bytes(signature, "big")
    return total.to_bytes(96, "big")
