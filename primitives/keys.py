"""
Ed25519 keys of accounts, nodes and session signers.

libsodium refuses small-order keys and non-canonical signatures and releases the GIL;
a verification costs about 130 microseconds.
"""

from dataclasses import dataclass, field

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from primitives.hashing import compute_hash


@dataclass(frozen=True, slots=True)
class SecretKey:
    """An Ed25519 secret key; never shown by repr, never encoded by the codec."""

    seed: bytes = field(repr=False)
    """RFC 8032 seed, 32 bytes."""
    public_key: bytes = field(init=False)
    """32 bytes; also the account's address."""
    _signing_key: SigningKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signing_key = SigningKey(self.seed)
        object.__setattr__(self, "_signing_key", signing_key)
        object.__setattr__(self, "public_key", bytes(signing_key.verify_key))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._signing_key.sign(message).signature

    def derive(self, purpose: str) -> "SecretKey":
        """Return another key that follows from this one and `purpose` only."""
        return SecretKey(compute_hash("derive-key", self.seed, purpose.encode()))


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is `public_key`'s over `message`; never raises."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
